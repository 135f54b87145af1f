from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import make_bundles
import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

hypothesis.settings.register_profile("mmedge", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("mmedge")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full-product", action="store_true", help="Every head with every fusion and every encoder.")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits.mme, a small real bundle (image and audio, random weights), and nan.mme."""
    folder = tmp_path_factory.mktemp("bundles")
    # In a process of its own, so that tests can check what the runtime imports.
    subprocess.run([sys.executable, Path(__file__).with_name("make_bundles.py"), folder], check=True)
    return folder


@pytest.fixture(scope="session")
def digits_bundle(bundles: Path) -> Path:
    return bundles / "digits.mme"


TONE_LABELS = ["high", "low"]


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright pictures with high tones and dark ones with low tones: a set that a tiny model learns in a few steps."""
    root = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 8)):
        folder = root / split
        folder.mkdir()
        rows = []
        for number in range(count):
            label = TONE_LABELS[number % 2]
            level, hertz = (170, 1500) if label == "high" else (70, 300)
            pixels = np.clip(random.normal(level, 40, (12, 12)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            phase = 2 * np.pi * hertz * np.arange(1600) / 8000
            soundfile.write(folder / f"{number}.wav", 0.3 * np.sin(phase) + random.normal(0, 0.03, 1600), 8000)
            row: dict[str, Any] = {"label": label, "room": f"r{number % 4 // 2}"}
            row["image_file_name"] = f"{number}.png" if number % 6 else None
            row["audio_file_name"] = f"{number}.wav"
            rows.append(json.dumps(row))
        (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="session")
def tones_recipe(tones: Path) -> dict[str, Any]:
    """A whole small recipe, as YAML would give it."""
    image = {**make_bundles.IMAGE, "width": 16, "height": 16}
    audio = {**make_bundles.LOG_MEL, "samples": 1600, "n_mels": 16}
    return {
        "data": str(tones),
        "output": "run",
        "labels": TONE_LABELS,
        "model": {
            "fusion_dim": 16,
            "dropout": 0.1,
            "modalities": {
                "image": {"encoder": "cnn", "width": 4, "preprocess": image, "augment": {"noise": 0.2, "shift": 1}},
                "audio": {
                    "encoder": "temporal_cnn",
                    "width": 8,
                    "preprocess": audio,
                    "augment": {"shift": 0.02, "snr_db": [10, 20], "mask_bands": 2},
                },
            },
        },
        "training": {
            "steps": 12,
            "batch_size": 8,
            "warmup_steps": 2,
            "modality_dropout": 0.5,
            "checkpoint_every": 4,
        },
    }


@pytest.fixture
def recipe_values(tones_recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The small recipe, to be changed; its output is the test's own."""
    return copy.deepcopy(tones_recipe) | {"output": str(tmp_path / "run")}


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes values as a YAML file."""

    def write(values: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
        return path

    return write
