"""Random changes to training data, on what a camera and a microphone deliver; NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmedge.runtime import Audio
from mmedge.training.recipe import AudioAugment, ImageAugment

Pixels = npt.NDArray[np.uint8]
Tensor = npt.NDArray[np.float32]


def augment_image(pixels: Pixels, augment: ImageAugment, random: np.random.Generator) -> Pixels:
    """uint8 [H, W] or [H, W, C] -> the same shape, shifted and noisy."""
    height, width = pixels.shape[:2]
    if augment.shift:
        reach = augment.shift
        down, right = random.integers(0, 2 * reach + 1, 2)
        edges = [(reach, reach), (reach, reach)] + [(0, 0)] * (pixels.ndim - 2)
        pixels = np.pad(pixels, edges, mode="edge")[down : down + height, right : right + width]
    if augment.noise:
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        cells = (height, width) if augment.noise_size is None else (augment.noise_size, augment.noise_size)
        deviation = random.uniform(0.0, augment.noise) * 255.0
        noise = random.normal(0.0, deviation, (channels, *cells)).astype(np.float32)
        planes = [_enlarge(plane, width, height) for plane in noise]
        noisy = pixels + np.stack(planes, axis=-1).reshape(pixels.shape)
        pixels = np.rint(np.clip(noisy, 0.0, 255.0)).astype(np.uint8)
    return pixels


def _enlarge(plane: Tensor, width: int, height: int) -> Tensor:
    if plane.shape == (height, width):
        return plane
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))


def augment_audio(audio: Audio, window: float, augment: AudioAugment, random: np.random.Generator) -> Audio:
    """Mono float32 [n] -> [n], or as many as `window` seconds hold if that is more; moved, noisy."""
    samples, rate = audio
    missing = max(0, round(window * rate) - len(samples))
    samples = np.pad(samples, (0, missing)).astype(np.float32)
    level = active_level(samples, rate)
    reach = min(round(augment.shift * rate), len(samples))
    if reach:
        by = int(random.integers(-reach, reach + 1))
        samples = np.pad(samples, (max(by, 0), max(-by, 0)))[max(-by, 0) :][: len(samples)]
    if augment.snr_db is not None:
        deviation = level * 10 ** (-random.uniform(*augment.snr_db) / 20)
        samples = samples + random.standard_normal(len(samples), np.float32) * np.float32(deviation)
    return Audio(np.ascontiguousarray(samples, np.float32), rate)


def active_level(samples: Tensor, rate: int) -> float:
    """Root mean square of the 10 ms blocks within 30 dB of the loudest; 0 for silence."""
    hop = max(1, rate // 100)
    power = np.mean(np.pad(samples, (0, -len(samples) % hop)).reshape(-1, hop) ** 2, axis=1)
    active = power[power >= power.max(initial=0.0) * 1e-3]
    return float(np.sqrt(active.mean())) if len(active) else 0.0


def mask_tensor(tensor: Tensor, augment: AudioAugment, random: np.random.Generator) -> Tensor:
    """float32 [n_mels, frames] with one run of bands and one of frames set to the mean (SpecAugment, Park
    et al. 2019).
    """
    masked: Tensor = tensor.copy()
    for axis, most in ((0, augment.mask_bands), (1, augment.mask_frames)):
        size = int(random.integers(0, min(most, tensor.shape[axis]) + 1))
        start = int(random.integers(0, tensor.shape[axis] - size + 1))
        where: list[Any] = [slice(None), slice(None)]
        where[axis] = slice(start, start + size)
        masked[tuple(where)] = tensor.mean()
    return masked
