"""Random changes to a training clip and to its spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmedge.runtime import Audio
from mmedge.training.augment.options import AudioAugment

Tensor = npt.NDArray[np.float32]


def augment_audio(audio: Audio, window: float, augment: AudioAugment, random: np.random.Generator) -> Audio:
    """Mono float32 [n] -> [n], longer where it is moved later within `window` seconds; faster, moved, louder, noisy.

    What fills a clip up to the window is left to the preprocessing, as it is on a device: a resampler sees where the
    clip ends, and a waveform is normalised over the clip's own samples. Silence that a move puts before or after the
    sound is part of the clip.

    Speed is a sample rate that differs from the true one: the preprocessing, which resamples to the model's rate, does
    the rest (Ko et al. 2015, "Audio augmentation for speech recognition", 2).
    """
    samples, rate = audio
    if augment.speed is not None:
        rate = round(rate * random.uniform(*augment.speed))
    level = active_level(samples, rate)
    room = max(round(window * rate), len(samples))
    reach = min(round(augment.shift * rate), room)
    if reach:
        by = int(random.integers(-reach, reach + 1))
        samples = np.pad(samples, (max(by, 0), max(-by, 0)))[max(-by, 0) :][:room]
    if augment.snr_db is not None:
        deviation = level * 10 ** (-random.uniform(*augment.snr_db) / 20)
        samples = samples + random.standard_normal(len(samples), np.float32) * np.float32(deviation)
    if augment.gain_db is not None:
        samples = samples * np.float32(10 ** (random.uniform(*augment.gain_db) / 20))
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
