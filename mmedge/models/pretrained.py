"""Encoders of the transformers library, from scratch or with published weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from mmedge.models.encoders import Encoder, Encoding, masked_mean
from mmedge.runtime.errors import InvalidArgument

_from_config: Callable[..., Any] = AutoModel.from_config


@dataclass(frozen=True)
class Architecture:
    """How one family of transformers models takes our tensors and gives its tokens.

    model_type: as transformers calls it. sizes: what of its configuration follows from a tensor's shape. encode: the
    model and a batch -> its encoding. arguments: of the model's constructor.
    """

    model_type: str
    sizes: Callable[[tuple[int, ...]], dict[str, Any]]
    encode: Callable[[Any, Tensor], Encoding]
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _grid(model: Any, x: Tensor) -> Encoding:
    output = model(pixel_values=x)
    grid = output.last_hidden_state
    return Encoding(output.pooler_output.flatten(1), grid.flatten(2).transpose(1, 2), grid=tuple(grid.shape[2:]))


def _patches(model: Any, x: Tensor) -> Encoding:
    hidden = model(pixel_values=x).last_hidden_state
    patch = model.config.patch_size
    return Encoding(hidden[:, 0], hidden[:, 1:], grid=(x.shape[2] // patch, x.shape[3] // patch))


def _spectrogram(model: Any, x: Tensor) -> Encoding:
    output = model(input_values=x.transpose(1, 2))
    return Encoding(output.pooler_output, output.last_hidden_state[:, 2:])  # after the class and distillation tokens


def _waveform(model: Any, x: Tensor) -> Encoding:
    hidden = model(input_values=x).last_hidden_state
    return Encoding(hidden.mean(dim=1), hidden)


def _text(model: Any, x: Tensor) -> Encoding:
    mask = x != model.config.pad_token_id
    hidden = model(input_ids=x, attention_mask=mask.long()).last_hidden_state
    return Encoding(masked_mean(hidden, mask), hidden, mask)


def _square(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"num_channels": shape[0], "image_size": shape[1:]}


_NO_POOLER = {"add_pooling_layer": False}  # a layer whose result nothing here reads

ARCHITECTURES = {
    "resnet": Architecture("resnet", lambda shape: {"num_channels": shape[0]}, _grid),
    "mobilenet_v2": Architecture("mobilenet_v2", lambda shape: {"num_channels": shape[0]}, _grid),
    "vit": Architecture("vit", _square, _patches, _NO_POOLER),
    "ast": Architecture(
        "audio-spectrogram-transformer",
        lambda shape: {"num_mel_bins": shape[0], "max_length": shape[1]},
        _spectrogram,
    ),
    # The mask of its own training would hide parts of the samples at random.
    "wav2vec2": Architecture("wav2vec2", lambda shape: {"apply_spec_augment": False}, _waveform),
    "bert": Architecture("bert", lambda shape: {}, _text, _NO_POOLER),
    "xlm-roberta": Architecture("xlm-roberta", lambda shape: {}, _text, _NO_POOLER),
}


def _encoding(architecture: Architecture, model: Any, shape: tuple[int, ...]) -> Encoding:
    if architecture.encode is not _text:
        return architecture.encode(model, torch.zeros(1, *shape))
    if model.device.type == "meta":  # a mask has to be looked at
        width = model.config.hidden_size
        return Encoding(torch.zeros(1, width), torch.zeros(1, *shape, width))
    token = 1 if model.config.pad_token_id == 0 else 0  # padding would take no position
    return architecture.encode(model, torch.full((1, *shape), token, dtype=torch.int32))


class TransformersEncoder(Encoder):
    """A transformers model behind the interface of `Encoder`.

    shape: of the input, as the preprocessing gives it. config: values of the family's own configuration; sizes that
    follow from `shape` need not be given. freeze: the weights stay as they are, and so do the statistics of its norms.
    """

    def __init__(
        self, shape: tuple[int, ...], *, architecture: Architecture, config: Mapping[str, Any], freeze: bool = False
    ) -> None:
        super().__init__()
        try:
            values = AutoConfig.for_model(architecture.model_type, **{**architecture.sizes(shape), **config})
            # Eager attention adds its mask, so that a text with nothing in it stays finite.
            self.model: Any = _from_config(values, attn_implementation="eager", **architecture.arguments)
            with torch.no_grad():  # for its shapes
                found = _encoding(architecture, self.model.eval(), shape)
        except Exception as error:  # of whatever class: those of its layers, of torch and of its own checks
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise InvalidArgument(
                f"transformers refuses this configuration of {architecture.model_type} ({said}); expected values that "
                "fit each other, such as a hidden_size that is a multiple of num_attention_heads"
            ) from error
        self.encode = architecture.encode
        self.freeze = freeze
        if freeze:
            self.model.requires_grad_(False)
        self.features = found.vector.shape[1]
        self.tokens, self.channels = found.tokens.shape[1:]
        self.grid = found.grid

    def train(self, mode: bool = True) -> TransformersEncoder:
        """As in nn.Module; a frozen model stays in evaluation mode."""
        super().train(mode and not self.freeze)
        return self

    def forward(self, x: Tensor) -> Encoding:
        return self.encode(self.model, x)
