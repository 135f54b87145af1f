"""What log-mel, one hop of a stream and resampling cost, next to librosa, torch, kaldi-native-fbank, soxr and SciPy.

All figures are microseconds of CPU time of one thread (time.thread_time_ns), medians over interleaved rounds: each
round calls every contender once more, in batches of about 2 ms where a call is short. Ours goes through the C ABI with
prepared structs, so a call's cost is in its figure (some 0.3 us).

  librosa         librosa.feature.melspectrogram and a logarithm, as one calls it; it makes its filters each time.
  librosa_stft    librosa.stft and a product with filters made beforehand, then a logarithm
  torch           torch.stft, a product with filters made beforehand, and a logarithm
  kaldi_native_fbank  OnlineFbank.accept_waveform, less the same call with a hop so long that no frame comes of it:
                  what is left is the kernel without the conversion of a Python list. It rounds 400 up to 512.
  hop_10ms        1 s pushed in 100 pushes, less 100 pushes of no samples, divided by 100
  resample        a clip of 1 s at 48 kHz, less one at 16 kHz; and the same of 100 pushes of a stream

MMEDGE_MAX_ISA=avx2 shows what a processor without AVX-512 would do.

    python benchmarks/bench_audio.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import kaldi_native_fbank
import librosa
import numpy as np
import scipy.signal
import soxr
import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from mmedge.runtime.arrays import from_c_tensor
from mmedge.runtime.inputs import Audio, to_c_audio
from mmedge.runtime.native import check, ffi, lib, struct

SIZES = {"log_mel_1s": (400, 64), "log_mel_1s_512_80": (512, 80)}
RATE, HOP = 16000, 160
BATCH_NS = 2_000_000
MINIMUM = 1e-10


def interleaved(
    contenders: dict[str, Callable[[], object]], rounds: int, before_round: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Median microseconds of one call of each."""

    def batch(call: Callable[[], object], count: int) -> float:
        start = time.thread_time_ns()
        for _ in range(count):
            call()
        return (time.thread_time_ns() - start) / count

    counts = {}
    for name, call in contenders.items():
        call()
        counts[name] = max(1, int(BATCH_NS / max(batch(call, 3), 1)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        before_round()
        for name, call in contenders.items():
            times[name].append(batch(call, counts[name]))
    return {name: median(values) / 1e3 for name, values in times.items()}


class Ours:
    """A preprocessor, with every struct prepared."""

    def __init__(self, n_fft: int, n_mels: int) -> None:
        self.parameters = {
            "type": "log_mel", "sample_rate": RATE, "samples": 0, "n_fft": n_fft, "win_length": n_fft,
            "hop_length": HOP, "n_mels": n_mels, "f_min": 0.0, "f_max": RATE / 2, "mel_scale": "slaney",
            "mel_norm": "slaney", "power": 2.0, "center": True, "pad_mode": "reflect", "drop_last": False,
            "log": "natural", "floor": MINIMUM, "dynamic_range_db": 0.0, "normalize": "none",
        }  # fmt: skip
        made = ffi.new("mme_preprocessor **")
        check(lib.mme_preprocessor_create(json.dumps(self.parameters).encode(), made))
        self.handle = ffi.gc(made[0], lib.mme_preprocessor_destroy)
        self.tensor = struct("mme_tensor")

    def clip(self, samples: np.ndarray[Any, Any], rate: int = RATE) -> Callable[[], object]:
        audio, call, handle, tensor = (
            to_c_audio(Audio(samples, rate)),
            lib.mme_preprocessor_audio,
            self.handle,
            self.tensor,
        )
        return lambda: call(handle, audio, tensor)

    def pushes(self, samples: np.ndarray[Any, Any], rate: int = RATE) -> Callable[[], object]:
        """One second in 100 pushes."""
        call, handle, tensor = lib.mme_preprocessor_push_audio, self.handle, self.tensor
        pieces = [to_c_audio(Audio(piece, rate)) for piece in np.split(samples, 100)]

        def push() -> None:
            for piece in pieces:
                call(handle, piece, tensor)

        return push


def kaldi(n_fft: int, n_mels: int, shift_ms: float) -> Any:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.frame_opts.frame_length_ms = 1000 * n_fft / RATE
    options.frame_opts.frame_shift_ms = shift_ms
    options.mel_opts.num_bins = n_mels
    return kaldi_native_fbank.OnlineFbank(options)


def log_mel(n_fft: int, n_mels: int, samples: np.ndarray[Any, Any], rounds: int) -> dict[str, float]:
    ours = Ours(n_fft, n_mels)
    filters = librosa.filters.mel(sr=RATE, n_fft=n_fft, n_mels=n_mels)
    tensor, window = torch.from_numpy(samples), torch.hann_window(n_fft)
    torch_filters, listed = torch.from_numpy(filters), samples.tolist()

    def by_librosa() -> Any:
        return np.log(np.maximum(librosa.feature.melspectrogram(
            y=samples, sr=RATE, n_fft=n_fft, hop_length=HOP, n_mels=n_mels, pad_mode="reflect"), MINIMUM))  # fmt: skip

    def by_librosa_stft() -> Any:
        bins = librosa.stft(samples, n_fft=n_fft, hop_length=HOP, pad_mode="reflect")
        return np.log(np.maximum(filters @ (bins.real**2 + bins.imag**2), MINIMUM))

    def by_torch() -> Any:
        with torch.inference_mode():
            bins = torch.stft(tensor, n_fft, HOP, window=window, center=True, return_complex=True)
            return (torch_filters @ torch.view_as_real(bins).square().sum(-1)).clamp_min(MINIMUM).log()

    def by_kaldi(shift_ms: float) -> Callable[[], None]:
        return lambda: kaldi_made[shift_ms].accept_waveform(RATE, listed)

    def renew() -> None:  # their frames pile up
        for shift_ms in (10.0, 1e7):
            kaldi_made[shift_ms] = kaldi(n_fft, n_mels, shift_ms)

    kaldi_made: dict[float, Any] = {}
    exact = librosa.feature.melspectrogram(
        y=samples.astype(np.float64), sr=RATE, n_fft=n_fft, hop_length=HOP, n_mels=n_mels, pad_mode="reflect"
    )
    check(ours.clip(samples)())
    difference = np.abs(from_c_tensor(ours.tensor) - np.log(np.maximum(exact, MINIMUM))).max()
    renew()
    us = interleaved(
        {
            "mmedge": ours.clip(samples),
            "librosa": by_librosa,
            "librosa_stft": by_librosa_stft,
            "torch": by_torch,
            "kaldi": by_kaldi(10.0),
            "kaldi_list": by_kaldi(1e7),
        },
        rounds,
        before_round=renew,
    )
    fbank = us["kaldi"] - us["kaldi_list"]
    return {
        "mmedge_us": us["mmedge"],
        "librosa_us": us["librosa"],
        "librosa_stft_us": us["librosa_stft"],
        "torch_us": us["torch"],
        "kaldi_native_fbank_us": fbank,
        "ratio_librosa": us["librosa"] / us["mmedge"],
        "ratio_librosa_stft": us["librosa_stft"] / us["mmedge"],
        "ratio_torch": us["torch"] / us["mmedge"],
        "ratio_kaldi_native_fbank": fbank / us["mmedge"],
        "max_abs_diff": float(difference),
    }


def hop(n_fft: int, n_mels: int, samples: np.ndarray[Any, Any], rounds: int) -> dict[str, float]:
    full, empty = Ours(n_fft, n_mels), Ours(n_fft, n_mels)
    nothing = to_c_audio(Audio(samples[:0], RATE))

    def push_nothing() -> None:
        for _ in range(100):
            lib.mme_preprocessor_push_audio(empty.handle, nothing, empty.tensor)

    us = interleaved({"pushes": full.pushes(samples), "empty": push_nothing}, rounds)
    return {
        "mmedge_us": (us["pushes"] - us["empty"]) / 100,
        "pushes_100_us": us["pushes"],
        "empty_pushes_100_us": us["empty"],
    }


def resample(samples: np.ndarray[Any, Any], rounds: int) -> dict[str, float]:
    third = np.ascontiguousarray(samples[: len(samples) // 3])
    clips, streams = [Ours(400, 64) for _ in range(2)], [Ours(400, 64) for _ in range(2)]
    us = interleaved(
        {
            "clip_48k": clips[0].clip(samples, 48000),
            "clip_16k": clips[1].clip(third),
            "stream_48k": streams[0].pushes(samples, 48000),
            "stream_16k": streams[1].pushes(third),
            "soxr": lambda: soxr.resample(samples, 48000, RATE, quality="HQ"),
            "scipy": lambda: scipy.signal.resample_poly(samples, 1, 3),
        },
        rounds,
    )
    ours = us["clip_48k"] - us["clip_16k"]
    return {
        "mmedge_us": ours,
        "mmedge_stream_us": us["stream_48k"] - us["stream_16k"],
        "soxr_python_us": us["soxr"],
        "scipy_us": us["scipy"],
        "ratio_soxr_python": us["soxr"] / ours,
        "ratio_scipy": us["scipy"] / ours,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    samples = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    second = samples[:RATE]
    report: dict[str, Any] = {"max_isa": os.environ.get("MMEDGE_MAX_ISA") or "best"}
    for name, (n_fft, n_mels) in SIZES.items():
        report[name] = log_mel(n_fft, n_mels, second, arguments.rounds)
    report["hop_10ms"] = hop(400, 64, second, arguments.rounds)
    report["hop_10ms_512_80"] = hop(512, 80, second, arguments.rounds)
    report["hop_10ms_us"] = report["hop_10ms"]["mmedge_us"]
    report["resample_48k_16k"] = resample(samples, arguments.rounds)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    console = Console()
    console.print(f"instruction sets up to: {report['max_isa']}")
    for name, entry in report.items():
        if not isinstance(entry, dict):
            continue
        table = Table("figure", "value", title=name)
        for key, value in entry.items():
            table.add_row(key, f"{value:.2e}" if key == "max_abs_diff" else f"{value:.2f}")
        console.print(table)


if __name__ == "__main__":
    main()
