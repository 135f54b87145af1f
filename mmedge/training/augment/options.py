"""What a recipe may say about augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """A part of a recipe: unknown keys, infinities and NaN are errors, and a key's docstring is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _in_order(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and value[0] > value[1]:
        raise ValueError(f"found {list(value)}; expected [lowest, highest]")
    return value


class ImageAugment(Strict):
    """Random changes to a training image; each draw has its own. A mask moves with its image."""

    crop: tuple[float, float] | None = None
    """A random rectangle with a share of the area drawn from this range and an aspect ratio drawn from 3/4 to 4/3 times
    the image's; the preprocessing brings it to size.
    """
    shift: NotNegative = 0
    """Moved by up to this many pixels in x and in y, edges repeated."""
    flip_horizontal: Fraction = 0.0
    """Probability of a mirror image, left and right exchanged."""
    flip_vertical: Fraction = 0.0
    """Probability of a mirror image, top and bottom exchanged."""
    transpose: Fraction = 0.0
    """Probability of a mirror image, rows and columns exchanged."""
    mirror_where: dict[str, bool | int | float | str] | None = None
    """Mirror only rows whose columns have these values: the others have another answer in a mirror; null: all rows."""
    brightness: BelowOne = 0.0
    """All values times a factor drawn from 1 - this to 1 + this."""
    contrast: BelowOne = 0.0
    """Distance from the mean grey times a factor drawn from 1 - this to 1 + this."""
    saturation: BelowOne = 0.0
    """Distance of each pixel from its grey times a factor drawn from 1 - this to 1 + this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Colours turned by up to this share of the circle, either way."""
    noise: Fraction = 0.0
    """Gaussian noise with a standard deviation drawn from 0 to this fraction of the full range."""
    noise_size: Positive | None = None
    """Cells of noise per side, enlarged to the image; null: one per pixel. For images that were enlarged themselves."""

    @field_validator("crop")
    @classmethod
    def _shares(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1] <= 1:
            raise ValueError(f"found {list(value)}; expected [smallest, largest] share of the area, above 0, at most 1")
        return value

    def mirrors(self, columns: Mapping[str, Any]) -> bool:
        """Whether a row with these columns may be flipped and transposed."""
        return all(columns.get(name) == value for name, value in (self.mirror_where or {}).items())


class AudioAugment(Strict):
    """Random changes to a training clip; each draw has its own."""

    speed: tuple[Annotated[float, Field(ge=0.5)], Annotated[float, Field(le=2)]] | None = None
    """Played faster by a factor drawn from this range, pitch included."""
    shift: Annotated[float, Field(ge=0)] = 0.0
    """Moved by up to this many seconds earlier or later, within the window: later with silence before it, earlier
    without its start and with as much silence after it. That silence belongs to the clip: noise covers it, and the
    `normalize` of a waveform counts it. For clips no longer than the window: of a longer one the loudest window is
    taken afterwards, wherever it was moved to."""
    gain_db: tuple[float, float] | None = None
    """Louder by a number of dB drawn from this range."""
    snr_db: tuple[float, float] | None = None
    """White noise over the clip at a level drawn from this range of dB below the level of the active part. What the
    preprocessing fills a short clip up with stays silent, as on a device."""
    mask_bands: NotNegative = 0
    """Up to this many neighbouring mel bands or coefficients set to the tensor's mean."""
    mask_frames: NotNegative = 0
    """Up to this many neighbouring frames set to the tensor's mean."""

    _ordered = field_validator("speed", "gain_db", "snr_db")(_in_order)


class TextAugment(Strict):
    """Random changes to a training text; each draw has its own."""

    word_dropout: BelowOne = 0.0
    """Probability that a word is left out; one always stays."""
