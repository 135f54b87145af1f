"""Write small bundles for the tests: a real exported model, with random weights, and a broken twin.

python tests/make_bundles.py FOLDER   ->  FOLDER/digits.mme, FOLDER/nan.mme (its last bias is NaN)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
IMAGE = {
    "type": "image",
    "width": 32,
    "height": 32,
    "channels": "grey",
    "fit": "stretch",
    "interpolation": "bilinear",
    "antialias": True,
    "mean": [0.5],
    "std": [0.25],
}
LOG_MEL = {
    "type": "log_mel",
    "sample_rate": 8000,
    "samples": 8000,
    "n_fft": 256,
    "win_length": 200,
    "hop_length": 80,
    "n_mels": 40,
    "f_min": 60.0,
    "f_max": 3800.0,
    "mel_scale": "htk",
    "mel_norm": "none",
    "power": 2.0,
    "center": True,
    "pad_mode": "reflect",
    "drop_last": False,
    "log": "db",
    "floor": 1e-10,
    "dynamic_range_db": 40.0,
    "normalize": "clip",
}


def raw_samples(count: int, seed: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """Named frames and clips of noise."""
    from mmedge.runtime import Audio

    random = np.random.default_rng(seed)
    return [
        (
            f"sample {i}",
            {
                "image": random.integers(0, 256, (48 + i, 40, 3), dtype=np.uint8),
                "audio": Audio(random.normal(0, 0.1, 7000 + 400 * i).astype(np.float32), 8000),
            },
        )
        for i in range(count)
    ]


def digits_model(seed: int = 0) -> Any:
    """A `FusedModel` of image and audio, in evaluation mode, with random weights."""
    import torch

    from mmedge.models import FusedModel, MmedgeConfig

    torch.manual_seed(seed)
    config = MmedgeConfig(
        modalities={
            "image": {"encoder": "cnn", "width": 4, "preprocess": IMAGE},
            "audio": {"encoder": "temporal_cnn", "width": 8, "preprocess": LOG_MEL},
        },
        fusion="gated",
        fusion_dim=16,
        id2label=dict(enumerate(LABELS)),
    )
    return FusedModel(config).eval()


def write(model: Any, destination: Path, **options: Any) -> None:
    """Export `model` to a bundle without measuring its accuracy."""
    from mmedge.export.bundle import export_bundle
    from mmedge.export.targets import find_target
    from mmedge.runtime import Preprocessor
    from mmedge.runtime.manifest import Input

    inputs = [
        Input(
            name=name,
            modality=name,
            shape=list(Preprocessor(part["preprocess"]).shape),
            preprocess=part["preprocess"],
        )
        for name, part in model.config.modalities.items()
    ]
    arguments: dict[str, Any] = {
        "inputs": inputs,
        "labels": model.config.labels,
        "target": find_target("onnxruntime"),
        "samples": raw_samples(4),
        "score": lambda session: {},
        "provenance": {"model": "random weights"},
        **options,
    }
    export_bundle(model, destination, **arguments)


def main(folder: Path) -> None:
    import shutil

    import onnx
    from onnx import numpy_helper

    from mmedge.export.bundle import write_bundle
    from mmedge.runtime import read_manifest

    folder.mkdir(parents=True, exist_ok=True)
    digits, broken = folder / "digits.mme", folder / "nan.mme"
    write(digits_model(), digits, overwrite=True)
    graph = onnx.load(digits / "model.onnx")
    bias = next(tensor for tensor in graph.graph.initializer if tensor.dims == [len(LABELS)])
    bias.CopyFrom(numpy_helper.from_array(np.full(len(LABELS), np.nan, np.float32), bias.name))
    shutil.rmtree(broken, ignore_errors=True)
    broken.mkdir()
    write_bundle(broken, read_manifest(digits), {"model.onnx": graph.SerializeToString()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
