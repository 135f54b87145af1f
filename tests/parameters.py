"""Preprocess objects that several tests take, and change."""

from __future__ import annotations

from typing import Any

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


def levels_of_image(width: int, height: int, channels: str = "rgb", **changes: Any) -> dict[str, Any]:
    """An image as floats in levels of 255, stretched to its size."""
    count = 1 if channels == "grey" else 3
    return {
        "type": "image",
        "width": width,
        "height": height,
        "channels": channels,
        "fit": "stretch",
        "interpolation": "bilinear",
        "antialias": True,
        "mean": [0.0] * count,
        "std": [1 / 255] * count,
        **changes,
    }
