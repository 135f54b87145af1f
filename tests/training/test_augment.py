from __future__ import annotations

import numpy as np
import pytest

from mmedge.runtime import Audio
from mmedge.training.augment import augment_audio, augment_image, mask_tensor
from mmedge.training.recipe import AudioAugment, ImageAugment

TONE = np.sin(2 * np.pi * 500 * np.arange(8000) / 8000).astype(np.float32) * 0.1


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_image_noise_keeps_shape_and_type_and_stays_within_its_deviation(shape: tuple[int, ...]) -> None:
    grey = np.full(shape, 128, np.uint8)
    deviations = []
    for seed in range(200):
        noisy = augment_image(grey, ImageAugment(noise=0.1), generator(seed))
        assert (noisy.shape, noisy.dtype) == (shape, np.uint8)
        deviations.append(noisy.std() / 255)
    assert max(deviations) < 0.12
    assert np.mean(deviations) == pytest.approx(0.05, abs=0.01)  # drawn evenly from 0 to 0.1


def test_coarse_noise_is_smooth_across_its_cells() -> None:
    noisy = augment_image(np.full((64, 64), 128, np.uint8), ImageAugment(noise=0.2, noise_size=8), generator(1))
    assert noisy.std() > 5
    assert np.abs(np.diff(noisy.astype(int), axis=1)).mean() < noisy.std() / 3


def test_an_image_is_shifted_by_whole_pixels_with_its_edges_repeated() -> None:
    columns = np.tile(np.arange(10, dtype=np.uint8), (10, 1))
    found = {int(augment_image(columns, ImageAugment(shift=2), generator(seed))[0, 5]) for seed in range(60)}
    assert found == {3, 4, 5, 6, 7}


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    pixels = generator().integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(augment_image(pixels, ImageAugment(), generator()), pixels)
    np.testing.assert_array_equal(augment_audio(Audio(TONE, 8000), 1.0, AudioAugment(), generator()).samples, TONE)
    tensor = generator().normal(size=(4, 9)).astype(np.float32)
    np.testing.assert_array_equal(mask_tensor(tensor, AudioAugment(), generator()), tensor)


def test_audio_noise_has_the_level_asked_for_below_the_active_part() -> None:
    half = np.concatenate([TONE[:4000], np.zeros(4000, np.float32)])
    noisy = augment_audio(Audio(half, 8000), 1.0, AudioAugment(snr_db=(10, 10)), generator()).samples
    noise = noisy - half
    assert 10 * np.log10(np.mean(TONE**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.3)


def test_a_short_clip_is_filled_to_the_window_before_it_moves() -> None:
    starts = set()
    for seed in range(40):
        moved = augment_audio(Audio(TONE[:2000] + 1, 8000), 1.0, AudioAugment(shift=0.1), generator(seed)).samples
        assert len(moved) == 8000
        starts.add(int(np.flatnonzero(moved)[0]))
    assert min(starts) == 0
    assert 400 < max(starts) <= 800


@pytest.mark.parametrize("length", [1, 7, 80, 8000])
def test_silence_and_very_short_clips_stay_finite(length: int) -> None:
    augment = AudioAugment(shift=0.1, snr_db=(5, 25))
    for samples in (np.zeros(length, np.float32), np.ones(length, np.float32)):
        out = augment_audio(Audio(samples, 8000), 0.0, augment, generator()).samples
        assert len(out) == length
        assert np.isfinite(out).all()


def test_masks_cover_at_most_what_is_asked_for_and_never_the_original() -> None:
    tensor = generator().normal(size=(10, 20)).astype(np.float32)
    original = tensor.copy()
    for seed in range(50):
        masked = mask_tensor(tensor, AudioAugment(mask_bands=3, mask_frames=4), generator(seed))
        changed = masked != tensor
        assert changed.all(axis=1).sum() <= 3
        assert changed.all(axis=0).sum() <= 4
    np.testing.assert_array_equal(tensor, original)
