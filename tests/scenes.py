"""A folder of every modality, labels that would break a careless page, and functions that answer like models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

from mmedge.evaluation import Predicted
from mmedge.metrics import Box

LABELS = ["<script>alert(1)</script>", 'a "quoted" & <b>bold</b> one', "[red]plain"]
QUESTION = "where is the <i>disc</i>?"


def make_scenes(root: Path) -> Path:
    """Grey frames of 60 x 40 with a bright disc, whose side is the label; a clip, a question, the disc's mask."""
    folder = root / "validation"
    folder.mkdir()
    random = np.random.default_rng(3)
    down, across = np.mgrid[:40, :60]
    rows = []
    for number in range(30):
        kind = number % 3
        x, y = 10 + 20 * kind, random.integers(10, 30)
        disc = (across - x) ** 2 + (down - y) ** 2 < 50
        pixels = np.clip(random.normal(60, 15, disc.shape) + 150 * disc, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        Image.fromarray(disc.astype(np.uint8)).save(folder / f"{number}-mask.png")
        tone = np.sin(2 * np.pi * 200 * (kind + 1) * np.arange(4000) / 8000) * np.hanning(4000)
        soundfile.write(folder / f"{number}.wav", 0.5 * tone + random.normal(0, 0.02, 4000), 8000)
        row: dict[str, Any] = {"image_file_name": f"{number}.png", "audio_file_name": f"{number}.wav"}
        row |= {"text": QUESTION, "label": LABELS[kind], "mask_file_name": f"{number}-mask.png"}
        row["note"] = "<img src=x onerror=alert(2)>" if number % 2 else "even"
        rows.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return root


@dataclass(frozen=True)
class Region:
    map: npt.NDArray[np.float32]
    map_box: Box
    box: Box | None
    threshold: float = 0.5


def answer(inputs: Mapping[str, Any]) -> Predicted:
    """Looks at how bright each third of the image is, too dimly to be always right; without it, guesses by the tone."""
    region = None
    if "image" in inputs:
        cells = inputs["image"].reshape(8, 5, 12, 5).mean(axis=(1, 3)) / 255
        level = cells[:4].reshape(4, 3, 4).max(axis=(0, 2))  # blind for the lower half
        y, x = np.unravel_index(cells.argmax(), cells.shape)
        region = Region(cells.astype(np.float32), (0, 0, 60, 40), (5.0 * x - 5, 5.0 * y - 5, 15.0, 15.0))
    elif "audio" in inputs:
        turns = np.count_nonzero(np.diff(np.sign(inputs["audio"].samples[1500:2500])))
        level = -np.abs(np.array([50, 100, 150]) - turns) / 50
    else:
        level = np.zeros(3)
    scores = np.exp(6 * level) / np.exp(6 * level).sum()
    return Predicted(
        LABELS[int(scores.argmax())],
        dict(zip(LABELS, scores.tolist(), strict=True)),
        region=region,
        labels=tuple(label for label, score in zip(LABELS, scores, strict=True) if score > 0.3),
        embedding=level.astype(np.float32),
    )
