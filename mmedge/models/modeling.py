"""The fused model: an encoder per modality, a fusion, a head."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils.generic import ModelOutput

from mmedge.models.configuration import MmedgeConfig, tensor_shape
from mmedge.models.encoders import ENCODERS
from mmedge.models.fusion import FUSIONS
from mmedge.runtime.errors import CheckpointError, InvalidArgument, MmedgeError

T = TypeVar("T")


class ClassificationHead(nn.Module):
    """Dropout and a linear layer: float32 [B, dim] -> logits float32 [B, classes]."""

    def __init__(self, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


HEADS = {"classification": ClassificationHead}


@dataclass
class FusedOutput(ModelOutput):
    """loss: cross-entropy, a scalar, where labels were given; logits: float32 [B, classes]."""

    loss: Tensor | None = None
    logits: Tensor | None = None


class FusedModel(PreTrainedModel):
    """A classifier over any number of modalities, any of which may be absent from a sample.

    Raises:
        InvalidArgument: the configuration names no modality, or an unknown encoder, fusion or head.
    """

    config: MmedgeConfig
    config_class = MmedgeConfig
    base_model_prefix = "mmedge"
    main_input_name = "presence"
    # The open keywords of forward are tensors; HF's Trainer would put counts of its own among them.
    accepts_loss_kwargs = False

    def __init__(self, config: MmedgeConfig) -> None:
        super().__init__(config)
        if not config.modalities:
            raise InvalidArgument("the configuration names no modality: expected at least one under 'modalities'")
        encoders = {
            name: _look_up(ENCODERS, part["encoder"], "encoder")(tensor_shape(part["preprocess"]), part["width"])
            for name, part in config.modalities.items()
        }
        self.encoders = nn.ModuleDict(encoders)
        self.fusion: nn.Module = _look_up(FUSIONS, config.fusion, "fusion")(
            [encoder.features for encoder in encoders.values()], config.fusion_dim
        )
        self.head = _look_up(HEADS, config.head, "head")(config.fusion_dim, len(config.labels), config.dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own start, chosen per layer, instead of one normal distribution for all of them.
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()

    def forward(self, presence: Tensor, labels: Tensor | None = None, **tensors: Tensor) -> FusedOutput:
        """presence: bool [B, M] in the order of the modalities; labels: int64 [B]; one float32 tensor
        [B, ...shape] by the name of each modality (zeros where it is absent).

        Raises:
            InvalidArgument: a tensor is missing, or one is named like no modality.
        """
        if tensors.keys() != self.encoders.keys():
            raise InvalidArgument(f"tensors for {sorted(tensors)}: expected exactly {list(self.encoders)}")
        embedding = self.fusion([encoder(tensors[name]) for name, encoder in self.encoders.items()], presence)
        logits = self.head(embedding)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return FusedOutput(loss=loss, logits=logits)


AutoConfig.register("mmedge", MmedgeConfig)
AutoModel.register(MmedgeConfig, FusedModel)


def load_checkpoint(path: str | Path) -> FusedModel:
    """The model saved in the folder `path` by `save_pretrained`, in evaluation mode; reads local files only.

    Raises:
        CheckpointError: no such folder, not one of ours, or weights that do not fit the configuration.
    """
    path = Path(path)
    config = path / "config.json"
    try:
        kind = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint ({config.name}: {error}): expected a folder written by `mmedge train`"
        ) from error
    if kind != MmedgeConfig.model_type:
        raise CheckpointError(f"{path} holds a model of type {kind!r}: expected {MmedgeConfig.model_type!r}")
    try:
        model = FusedModel(MmedgeConfig.from_pretrained(path, local_files_only=True))
        model.load_state_dict(load_file(path / "model.safetensors"))
    except MmedgeError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be loaded, its files are damaged or of another model: {error}") from error
    model.train(False)
    return model


def _look_up(table: Mapping[str, T], name: Any, what: str) -> T:
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InvalidArgument(f"unknown {what} {name!r}: {hint}expected one of {', '.join(table)}")
