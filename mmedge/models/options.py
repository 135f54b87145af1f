"""What the options of encoders may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple


class _Rule(NamedTuple):
    holds: Callable[[Any], bool]
    expected: str


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # bool is an int to Python


def _above_zero(value: Any) -> bool:
    return _whole(value) and value > 0


def _strides(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_above_zero, value))


def _below_one(value: Any) -> bool:
    return (_whole(value) or isinstance(value, float)) and 0 <= value < 1


_ABOVE_ZERO = _Rule(_above_zero, "a whole number above 0")
_RULES = {
    "width": _ABOVE_ZERO,
    "layers": _ABOVE_ZERO,
    "heads": _ABOVE_ZERO,
    "vocab_size": _ABOVE_ZERO,
    "pad_token_id": _Rule(lambda value: _whole(value) and value >= 0, "a whole number, at least 0"),
    "strides": _Rule(_strides, "whole numbers above 0, one per convolution"),
    "pooling": _Rule(lambda value: value in ("flatten", "statistics"), "'flatten' or 'statistics'"),
    "dropout": _Rule(_below_one, "a probability, at least 0 and below 1"),
    "config": _Rule(lambda value: isinstance(value, Mapping), "keys and values of transformers' configuration"),
    "freeze": _Rule(lambda value: isinstance(value, bool), "true or false"),
}

# Of an image's tensor: what convolutions and patches run over, and what weights are multiplied with.
_TENSOR = {"layout": "planar", "dtype": "float32"}


def part_problems(part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is impossible of a modality's part of a configuration, each value seen alone: its key, and the fault."""
    for key, value in part.items():
        rule = _RULES.get(key)
        if rule is not None and not rule.holds(value):
            yield key, f"found {key} {value!r}; expected {rule.expected}"
    preprocess = part["preprocess"]
    if preprocess.get("type") == "image":
        for key, needed in _TENSOR.items():
            if preprocess.get(key, needed) != needed:
                yield (
                    "preprocess",
                    f"found {key} {preprocess[key]!r}; an encoder is trained on planar float32 tensors: expected "
                    f"{needed}, or the key left out",
                )
