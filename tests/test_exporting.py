"""Which rows of a split the parity gate compares."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import make_bundles
import numpy as np
import pytest
import soundfile
from PIL import Image

from mmedge.data.folder import read_split, spread
from mmedge.export.bundle import ExportedBundle
from mmedge.export.targets import find_target
from mmedge.exporting import export_checkpoint
from mmedge.runtime.errors import InvalidArgument

ROWS = 40


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., ExportedBundle]:
    """Exports a model of image and audio with 4 parity samples of a split whose rows have one of the two in turn, and
    those of the given numbers both.
    """
    make_bundles.digits_model().save_pretrained(tmp_path / "checkpoint")
    folder = tmp_path / "data" / "validation"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "a.png")
    soundfile.write(folder / "a.wav", random.normal(0, 0.1, 8000), 8000)

    def write(both: Iterable[int]) -> None:
        rows: list[dict[str, Any]] = [{"label": make_bundles.LABELS[0]} for _ in range(ROWS)]
        for number, row in enumerate(rows):
            if number % 2 == 0 or number in both:
                row["image_file_name"] = "a.png"
            if number % 2 == 1 or number in both:
                row["audio_file_name"] = "a.wav"
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def export(both: Iterable[int], told: list[str]) -> ExportedBundle:
        write(both)
        return export_checkpoint(
            tmp_path / "checkpoint",
            tmp_path / "digits.mme",
            data=tmp_path / "data",
            split="validation",
            target=find_target("onnxruntime"),
            parity_samples=4,
            tolerance=1e-4,
            overwrite=False,
            progress=lambda stage, done, total: told.append(stage),
        )

    write([])
    return export


def test_a_row_of_a_subset_that_the_samples_lack_is_compared_too(
    export: Callable[..., ExportedBundle], tmp_path: Path
) -> None:
    rows = read_split(tmp_path / "data", "validation", ["image", "audio"])
    drawn = spread(rows, 4)
    rare = next(number for number, row in enumerate(rows) if row not in drawn)
    made = export([rare], [])
    compared = {entry.subset: entry.samples for entry in made.parity.outputs}
    alone = [sum(name in row.modalities for row in drawn) + 1 for name in ("image", "audio")]
    assert compared == {("image",): alone[0], ("audio",): alone[1], ("image", "audio"): 1}


def test_a_subset_that_no_row_has_is_refused_before_the_graph_is_made(export: Callable[..., ExportedBundle]) -> None:
    told: list[str] = []
    with pytest.raises(InvalidArgument, match=r"no row of .*validation has image \+ audio: the parity gate needs one"):
        export([], told)
    assert told == []
