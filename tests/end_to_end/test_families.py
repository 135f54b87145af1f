"""Heads, fusions and encoders together: a few steps of training, export through the parity gate, the C runtime.

By default every pair of a head, a fusion and an encoder meets in some case; with --full-product every triple is one.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import soundfile
from allpairspy import AllPairs

from mmedge.data.folder import read_split
from mmedge.export.targets import find_target
from mmedge.exporting import export_checkpoint
from mmedge.models.fusion import FUSIONS
from mmedge.runtime import Session
from mmedge.training.recipe import Recipe
from mmedge.training.train import train

HEADS = ("classification", "multi_label", "embedding", "vqa")
ENCODERS = {
    kind: [name for name, (modality, _) in families.ENCODERS.items() if modality == kind]
    for kind in ("image", "audio", "text")
}

Case = tuple[str, str, tuple[str, ...]]


def pairwise() -> list[Case]:
    factors = [list(HEADS), list(FUSIONS), ENCODERS["image"], [*ENCODERS["audio"], ""], [*ENCODERS["text"], ""]]
    return [(case[0], case[1], tuple(filter(None, case[2:]))) for case in AllPairs(factors)]


def full_product() -> list[Case]:
    def encoders(head: str, name: str) -> tuple[str, ...]:
        return (name,) if head != "vqa" or name in ENCODERS["image"] else ("cnn", name)

    return [
        (head, fusion, encoders(head, name))
        for head, fusion, name in itertools.product(HEADS, FUSIONS, families.ENCODERS)
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = full_product() if metafunc.config.getoption("--full-product") else pairwise()
        metafunc.parametrize("case", cases, ids=["-".join([head, fusion, *names]) for head, fusion, names in cases])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square of one of three colours on grey, a tone for each, and the colour's name."""
    root, random = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 3)):
        folder = root / split
        folder.mkdir()
        rows = []
        for number in range(count):
            index = number % 3
            colour, left = list(families.COLOURS)[index], int(random.integers(0, 16))
            families.draw_square(folder / f"{number}.png", colour, left, instance=1)
            tone = 0.5 * np.sin(2 * np.pi * 400 * (index + 1) * np.arange(4000) / 8000)
            soundfile.write(folder / f"{number}.wav", tone + random.normal(0, 0.01, 4000), 8000)
            row = {"image_file_name": f"{number}.png", "audio_file_name": f"{number}.wav", "label": colour}
            row |= {"text": f"a {colour} one, is it not?", "mask_file_name": f"{number}-mask.png"}
            rows.append(json.dumps(row))
        (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return root


def recipe(case: Case, data: Path, output: Path) -> Recipe:
    head, fusion, encoders = case
    modalities: dict[str, Any] = {}
    for part in map(families.modality, encoders):
        modalities |= part
    if "text" in modalities:  # the tokenizer is trained on the data
        text = {**modalities["text"], "vocab_size": 40, "preprocess": {"type": "text", "max_length": 12}}
        if "config" in text:
            text["config"] = {key: value for key, value in text["config"].items() if key != "vocab_size"}
        modalities["text"] = text
    multi_label = head == "multi_label"
    return Recipe.model_validate(
        {
            "data": str(data),
            "output": str(output),
            "model": {
                "modalities": modalities,
                "fusion": fusion,
                "fusion_dim": 16,
                "head": "classification" if multi_label else head,
                "multi_label": multi_label,
                "embedding_dim": 8,
                "region_scale": 2,
            },
            "training": {"steps": 2, "batch_size": 6, "every_subset": True}
            | ({"samples_per_label": 2} if head == "embedding" else {}),
        }
    )


def test_what_is_trained_is_exported_and_runs(case: Case, data: Path, tmp_path: Path) -> None:
    head = case[0]
    trained = train(recipe(case, data, tmp_path / "run"))
    assert np.isfinite(trained.losses).all()
    made = export_checkpoint(
        trained.output,
        tmp_path / "model.mme",
        data=data,
        split="validation",
        target=find_target("onnxruntime"),
        parity_samples=2,
        tolerance=1e-4,
        overwrite=False,
        progress=lambda stage, done, total: None,
    )
    assert made.parity
    session = Session(made.path)
    names = [entry.name for entry in session.manifest.inputs]
    (sample, *_) = read_split(data, "validation", names)
    for size in range(1, len(names) + 1):
        for subset in itertools.combinations(names, size):
            inputs = sample.load()
            result = session.run(**{name: inputs[name] for name in subset})
            if head == "embedding":
                assert result.embedding is not None
                assert np.linalg.norm(result.embedding) == pytest.approx(1, abs=1e-5)
                assert result.label is None
            else:
                assert result.label in families.COLOURS
                assert set(result.scores) == set(families.COLOURS)
            assert (result.region is not None) == (head == "vqa" and "image" in subset)
            if case[1] == "gated":
                assert result.input_weights is not None
                assert sum(result.input_weights.values()) == pytest.approx(1, abs=1e-5)
                assert all((weight > 0) == (name in subset) for name, weight in result.input_weights.items())
