"""log-mel, MFCC and resampling against independent judges: librosa, SciPy and NumPy, all in float64."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import LOG_MEL

from mmedge.runtime import Audio, Preprocessor
from mmedge.runtime.errors import DataError, InvalidArgument

MFCC = {**LOG_MEL, "type": "mfcc", "log": "db", "n_mfcc": 20}
CHANGES: list[dict[str, Any]] = [
    {},
    {"mel_scale": "htk", "mel_norm": "none"},
    {"n_fft": 512, "win_length": 512, "n_mels": 80, "f_min": 0.0, "f_max": 8000.0},
    {"n_fft": 512, "win_length": 512, "n_mels": 80, "mel_scale": "htk", "mel_norm": "none"},
    {"hop_length": 240, "n_mels": 23},
    {"n_fft": 512, "win_length": 320, "hop_length": 100},
    {"n_fft": 256, "win_length": 200, "hop_length": 80, "n_mels": 40},
    {"n_fft": 320, "win_length": 320, "n_mels": 40},
    {"n_fft": 384, "win_length": 384, "n_mels": 40},
    {"n_fft": 1024, "win_length": 1024, "hop_length": 256, "n_mels": 128},
    {"n_fft": 30, "win_length": 30, "hop_length": 10, "n_mels": 4},
    {"hop_length": 1},
    {"hop_length": 700},
    {"power": 1.0},
    {"center": False},
    {"pad_mode": "constant"},
    {"drop_last": True},
    {"log": "log10"},
    {"log": "db"},
    {"log": "db", "power": 1.0},
]


def noise(count: int, seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, count).astype(np.float32)


def mel_energies(samples: npt.NDArray[np.float32], parameters: dict[str, Any]) -> npt.NDArray[np.float64]:
    """librosa's answer, in float64."""
    energies: npt.NDArray[np.float64] = librosa.feature.melspectrogram(
        y=samples.astype(np.float64),
        sr=parameters["sample_rate"],
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
    return np.maximum(energies, parameters["floor"])


def log_mel(samples: npt.NDArray[np.float32], parameters: dict[str, Any]) -> npt.NDArray[np.float64]:
    decibels = librosa.power_to_db if parameters["power"] == 2 else librosa.amplitude_to_db
    logarithms = {"natural": np.log, "log10": np.log10, "db": lambda x: decibels(x, amin=1e-30, top_db=None)}
    values: npt.NDArray[np.float64] = logarithms[parameters["log"]](mel_energies(samples, parameters))
    if parameters["center"] and parameters["drop_last"]:
        values = values[:, : len(samples) // parameters["hop_length"]]
    return values


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_log_mel_follows_librosa_to_the_edge_frames(change: dict[str, Any]) -> None:
    parameters = {**LOG_MEL, **change}
    samples = noise(4000 if parameters["hop_length"] == 1 else 16000)
    expected = log_mel(samples, parameters)
    found = Preprocessor(parameters)(Audio(samples, 16000))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4


TIME = np.arange(16000) / 16000
LOUD_BESIDE_QUIET = {
    "tone between bins": 0.5 * np.sin(2 * np.pi * 1013 * TIME),
    "tone near Nyquist": np.sin(2 * np.pi * 7777.7 * TIME),
    "hum over noise": 0.5 * np.sin(2 * np.pi * 100 * TIME) + noise(16000) / 1000,
    "offset over noise": 0.5 + noise(16000) / 1000,
}


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("n_fft", [256, 320, 384, 400, 480, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("name", LOUD_BESIDE_QUIET)
def test_what_is_quiet_beside_something_loud_is_as_near_as_the_loud_allows(name: str, n_fft: int, power: float) -> None:
    samples = LOUD_BESIDE_QUIET[name].astype(np.float32)
    parameters = {**LOG_MEL, "n_fft": n_fft, "win_length": n_fft, "center": False, "power": power}
    parameters |= {"mel_norm": "none", "floor": 1e-30}
    found = np.exp(Preprocessor(parameters)(Audio(samples, 16000)).astype(np.float64)) ** (1 / power)
    expected = mel_energies(samples, parameters) ** (1 / power)
    bins = librosa.stft(samples.astype(np.float64), n_fft=n_fft, hop_length=160, center=False)
    assert (np.abs(found - expected) / np.abs(bins).max(axis=0)).max() < 1e-6


ISA_SCRIPT = """
import json, sys
import numpy as np
from mmedge.runtime import Audio, Preprocessor
samples = np.load(sys.argv[1])
found = [Preprocessor(parameters)(Audio(samples, 16000)) for parameters in json.loads(sys.argv[2])]
np.savez(sys.argv[3], *found)
"""


@pytest.mark.parametrize("isa", ["avx2", "sse4", "ssse3"])
def test_every_instruction_set_follows_librosa(isa: str, tmp_path: Path) -> None:
    samples = noise(16000)
    np.save(tmp_path / "samples.npy", samples)
    every = [{**LOG_MEL, **change} for change in CHANGES if change.get("hop_length") != 1]
    command = [
        sys.executable,
        "-c",
        ISA_SCRIPT,
        str(tmp_path / "samples.npy"),
        json.dumps(every),
        str(tmp_path / "out"),
    ]
    subprocess.run(command, check=True, env={**os.environ, "MMEDGE_MAX_ISA": isa})
    found = np.load(tmp_path / "out.npz")
    for parameters, name in zip(every, found.files, strict=True):
        assert np.abs(found[name] - log_mel(samples, parameters)).max() < 1e-4, parameters


@pytest.mark.parametrize("lifter", [0, 22])
@pytest.mark.parametrize("change", [{}, {"n_fft": 512, "n_mels": 40, "mel_scale": "htk"}, {"n_mfcc": 64}], ids=str)
def test_mfcc_follows_librosa(change: dict[str, Any], lifter: int) -> None:
    parameters = {**MFCC, **change}
    samples = noise(16000)
    expected = librosa.feature.mfcc(
        S=log_mel(samples, parameters), n_mfcc=parameters["n_mfcc"], dct_type=2, norm="ortho", lifter=lifter
    )
    found = Preprocessor({**parameters, "lifter": lifter})(Audio(samples, 16000))
    assert found.shape == expected.shape == (parameters["n_mfcc"], 101)
    assert np.abs(found - expected).max() < (2e-3 if lifter else 3e-4)


def test_without_a_lifter_the_cepstrum_is_as_it_is() -> None:
    samples = noise(8000)
    plain, zero = Preprocessor(MFCC), Preprocessor({**MFCC, "lifter": 0})
    assert plain.shape == (20, -1)
    np.testing.assert_array_equal(plain(Audio(samples, 16000)), zero(Audio(samples, 16000)))


def half_silent() -> npt.NDArray[np.float32]:
    samples = np.zeros(16000, np.float32)
    samples[4000:9000] = noise(5000, 2)
    return samples


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("log", ["natural", "log10", "db"])
def test_the_range_is_of_the_clip(log: str, power: float) -> None:
    samples = half_silent()
    plain = Preprocessor({**LOG_MEL, "log": log, "power": power})(Audio(samples, 16000))
    floored = Preprocessor({**LOG_MEL, "log": log, "power": power, "dynamic_range_db": 40.0})(Audio(samples, 16000))
    # Of an amplitude 20 dB are a factor of 10, of a power 10 dB.
    unit = {"natural": power * np.log(10) / 20, "log10": power / 20, "db": 1.0}[log]
    np.testing.assert_allclose(floored, np.maximum(plain, plain.max() - 40 * unit), atol=1e-4)


def test_the_normalisations_are_as_numpy_does_them() -> None:
    samples = half_silent()
    ranged = {**LOG_MEL, "log": "db", "dynamic_range_db": 40.0}
    plain = Preprocessor(ranged)(Audio(samples, 16000)).astype(np.float64)
    clip = Preprocessor({**ranged, "normalize": "clip"})(Audio(samples, 16000))
    np.testing.assert_allclose(clip, (plain - plain.mean()) / plain.std(), atol=1e-4)
    rows = Preprocessor({**ranged, "normalize": "per_feature"})(Audio(samples, 16000))
    expected = (plain - plain.mean(axis=1, keepdims=True)) / plain.std(axis=1, keepdims=True)
    np.testing.assert_allclose(rows, expected, atol=1e-4)
    fixed = Preprocessor({**ranged, "mean": -4.25, "std": 4.5})(Audio(samples, 16000))
    np.testing.assert_allclose(fixed, (plain + 4.25) / 4.5, atol=1e-5)


def test_cepstra_are_made_after_the_range_and_normalised_last() -> None:
    samples = half_silent()
    ranged = {**MFCC, "dynamic_range_db": 40.0}
    bands = log_mel(samples, LOG_MEL | {"log": "db"})
    cepstra = librosa.feature.mfcc(S=np.maximum(bands, bands.max() - 40), n_mfcc=20)
    np.testing.assert_allclose(Preprocessor(ranged)(Audio(samples, 16000)), cepstra, atol=2e-3)
    found = Preprocessor({**ranged, "normalize": "per_feature"})(Audio(samples, 16000))
    expected = (cepstra - cepstra.mean(axis=1, keepdims=True)) / cepstra.std(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("rate", [8000, 22050, 32000, 44100, 48000])
def test_a_resampled_clip_is_what_soxr_makes_of_it(rate: int) -> None:
    samples = noise(rate)
    expected = Preprocessor(LOG_MEL)(Audio(soxr.resample(samples, rate, 16000, quality="HQ"), 16000))
    preprocessor = Preprocessor(LOG_MEL)
    for _ in range(2):  # the resampler is kept
        found = preprocessor(Audio(samples, rate))
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-3


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


@settings(max_examples=120, deadline=None)
@given(
    size=st.sampled_from(
        [(400, 160), (512, 160), (512, 100), (256, 300), (320, 160), (400, 1000), (384, 160), (30, 7)]
    ),
    framing=st.tuples(st.booleans(), st.sampled_from(["reflect", "constant"]), st.booleans()),
    count=st.integers(1, 6000),
    cuts=st.lists(st.integers(0, 6000), max_size=12),
    rate=st.sampled_from([16000, 16000, 48000, 22050]),
    integers=st.booleans(),
    kind=st.sampled_from([{}, {"type": "mfcc", "n_mfcc": 13}, {"mean": -4.0, "std": 2.0}]),
)
def test_a_stream_cut_anywhere_equals_the_whole_clip_to_the_bit(
    size: tuple[int, int],
    framing: tuple[bool, str, bool],
    count: int,
    cuts: list[int],
    rate: int,
    integers: bool,
    kind: dict[str, Any],
) -> None:
    parameters = {**LOG_MEL, **kind, "n_fft": size[0], "win_length": size[0], "hop_length": size[1], "n_mels": 20}
    parameters |= {"center": framing[0]}
    if framing[0]:
        parameters |= {"pad_mode": framing[1], "drop_last": framing[2]}
    samples = noise(count, count)
    clip = (samples * 32767).astype(np.int16) if integers else samples
    edges = [0, *sorted(min(cut, count) for cut in cuts), count]
    stream = Preprocessor(parameters)
    for _ in range(2):  # the second stream must not know of the first
        pieces = [stream.push(Audio(clip[a:b], rate)) for a, b in pairwise(edges)]
        try:
            expected = Preprocessor(parameters)(Audio(clip, rate))
        except DataError:
            with pytest.raises(DataError, match="too short"):
                stream.end()
            continue
        pieces.append(stream.end())
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), expected)


def test_a_clip_of_samples_by_channels_is_averaged_and_channels_first_refused() -> None:
    preprocessor = Preprocessor(LOG_MEL)
    tone = np.sin(np.arange(48000) / 20).astype(np.float32)
    mono = preprocessor(Audio(tone, 48000))
    loud = noise(16000)
    for channels in range(1, 9):
        same = preprocessor(Audio(np.repeat(loud[:, None], channels, axis=1), 16000))
        np.testing.assert_allclose(same, preprocessor(Audio(loud, 16000)), atol=1e-4)
    np.testing.assert_array_equal(preprocessor(Audio(np.stack([tone, tone], axis=1), 48000)), mono)
    silent = preprocessor(Audio(np.stack([tone, -tone], axis=1), 48000))
    np.testing.assert_allclose(silent, np.log(1e-10), atol=1e-4)
    for ambiguous in (np.zeros((2, 48000), np.float32), np.zeros((2, 2), np.float32)):
        with pytest.raises(InvalidArgument, match="channels first"):
            preprocessor(Audio(ambiguous, 48000))


def test_a_piece_of_a_stream_may_have_fewer_samples_than_channels() -> None:
    samples = noise(4000)
    stereo = np.stack([samples, samples], axis=1)
    stream = Preprocessor(LOG_MEL)
    pieces = [stream.push(Audio(stereo[a : a + 1], 16000)) for a in range(8)]
    pieces += [stream.push(Audio(piece, 16000)) for piece in np.split(stereo[8:], range(5, 3992, 97))]
    found = np.concatenate([*pieces, stream.end()], axis=1)
    np.testing.assert_array_equal(found, Preprocessor(LOG_MEL)(Audio(stereo, 16000)))
    with pytest.raises(InvalidArgument, match="at most 8 channels"):
        stream.push(Audio(np.zeros((2, 160), np.float32), 16000))


@pytest.mark.parametrize("rate", [16000.5, 16000.0, "16000", None, 0, 999, 768001, 1 << 40])
def test_a_sample_rate_that_is_none_is_named(rate: Any) -> None:
    expected = f"found a sample rate of {re.escape(repr(rate))}; expected a whole number of Hz from 1000 to 768000"
    for use in (Preprocessor(LOG_MEL), Preprocessor(LOG_MEL).push):
        with pytest.raises(InvalidArgument, match=expected):
            use(Audio(noise(4000), rate))


def test_a_sample_rate_may_be_of_numpy() -> None:
    expected = Preprocessor(LOG_MEL)(Audio(noise(4000), 16000))
    np.testing.assert_array_equal(Preprocessor(LOG_MEL)(Audio(noise(4000), np.int64(16000))), expected)  # type: ignore[arg-type]


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


def test_what_means_nothing_without_center_is_refused_and_may_be_left_out() -> None:
    plain = {**LOG_MEL, "center": False}
    for key, value in (("pad_mode", "constant"), ("drop_last", True)):
        with pytest.raises(InvalidArgument, match=f'"{key}" is only for "center": true; leave it out'):
            Preprocessor({**plain, key: value})
        with pytest.raises(InvalidArgument, match=f'"{key}" is missing'):
            Preprocessor({name: LOG_MEL[name] for name in LOG_MEL if name != key})
    bare = {name: plain[name] for name in plain if name not in ("pad_mode", "drop_last")}
    clip = Audio(noise(4000), 16000)
    np.testing.assert_array_equal(Preprocessor(bare)(clip), Preprocessor(plain)(clip))


def test_a_wrong_audio_parameter_is_named() -> None:
    with pytest.raises(InvalidArgument, match='"win_length" is 1; expected a whole number from 2 to 400'):
        Preprocessor({**LOG_MEL, "win_length": 1})
    with pytest.raises(InvalidArgument, match='"hop_length" is -1; expected a whole number'):
        Preprocessor({**LOG_MEL, "hop_length": -1})
    with pytest.raises(InvalidArgument, match='unknown key "n_mfcc"'):
        Preprocessor({**LOG_MEL, "n_mfcc": 13})
    with pytest.raises(InvalidArgument, match='"n_mfcc" is missing'):
        Preprocessor({**LOG_MEL, "type": "mfcc"})
    with pytest.raises(InvalidArgument, match='"n_mfcc" is 65; expected a whole number from 1 to 64'):
        Preprocessor({**MFCC, "n_mfcc": 65})
    with pytest.raises(InvalidArgument, match='"std" is missing'):
        Preprocessor({**LOG_MEL, "mean": 0.0})
    with pytest.raises(InvalidArgument, match='"mean" and "std" with "normalize" "clip"'):
        Preprocessor({**LOG_MEL, "mean": 0.0, "std": 1.0, "normalize": "clip"})
    with pytest.raises(InvalidArgument, match='"std" is 0'):
        Preprocessor({**LOG_MEL, "mean": 0.0, "std": 0.0})
