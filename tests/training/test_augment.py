from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mmedge.runtime import Audio, Preprocessor
from mmedge.training.augment import (
    AudioAugment,
    ImageAugment,
    TextAugment,
    augment_audio,
    augment_image,
    augment_text,
    mask_tensor,
)

TONE = np.sin(2 * np.pi * 500 * np.arange(8000) / 8000).astype(np.float32) * 0.1


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_image_noise_keeps_shape_and_type_and_stays_within_its_deviation(shape: tuple[int, ...]) -> None:
    grey = np.full(shape, 128, np.uint8)
    deviations = []
    for seed in range(200):
        noisy, _ = augment_image(grey, ImageAugment(noise=0.1), generator(seed))
        assert (noisy.shape, noisy.dtype) == (shape, np.uint8)
        deviations.append(noisy.std() / 255)
    assert max(deviations) < 0.12
    assert np.mean(deviations) == pytest.approx(0.05, abs=0.01)  # drawn evenly from 0 to 0.1


def test_coarse_noise_is_smooth_across_its_cells() -> None:
    noisy, _ = augment_image(np.full((64, 64), 128, np.uint8), ImageAugment(noise=0.2, noise_size=8), generator(1))
    assert noisy.std() > 5
    assert np.abs(np.diff(noisy.astype(int), axis=1)).mean() < noisy.std() / 3


def test_an_image_is_shifted_by_whole_pixels_with_its_edges_repeated() -> None:
    columns = np.tile(np.arange(10, dtype=np.uint8), (10, 1))
    found = {int(augment_image(columns, ImageAugment(shift=2), generator(seed))[0][0, 5]) for seed in range(60)}
    assert found == {3, 4, 5, 6, 7}


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    pixels = generator().integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(augment_image(pixels, ImageAugment(), generator())[0], pixels)
    np.testing.assert_array_equal(augment_audio(Audio(TONE, 8000), 1.0, AudioAugment(), generator()).samples, TONE)
    assert augment_text("as it  is", TextAugment(), generator()) == "as it  is"
    tensor = generator().normal(size=(4, 9)).astype(np.float32)
    np.testing.assert_array_equal(mask_tensor(tensor, AudioAugment(), generator()), tensor)


def test_audio_noise_has_the_level_asked_for_below_the_active_part() -> None:
    half = np.concatenate([TONE[:4000], np.zeros(4000, np.float32)])
    noisy = augment_audio(Audio(half, 8000), 1.0, AudioAugment(snr_db=(10, 10)), generator()).samples
    noise = noisy - half
    assert 10 * np.log10(np.mean(TONE**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize("length", [2000, 8000])
def test_a_clip_moves_within_the_window_and_is_not_filled_up_to_it(length: int) -> None:
    clip, window = TONE[:length] + 1, np.zeros(8800 * 2, np.float32)
    window[4000 : 4000 + length] = clip
    places = set()
    for seed in range(80):
        moved = augment_audio(Audio(clip, 8000), 1.0, AudioAugment(shift=0.1), generator(seed)).samples
        by = int(np.flatnonzero(moved)[0])
        if by == 0:  # its start is cut off
            by = int(np.count_nonzero(moved)) - length
        assert len(moved) == min(max(length, length + by), 8000)
        np.testing.assert_array_equal(moved, window[4000 - by :][: len(moved)])
        places.add(by)
    assert -800 <= min(places) < -400
    assert 400 < max(places) <= 800


def test_nothing_is_left_of_a_clip_that_moves_out_of_the_window() -> None:
    moved = [
        augment_audio(Audio(TONE[:800] + 1, 8000), 1.0, AudioAugment(shift=0.9), generator(seed)) for seed in range(80)
    ]
    kept = [np.count_nonzero(audio.samples) for audio in moved]
    assert min(kept) == 0
    assert max(kept) == 800
    assert max(len(audio.samples) for audio in moved) <= 8000


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


def test_a_mask_moves_with_its_image() -> None:
    augment = ImageAugment(crop=(0.3, 1.0), shift=3, flip_horizontal=0.5, flip_vertical=0.5)
    pixels = generator().integers(0, 256, (24, 31), dtype=np.uint8)
    results = [augment_image(pixels, augment, generator(seed), pixels > 127) for seed in range(50)]
    for moved, mask in results:
        np.testing.assert_array_equal(mask, moved > 127)
    assert len({moved.tobytes() for moved, _ in results}) == 50


def test_crops_are_rectangles_of_the_image_with_the_share_and_ratio_asked_for() -> None:
    rows, columns = np.mgrid[0:100, 0:200]
    place = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    shares, ratios = [], []
    for seed in range(200):
        cropped, _ = augment_image(place, ImageAugment(crop=(0.25, 0.5)), generator(seed))
        height, width = cropped.shape[:2]
        top, left = cropped[0, 0, :2]
        np.testing.assert_array_equal(cropped, place[top : top + height, left : left + width])
        shares.append(height * width / 20000)
        ratios.append(width / height / 2)
    assert 0.24 < min(shares) < 0.27
    assert 0.48 < max(shares) < 0.51
    assert 0.74 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.35


def test_flips_are_as_likely_as_asked_for() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for augment, flipped in (
        (ImageAugment(flip_horizontal=0.25), pixels[:, ::-1]),
        (ImageAugment(flip_vertical=0.25), pixels[::-1]),
        (ImageAugment(transpose=0.25), pixels.T),
    ):
        found = [np.array_equal(augment_image(pixels, augment, generator(seed))[0], flipped) for seed in range(400)]
        assert np.mean(found) == pytest.approx(0.25, abs=0.06)


def smooth_colours() -> np.ndarray:
    """Colours of the middle range, which no factor drives out of 0 to 255."""
    return generator().integers(90, 160, (12, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_colour_changes_are_pillows_with_a_factor_from_the_range_asked_for(name: str, enhance: Any) -> None:
    pixels, factors = smooth_colours(), np.linspace(0.5, 1.5, 201)
    by = enhance(Image.fromarray(pixels))
    candidates = np.stack([np.asarray(by.enhance(factor), float) for factor in factors])
    chosen = []
    for seed in range(40):
        changed, _ = augment_image(pixels, ImageAugment(**{name: 0.4}), generator(seed))
        errors = np.abs(candidates - changed).max(axis=(1, 2, 3))
        assert errors.min() <= 2  # Pillow rounds the grey level, too
        chosen.append(factors[errors.argmin()])
    assert min(chosen) == pytest.approx(0.63, abs=0.06)
    assert max(chosen) == pytest.approx(1.37, abs=0.06)


def test_hue_turns_colours_and_keeps_their_brightness() -> None:
    pixels = smooth_colours()
    luma = np.asarray(Image.fromarray(pixels).convert("L"), float)
    distances = []
    for seed in range(40):
        turned, _ = augment_image(pixels, ImageAugment(hue=0.5), generator(seed))
        np.testing.assert_allclose(np.asarray(Image.fromarray(turned).convert("L"), float), luma, atol=2)
        distances.append(np.abs(turned.astype(int) - pixels).mean())
    assert min(distances) < 3
    assert max(distances) > 15
    grey = np.full((4, 4, 3), 99, np.uint8)
    np.testing.assert_array_equal(augment_image(grey, ImageAugment(hue=0.5), generator())[0], grey)


def test_speed_changes_pitch_and_length_alike() -> None:
    faster = [augment_audio(Audio(TONE, 8000), 0.0, AudioAugment(speed=(0.8, 1.25)), generator(s)) for s in range(200)]
    for audio in faster:
        assert len(audio.samples) / audio.sample_rate == pytest.approx(8000 / audio.sample_rate)
    rates = [audio.sample_rate / 8000 for audio in faster]
    assert min(rates) == pytest.approx(0.8, abs=0.02)
    assert max(rates) == pytest.approx(1.25, abs=0.02)


def test_a_faster_clip_is_heard_higher_and_filled_by_the_preprocessing() -> None:
    audio = augment_audio(Audio(TONE, 8000), 1.0, AudioAugment(speed=(1.5, 1.5)), generator())
    assert audio.sample_rate == 12000
    heard = Preprocessor({"type": "waveform", "sample_rate": 8000, "samples": 8000, "normalize": "none"})(audio)
    assert heard.shape == (8000,)
    assert not heard[8000 * 2 // 3 :].any()
    spectrum = np.abs(np.fft.rfft(heard))
    assert spectrum.argmax() == pytest.approx(750, abs=2)  # 500 Hz before


def test_gain_is_in_decibels() -> None:
    louder = [augment_audio(Audio(TONE, 8000), 0.0, AudioAugment(gain_db=(-6, 12)), generator(s)) for s in range(200)]
    gains = [20 * np.log10(np.abs(audio.samples).max() / np.abs(TONE).max()) for audio in louder]
    assert min(gains) == pytest.approx(-6, abs=0.3)
    assert max(gains) == pytest.approx(12, abs=0.3)


def test_words_are_dropped_as_often_as_asked_for() -> None:
    words = [f"w{number}" for number in range(50)]
    kept = [augment_text(" ".join(words), TextAugment(word_dropout=0.3), generator(seed)).split() for seed in range(60)]
    assert all(found == [word for word in words if word in found] for found in kept)
    assert np.mean([len(found) for found in kept]) == pytest.approx(50 * 0.7, abs=1.5)


@pytest.mark.parametrize("text", ["a b", "a  b", " a", "a ", "a\n", "\t a \u3000b "])
def test_a_word_stays_however_the_words_are_parted(text: str) -> None:
    kept = {augment_text(text, TextAugment(word_dropout=0.99), generator(seed)) for seed in range(50)}
    assert kept <= {"a", "b", "a b"}


@pytest.mark.parametrize("text", ["", "  "])
def test_a_text_of_no_word_stays_as_it_is(text: str) -> None:
    assert augment_text(text, TextAugment(word_dropout=0.99), generator()) == text
