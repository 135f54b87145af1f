"""Every encoder by the name a configuration calls it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from transformers import AutoConfig

from mmedge.models.configuration import modality_of, tensor_shape
from mmedge.models.encoders import CnnEncoder, Encoder, TemporalCnnEncoder, TransformerEncoder
from mmedge.models.options import part_problems
from mmedge.models.pretrained import ARCHITECTURES, TransformersEncoder
from mmedge.runtime.errors import InvalidArgument

T = TypeVar("T")


@dataclass(frozen=True)
class EncoderFamily:
    """modality: what it encodes; rank: dimensions of the tensor it takes; build: a shape and options -> the encoder."""

    modality: str
    rank: int
    build: Callable[..., Encoder]


def _pretrained(modality: str, rank: int, name: str) -> EncoderFamily:
    return EncoderFamily(modality, rank, partial(TransformersEncoder, architecture=ARCHITECTURES[name]))


ENCODERS = {
    "cnn": EncoderFamily("image", 3, CnnEncoder),
    "resnet": _pretrained("image", 3, "resnet"),
    "mobilenet_v2": _pretrained("image", 3, "mobilenet_v2"),
    "vit": _pretrained("image", 3, "vit"),
    "temporal_cnn": EncoderFamily("audio", 2, TemporalCnnEncoder),
    "ast": _pretrained("audio", 2, "ast"),
    "wav2vec2": _pretrained("audio", 1, "wav2vec2"),
    "transformer": EncoderFamily("text", 1, TransformerEncoder),
    "bert": _pretrained("text", 1, "bert"),
    "xlm-roberta": _pretrained("text", 1, "xlm-roberta"),
}

# What a modality's part of a configuration says beside the encoder's own options.
_COMMON = ("encoder", "preprocess", "pretrained")


def build_encoder(part: Mapping[str, Any]) -> Encoder:
    """The encoder that `part` of a configuration's `modalities` describes, with new weights.

    Raises:
        InvalidArgument: an unknown encoder or option, one that is missing or impossible, or a preprocessing whose
            tensor it cannot take.
    """
    name = part.get("encoder")
    family = look_up(ENCODERS, name, "encoder")
    shape = tensor_shape(part["preprocess"])
    modality = modality_of(part["preprocess"])
    if family.modality != modality or family.rank != len(shape):
        raise InvalidArgument(
            f"encoder {name!r} takes {family.modality} as a tensor of rank {family.rank}; its preprocessing makes "
            f"{modality} of shape {list(shape)}"
        )
    options = {key: value for key, value in part.items() if key not in _COMMON}
    known = encoder_options(str(name))
    for key in options:
        look_up(dict.fromkeys(known), key, f"option of encoder {name!r},")
    for _, problem in part_problems(part):
        raise InvalidArgument(problem)
    try:
        return family.build(shape, **options)
    except TypeError as error:
        raise InvalidArgument(f"encoder {name!r}: {error}; its options are {', '.join(known)}") from error


def check_encoder(part: Mapping[str, Any]) -> None:
    """Build what `build_encoder` would, without its weights.

    Raises:
        InvalidArgument: as `build_encoder`.
    """
    with torch.device("meta"):
        build_encoder(part)


def config_keys(name: str) -> tuple[str, ...]:
    """What `config` of the encoder `name` may hold; nothing where it is none of transformers."""
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        return ()
    config = AutoConfig.for_model(architecture.model_type)
    return (*config.to_dict(), *config.attribute_map)


def encoder_options(name: str) -> list[str]:
    """What a configuration may say about the encoder `name` beside its preprocessing and its weights.

    Raises:
        InvalidArgument: an unknown encoder.
    """
    family = look_up(ENCODERS, name, "encoder")
    parameters = inspect.signature(family.build).parameters.values()
    return [found.name for found in parameters if found.kind is found.KEYWORD_ONLY and found.name != "architecture"]


def look_up(table: Mapping[str, T], name: Any, what: str) -> T:
    """The entry of `table` called `name`; InvalidArgument, with the nearest name, if there is none."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InvalidArgument(f"unknown {what} {name!r}: {hint}expected one of {', '.join(table)}")
