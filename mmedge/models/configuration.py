"""The configuration of a fused model: modalities, fusion and head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from transformers import PreTrainedConfig

from mmedge.runtime import Preprocessor
from mmedge.runtime.errors import InvalidArgument


class MmedgeConfig(PreTrainedConfig):
    """Everything that shapes a `FusedModel`; saved as `config.json` beside its weights.

    modalities: name of the input -> {"encoder": name of an encoder, its own options, "preprocess": the
        parameters of the preprocessing that makes its tensor}; the order is the order of the presence mask.
    fusion: a name of `FUSIONS`. fusion_dim: features of the fused embedding. fusion_layers, fusion_heads: of
        `cross_attention`.
    head: a name of `HEADS`. dropout: probability, inside fusion and head.
    multi_label: a sample may have any number of classes ("classification"). embedding_dim, metric, temperature: of
        "embedding". region_scale: cells of the relevance map per cell of the image encoder's grid, along each side;
        region_weight: of the region's loss beside the answer's ("vqa").
    id2label, label2id: the classes or answers.
    """

    model_type = "mmedge"

    modalities: dict[str, Any] = field(default_factory=dict)
    fusion: str = "gated"
    fusion_dim: int = 128
    fusion_layers: int = 2
    fusion_heads: int = 4
    head: str = "classification"
    dropout: float = 0.0
    multi_label: bool = False
    embedding_dim: int = 128
    metric: str = "cosine"
    temperature: float = 0.1
    region_scale: int = 1
    region_weight: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self.label2id = {label: index for index, label in enumerate(self.labels)}

    @property
    def labels(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return [str(label) for _, label in sorted((self.id2label or {}).items())]

    def to_json_string(self, use_diff: bool = True) -> str:
        # The base class sorts keys; the order of the modalities is the order of the presence mask.
        values = json.loads(super().to_json_string(use_diff=use_diff))
        return json.dumps(values | {"modalities": self.modalities}, indent=2) + "\n"


_MODALITIES = {"image": "image", "log_mel": "audio", "mfcc": "audio", "waveform": "audio", "text": "text"}


def modality_of(preprocess: Mapping[str, Any]) -> str:
    """What preprocessing parameters take: "image", "audio" or "text".

    Raises:
        InvalidArgument: a type that there is not.
    """
    kind = preprocess.get("type")
    if kind not in _MODALITIES:
        raise InvalidArgument(f"found preprocessing of type {kind!r}; expected one of {', '.join(_MODALITIES)}")
    return _MODALITIES[kind]


def tensor_shape(preprocess: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape, without the batch, of the tensor that preprocessing parameters produce:
    image [channels, height, width], log-mel [n_mels, frames], waveform [samples], text [tokens].

    Raises:
        InvalidArgument: wrong parameters, or audio of any length, which has no fixed shape.
    """
    if preprocess.get("type") == "text":  # the shape needs no tokenizer
        return (int(preprocess["max_length"]),)
    shape = Preprocessor(preprocess).shape
    if -1 in shape:
        raise InvalidArgument("audio of any length ('samples': 0) has no fixed shape: give a window length in samples")
    return shape
