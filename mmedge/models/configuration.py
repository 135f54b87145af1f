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

    modalities: name -> {"encoder": name of an encoder, "width": its width, "preprocess": the parameters of
        the preprocessing that makes its tensor}; the order is the order of the presence mask.
    fusion: "gated" or "sum". fusion_dim: features of the fused embedding. head: "classification".
    dropout: probability, between the fusion and the last layer. id2label, label2id: the classes.
    """

    model_type = "mmedge"

    modalities: dict[str, Any] = field(default_factory=dict)
    fusion: str = "gated"
    fusion_dim: int = 128
    head: str = "classification"
    dropout: float = 0.0

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


def tensor_shape(preprocess: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape, without the batch, of the tensor that preprocessing parameters produce:
    image [channels, height, width], log-mel [n_mels, frames].

    Raises:
        InvalidArgument: wrong parameters, or audio of any length, which has no fixed shape.
    """
    shape = Preprocessor(preprocess).shape
    if -1 in shape:
        raise InvalidArgument("audio of any length ('samples': 0) has no fixed shape: give a window length in samples")
    return shape
