"""What a search draws a recipe's values from."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Annotated

from pydantic import Discriminator, Field, Tag, model_validator

from mmedge.training.augment.options import Strict

Scalar = bool | int | float | str


class Range(Strict):
    """Values between two, both included: whole numbers if both are."""

    low: int | float
    """The smallest."""
    high: int | float
    """The largest."""
    log: bool = False
    """Evenly in the logarithm."""

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(f"found {self.low} to {self.high}; expected low < high, above 0 if log")
        return self


Choices = Annotated[list[Scalar], Field(min_length=1)]
Space = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")],
    Discriminator(lambda value: "range" if isinstance(value, (dict, Range)) else "choices"),
]


def values_tried(space: Range | list[Scalar]) -> Sequence[Scalar]:
    """Every choice; of a range all whole numbers, or as many as are soon checked."""
    if not isinstance(space, Range):
        return space
    low, high = space.low, space.high
    if isinstance(low, int) and isinstance(high, int):
        parts = min(high - low, 64)
        return sorted({low + 1, *(low + (high - low) * part // parts for part in range(parts + 1))})
    return low, high, low + (high - low) / pi  # the last is no whole number


def expected_of_space(where: list[str | int]) -> str:
    """What stands at a place inside a space, as pydantic names it."""
    if where == ["choices"]:
        return "a range, {low, high}, or a list of at least one choice"
    if where[0] == "choices":
        return "a number, a string, true or false"
    return "true or false" if where[1] == "log" else "a number"
