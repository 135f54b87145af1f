"""The log-mel kernel against independent judges: librosa and NumPy."""

from __future__ import annotations

from typing import Any

import librosa
import numpy as np
import pytest

from mmedge.runtime import Audio, Preprocessor
from mmedge.runtime.errors import DataError, InvalidArgument

LOG_MEL = {
    "type": "log_mel",
    "sample_rate": 16000,
    "samples": 0,
    "n_fft": 400,
    "win_length": 400,
    "hop_length": 160,
    "n_mels": 64,
    "f_min": 20.0,
    "f_max": 7600.0,
    "mel_scale": "slaney",
    "mel_norm": "slaney",
    "power": 2.0,
    "center": True,
    "pad_mode": "reflect",
    "drop_last": False,
    "log": "natural",
    "floor": 1e-10,
    "dynamic_range_db": 0.0,
    "normalize": "none",
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mel_scale": "htk", "mel_norm": "none"},
        {"n_fft": 512, "win_length": 320, "hop_length": 100},
        {"n_fft": 256, "win_length": 200, "hop_length": 80, "n_mels": 40},
        {"power": 1.0},
        {"center": False},
        {"pad_mode": "constant"},
    ],
    ids=str,
)
def test_log_mel_follows_librosa_to_the_edge_frames(change: dict[str, Any]) -> None:
    parameters = {**LOG_MEL, **change}
    samples = np.random.default_rng(1).normal(0, 0.1, 16000).astype(np.float32)
    spectrogram = librosa.feature.melspectrogram(
        y=samples.astype(np.float64),
        sr=16000,
        n_fft=parameters["n_fft"],
        win_length=parameters["win_length"],
        hop_length=parameters["hop_length"],
        center=parameters["center"],
        pad_mode=parameters["pad_mode"],
        power=parameters["power"],
        n_mels=parameters["n_mels"],
        fmin=parameters["f_min"],
        fmax=parameters["f_max"],
        htk=parameters["mel_scale"] == "htk",
        norm="slaney" if parameters["mel_norm"] == "slaney" else None,
    )
    expected = np.log(np.maximum(spectrogram, 1e-10))
    found = Preprocessor(parameters)(Audio(samples, 16000))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4


def test_the_range_and_the_normalisation_are_of_the_clip() -> None:
    samples = np.zeros(16000, np.float32)
    samples[4000:9000] = np.random.default_rng(2).normal(0, 0.1, 5000)
    plain = Preprocessor({**LOG_MEL, "log": "db"})(Audio(samples, 16000))
    floored = Preprocessor({**LOG_MEL, "log": "db", "dynamic_range_db": 40.0})(Audio(samples, 16000))
    np.testing.assert_allclose(floored, np.maximum(plain, plain.max() - 40), atol=1e-4)
    normalised = Preprocessor({**LOG_MEL, "log": "db", "dynamic_range_db": 40.0, "normalize": "clip"})(
        Audio(samples, 16000)
    )
    np.testing.assert_allclose(normalised, (floored - floored.mean()) / floored.std(), atol=1e-4)


def test_a_resampled_tone_keeps_its_mel_band() -> None:
    preprocessor = Preprocessor(LOG_MEL)
    for rate in (8000, 22050, 44100, 48000):
        clip = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
        reference = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
        found, expected = preprocessor(Audio(clip, rate)), preprocessor(Audio(reference, 16000))
        assert found.shape == expected.shape
        peak = expected[:, 50].argmax()
        assert found[:, 50].argmax() == peak
        assert np.abs(found[peak, 5:-5] - expected[peak, 5:-5]).max() < 0.01


def test_a_clip_of_samples_by_channels_is_averaged_and_channels_first_refused() -> None:
    preprocessor = Preprocessor(LOG_MEL)
    tone = np.sin(np.arange(48000) / 20).astype(np.float32)
    mono = preprocessor(Audio(tone, 48000))
    np.testing.assert_array_equal(preprocessor(Audio(np.stack([tone, tone], axis=1), 48000)), mono)
    silent = preprocessor(Audio(np.stack([tone, -tone], axis=1), 48000))
    np.testing.assert_allclose(silent, np.log(1e-10), atol=1e-4)
    for ambiguous in (np.zeros((2, 48000), np.float32), np.zeros((2, 2), np.float32)):
        with pytest.raises(InvalidArgument, match="channels first"):
            preprocessor(Audio(ambiguous, 48000))


def test_a_short_or_broken_clip_is_named() -> None:
    preprocessor = Preprocessor(LOG_MEL)
    with pytest.raises(DataError, match="empty"):
        preprocessor(Audio(np.zeros(0, np.float32), 16000))
    with pytest.raises(DataError, match="too short: 199 samples"):
        preprocessor(Audio(np.zeros(199, np.float32), 16000))
    broken = np.zeros(16000, np.float32)
    broken[77] = np.nan
    with pytest.raises(DataError, match="sample 77"):
        preprocessor(Audio(broken, 16000))
    with pytest.raises(InvalidArgument, match="float64"):
        preprocessor(Audio(np.zeros(16000), 16000))  # type: ignore[arg-type]


def test_a_wrong_parameter_is_named() -> None:
    with pytest.raises(InvalidArgument, match='"hop_length" is -1; expected a whole number'):
        Preprocessor({**LOG_MEL, "hop_length": -1})
