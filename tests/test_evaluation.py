from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mmedge.data.folder import read_split
from mmedge.evaluation import Predicted, evaluate, modality_subsets
from mmedge.runtime.errors import DataError

LABELS = ["high", "low"]


def brightness(inputs: Mapping[str, Any]) -> Predicted:
    """A model that sees well and, deaf, takes everything it only hears for low."""
    high = inputs["image"].mean() / 240 if "image" in inputs else 0.0
    return Predicted("high" if high > 0.5 else "low", {"high": high, "low": 1 - high})


def test_every_subset_is_scored_on_the_samples_that_have_it(tones: Path) -> None:
    samples = read_split(tones, "validation", ["image", "audio"], LABELS)
    scores = evaluate(brightness, samples, ["image", "audio"], LABELS, group_by="room")
    assert [subset.modalities for subset in scores.subsets] == [("image",), ("audio",), ("image", "audio")]
    assert [subset.report.samples for subset in scores.subsets] == [6, 8, 6]
    assert [subset.report.accuracy for subset in scores.subsets] == [1.0, 0.5, 1.0]
    assert scores["audio", "image"].groups == {"r0": 1.0, "r1": 1.0}
    assert json.loads(json.dumps(scores.to_dict()))["image+audio"]["accuracy"] == 1.0


def test_subsets_no_sample_has_are_left_out(tones: Path) -> None:
    samples = read_split(tones, "validation", ["audio"], LABELS)
    scores = evaluate(brightness, samples, ["image", "audio"], LABELS)
    assert [subset.modalities for subset in scores.subsets] == [("audio",)]
    with pytest.raises(KeyError):
        scores["image", "audio"]


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(brightness, [], ["image"], LABELS)


def test_subsets_come_small_ones_first_in_the_order_of_the_modalities() -> None:
    assert modality_subsets(["b", "a", "c"]) == [
        ("b",), ("a",), ("c",), ("b", "a"), ("b", "c"), ("a", "c"), ("b", "a", "c"),
    ]  # fmt: skip
