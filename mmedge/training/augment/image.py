"""Random changes to a training image and to the mask that belongs to it."""

from __future__ import annotations

from math import cos, sin, sqrt, tau
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmedge.training.augment.options import ImageAugment

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Tensor = npt.NDArray[np.float32]

# Rec. 601: red, green, blue -> luma, and the two axes of colour of YIQ.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float64)
_RGB = np.linalg.inv(_YIQ)


def augment_image(
    pixels: Pixels, augment: ImageAugment, random: np.random.Generator, mask: Mask | None = None
) -> tuple[Pixels, Mask | None]:
    """uint8 [H, W] or [H, W, 3] and its mask, bool [H, W], moved alike; smaller only if cropped."""
    planes: list[Any] = [pixels] if mask is None else [pixels, mask]
    if augment.crop is not None:
        rows, columns = _rectangle(pixels.shape[0], pixels.shape[1], augment.crop, random)
        planes = [plane[rows, columns] for plane in planes]
    if augment.shift:
        reach = augment.shift
        down, right = random.integers(0, 2 * reach + 1, 2)
        planes = [_shifted(plane, reach, down, right) for plane in planes]
    if augment.flip_horizontal and random.random() < augment.flip_horizontal:
        planes = [plane[:, ::-1] for plane in planes]
    if augment.flip_vertical and random.random() < augment.flip_vertical:
        planes = [plane[::-1] for plane in planes]
    if augment.transpose and random.random() < augment.transpose:
        planes = [plane.swapaxes(0, 1) for plane in planes]
    moved = _noisy(_coloured(planes[0], augment, random), augment, random)
    return np.ascontiguousarray(moved), None if mask is None else np.ascontiguousarray(planes[1])


def _rectangle(
    height: int, width: int, shares: tuple[float, float], random: np.random.Generator
) -> tuple[slice, slice]:
    """As the "Inception" crop (Szegedy et al. 2015, 6), the aspect ratio relative to the image's."""
    share, ratio = random.uniform(*shares), np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    tall = min(height, max(1, round(height * sqrt(share / ratio))))
    wide = min(width, max(1, round(width * sqrt(share * ratio))))
    top, left = int(random.integers(height - tall + 1)), int(random.integers(width - wide + 1))
    return slice(top, top + tall), slice(left, left + wide)


def _shifted(plane: npt.NDArray[Any], reach: int, down: int, right: int) -> npt.NDArray[Any]:
    height, width = plane.shape[:2]
    rows = np.clip(np.arange(down - reach, down - reach + height), 0, height - 1)
    columns = np.clip(np.arange(right - reach, right - reach + width), 0, width - 1)
    return plane.take(rows, axis=0).take(columns, axis=1)


def _coloured(pixels: Pixels, augment: ImageAugment, random: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation and hue are linear in red, green and blue: one matrix, one rounding."""
    jitter = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    if not any(jitter):
        return pixels
    reach = np.array(jitter)
    brightness, contrast, saturation, hue = np.array([1.0, 1.0, 1.0, 0.0]) + random.uniform(-reach, reach)
    offset = 0.0
    if augment.contrast:
        luma = pixels if pixels.ndim == 2 else pixels @ _LUMA
        offset = (1 - contrast) * brightness * float(luma.mean())
    if pixels.ndim == 2:
        return _rounded(pixels * np.float32(brightness * contrast) + np.float32(offset))
    turn = saturation * np.array([[cos(tau * hue), -sin(tau * hue)], [sin(tau * hue), cos(tau * hue)]])
    in_yiq = np.eye(3)
    in_yiq[1:, 1:] = turn
    matrix = brightness * contrast * (_RGB @ in_yiq @ _YIQ)
    return _rounded(pixels @ matrix.T.astype(np.float32) + np.float32(offset))


def _noisy(pixels: Pixels, augment: ImageAugment, random: np.random.Generator) -> Pixels:
    if not augment.noise:
        return pixels
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    deviation = random.uniform(0.0, augment.noise) * 255.0
    if augment.noise_size is None:
        return _rounded(pixels + random.standard_normal(pixels.shape, np.float32) * np.float32(deviation))
    cells = (channels, augment.noise_size, augment.noise_size)
    planes = [_enlarge(plane, width, height) for plane in random.normal(0.0, deviation, cells).astype(np.float32)]
    return _rounded(pixels + np.stack(planes, axis=-1).reshape(pixels.shape))


def _rounded(values: Tensor) -> Pixels:
    """Of values that nobody else needs."""
    np.clip(values, 0.0, 255.0, out=values)
    return np.rint(values, out=values).astype(np.uint8)


def _enlarge(plane: Tensor, width: int, height: int) -> Tensor:
    if plane.shape == (height, width):
        return plane
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))
