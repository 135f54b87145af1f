"""Samples as they go into the page: thumbnails, waveforms, short clips, regions. All of it bounded in size."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

from mmedge.data.folder import Sample
from mmedge.evaluation import Region
from mmedge.metrics import Box
from mmedge.runtime import Audio

LONGEST_SIDE = 160
_MOST_SAMPLES = 48_000  # 96 kB of a clip
_COLUMNS = 160
_MOST_TEXT = 600
_REGION_COLOR = (230, 90, 0)


@dataclass(frozen=True)
class Overlay:
    """What is drawn over an image, in pixels of its frame: the relevance map, the box found, the true mask's outline
    (a path of SVG in units of `cell` pixels).
    """

    map: str | None
    map_box: Box | None
    box: Box | None
    outline: str
    cell: tuple[float, float]


@dataclass(frozen=True)
class Picture:
    """A thumbnail as a data URL, and the frame's size."""

    href: str
    width: int
    height: int
    overlay: Overlay | None


@dataclass(frozen=True)
class Clip:
    """A clip as a data URL, its waveform as a path of SVG in [0, 160] x [-1, 1], scaled to the loudest sample, its
    length, and how much of it is there.
    """

    href: str
    waveform: str
    seconds: float
    shown: float


@dataclass(frozen=True)
class Media:
    """A sample's modalities, None where it lacks one."""

    image: Picture | None
    audio: Clip | None
    text: str | None


def load_media(sample: Sample, region: Region | None = None, masked: bool = False) -> Media:
    """Decode a sample for the page. `masked`: with the outline of its mask.

    Raises:
        DataError: a file is gone or damaged.
    """
    inputs = sample.load()
    overlay = None
    if "image" in inputs and masked:
        overlay = _overlay(region, sample.mask())
    text = inputs.get("text")
    if text is not None and len(text) > _MOST_TEXT:
        text = text[:_MOST_TEXT] + "…"
    return Media(
        _picture(inputs["image"], overlay) if "image" in inputs else None,
        _clip(inputs["audio"]) if "audio" in inputs else None,
        text,
    )


def _picture(pixels: npt.NDArray[np.uint8], overlay: Overlay | None) -> Picture:
    image = Image.fromarray(pixels)
    width, height = image.size
    small = max(width, height) <= LONGEST_SIDE
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    # Small ones without loss, since every pixel of theirs is seen.
    return Picture(_image_url(image, "PNG" if small else "JPEG"), width, height, overlay)


def _image_url(image: Image.Image, format: str) -> str:
    file = io.BytesIO()
    image.save(file, format)
    return f"data:image/{format.lower()};base64,{b64encode(file.getvalue()).decode()}"


def _overlay(region: Region | None, mask: npt.NDArray[np.bool_] | None) -> Overlay | None:
    if region is None and mask is None:
        return None
    outline, cell = "", (1.0, 1.0)
    if mask is not None:
        step = -(-max(mask.shape) // LONGEST_SIDE)
        small = mask[::step, ::step]
        outline, cell = _outline(small), (mask.shape[1] / small.shape[1], mask.shape[0] / small.shape[0])
    if region is None:
        return Overlay(None, None, None, outline, cell)
    colors = np.empty((*region.map.shape, 4), np.uint8)
    colors[..., :3] = _REGION_COLOR
    colors[..., 3] = np.clip(region.map, 0, 1) * 180
    image = Image.fromarray(colors)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return Overlay(_image_url(image, "PNG"), region.map_box, region.box, outline, cell)


def _outline(mask: npt.NDArray[np.bool_]) -> str:
    """The borders between true and false pixels."""
    path = []
    for across, draw in ((mask, "M{start} {line}h{length}"), (mask.T, "M{line} {start}v{length}")):
        border = np.diff(np.pad(across, 1).astype(np.int8), axis=0)[:, 1:-1] != 0
        for line, row in enumerate(border):
            turns = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0))
            for start, end in zip(turns[::2], turns[1::2], strict=True):
                path.append(draw.format(start=start, line=line, length=end - start))
    return "".join(path)


def _clip(audio: Audio) -> Clip:
    samples: npt.NDArray[Any] = np.asarray(audio.samples)
    mono = samples.reshape(len(samples), -1).mean(axis=1) / (32768 if samples.dtype == np.int16 else 1)
    shown = mono[:_MOST_SAMPLES]
    file = io.BytesIO()
    soundfile.write(file, shown, audio.sample_rate, format="WAV", subtype="PCM_16")
    loudest = float(np.abs(mono).max(initial=0.0)) or 1.0
    columns = [part / loudest for part in np.array_split(mono, _COLUMNS) if part.size]
    upper = [f"{x} {-part.max():.2f}" for x, part in enumerate(columns)]
    lower = [f"{x} {-part.min():.2f}" for x, part in enumerate(columns)]
    return Clip(
        f"data:audio/wav;base64,{b64encode(file.getvalue()).decode()}",
        f"M{'L'.join([*upper, *lower[::-1]])}Z" if columns else "",
        len(mono) / audio.sample_rate,
        len(shown) / audio.sample_rate,
    )
