from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scenes import LABELS as SIDES
from scenes import answer, make_scenes

from mmedge.data.folder import Sample, read_split
from mmedge.evaluation import Predicted, evaluate, modality_subsets, read_pairs
from mmedge.metrics import EmbeddingReport, MultiLabelReport
from mmedge.runtime.errors import DataError, InvalidArgument

LABELS = ["high", "low"]
MODALITIES = ["image", "audio", "text"]


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


def test_subsets_not_asked_for_are_not_run(scenes: list[Sample]) -> None:
    for task in ("classification", "embedding"):
        every = evaluate(answer, scenes, MODALITIES, SIDES, task=task)  # type: ignore[arg-type]
        both = evaluate(answer, scenes, MODALITIES, SIDES, task=task, subsets=[("image", "audio")])  # type: ignore[arg-type]
        assert [subset.modalities for subset in both.subsets] == [("image", "audio")]
        assert both.subsets[0].main == every["image", "audio"].main


def test_several_threads_score_as_one_does(scenes: list[Sample]) -> None:
    used, told = set(), []

    def predict(inputs: Mapping[str, Any]) -> Any:
        used.add(threading.get_ident())
        time.sleep(0.001)  # so that no thread is done with all before another begins
        return answer(inputs)

    one = evaluate(answer, scenes, MODALITIES, SIDES)
    three = evaluate(predict, scenes, MODALITIES, SIDES, threads=3, progress=lambda done, total: told.append(done))
    assert len(used) > 1
    assert three.to_dict() == one.to_dict()
    assert told == list(range(1, len(scenes) + 1))
    for first, second in zip(one.subsets, three.subsets, strict=True):
        assert [entry.sample.line for entry in first.outcomes] == [entry.sample.line for entry in second.outcomes]


@dataclass(frozen=True)
class WithOutputs(Predicted):
    outputs: Any = None


def test_outcomes_keep_what_is_read_of_a_prediction_and_no_raw_outputs(scenes: list[Sample]) -> None:
    seen = []

    def predict(inputs: Mapping[str, Any]) -> Predicted:
        outputs = np.zeros(1000)
        seen.append(weakref.ref(outputs))
        return WithOutputs(**vars(answer(inputs)), outputs=outputs)

    scores = evaluate(predict, scenes, MODALITIES, SIDES, task="vqa")
    assert len(seen) == len(scenes) * len(scores.subsets)
    assert all(outputs() is None for outputs in seen)
    for outcome in scores[("image",)].outcomes:
        kept, told = outcome.prediction, answer({"image": outcome.sample.load()["image"]})
        assert (kept.label, kept.scores, kept.labels) == (told.label, told.scores, told.labels)
        np.testing.assert_array_equal(kept.embedding, told.embedding)
        assert kept.region is not None
        assert told.region is not None
        np.testing.assert_array_equal(kept.region.map, told.region.map)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return read_split(make_scenes(tmp_path_factory.mktemp("scenes")), "validation", MODALITIES, SIDES)


def test_each_task_has_its_main_metric_and_strict_json(scenes: list[Sample]) -> None:
    wanted: list[tuple[dict[str, Any], str, bool]] = [
        ({}, "accuracy", True),
        ({"multi_label": True}, "macro_f1", True),
        ({"task": "embedding"}, "eer", False),
        ({"task": "vqa"}, "accuracy", True),
    ]
    for options, name, larger in wanted:
        scores = evaluate(answer, scenes, MODALITIES, SIDES, group_by="note", **options)
        found = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
        for subset in scores.subsets:
            row = found["+".join(subset.modalities)]
            assert row["main"] == {"name": name, "value": subset.main.value, "larger_is_better": larger}
            assert next(iter(subset.summary.values())) == subset.main.value
            assert set(row["groups"]) == {"even", "<img src=x onerror=alert(2)>"}
            assert row["samples"] == 30


def test_a_groups_figure_is_that_of_its_samples_alone(scenes: list[Sample]) -> None:
    for options in ({}, {"multi_label": True}, {"task": "embedding", "metric": "euclidean"}):
        scores = evaluate(answer, scenes, ["image"], SIDES, group_by="note", **options)  # type: ignore[arg-type]
        even = [sample for sample in scenes if sample.columns["note"] == "even"]
        alone = evaluate(answer, even, ["image"], SIDES, **options)  # type: ignore[arg-type]
        assert scores["image",].groups["even"] == pytest.approx(alone["image",].main.value)


def test_a_column_that_no_row_has_is_refused(scenes: list[Sample]) -> None:
    with pytest.raises(InvalidArgument, match=r"no row has the column 'nte'; found .*note"):
        evaluate(answer, scenes, ["image"], SIDES, group_by="nte")


def test_several_labels_are_scored_as_sets(scenes: list[Sample]) -> None:
    scores = evaluate(answer, scenes, ["audio"], SIDES, multi_label=True)["audio",]
    pairs = [(set(outcome.sample.labels), set(outcome.prediction.labels or ())) for outcome in scores.outcomes]
    assert isinstance(scores.report, MultiLabelReport)
    assert scores.report.subset_accuracy == np.mean([true == found for true, found in pairs])
    assert scores.report.mean_average_precision == 1.0  # the tone tells the side


def test_answers_come_with_the_overlap_of_their_regions(scenes: list[Sample]) -> None:
    scores = evaluate(answer, scenes, MODALITIES, SIDES, task="vqa")
    with_image = scores["image", "text"]
    ious, boxes = [], []
    for outcome in with_image.outcomes:
        region, mask = outcome.prediction.region, outcome.sample.mask()
        assert region is not None
        assert region.box is not None
        assert mask is not None
        shown = np.asarray(Image.fromarray(region.map).resize((60, 40), Image.Resampling.BILINEAR)) >= region.threshold
        ious.append((shown & mask).sum() / (shown | mask).sum())
        x, y, width, height = (round(side) for side in region.box)
        box, true = np.zeros_like(mask), np.zeros_like(mask)
        box[max(y, 0) : y + height, max(x, 0) : x + width] = True
        rows, columns = np.nonzero(mask)
        true[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        outside = width * height - box.sum()  # a box may reach over the frame
        boxes.append((box & true).sum() / ((box | true).sum() + outside))
    assert with_image.region is not None
    assert with_image.region.map_iou == pytest.approx(np.mean(ious))
    assert with_image.region.box_iou == pytest.approx(np.mean(boxes))
    assert with_image.region.samples == 30
    assert scores["audio", "text"].region is None


def test_a_sample_without_a_mask_counts_for_the_answer_alone(scenes: list[Sample]) -> None:
    some = [replace(sample, mask_file=None) if number < 20 else sample for number, sample in enumerate(scenes)]
    scores = evaluate(answer, some, ["image"], SIDES, task="vqa")["image",]
    assert scores.region is not None
    assert (scores.region.samples, scores.report.samples) == (10, 30)


def test_one_modality_is_searched_for_with_another_by_row(scenes: list[Sample]) -> None:
    count = iter(range(10**6))

    def embed(inputs: Mapping[str, Any]) -> Predicted:
        """Single modalities of a row lie together, a row per corner; its subsets are visited one after the other."""
        vector = np.zeros(30, np.float32)
        vector[next(count) // 3] = 1
        return Predicted(embedding=vector)

    scores = evaluate(embed, scenes, ["image", "audio"], [], task="embedding")
    both = scores["image", "audio"].cross_modal
    assert {name: found.recall[1] for name, found in both.items()} == {"image->audio": 1.0, "audio->image": 1.0}
    assert scores["image",].cross_modal == {}
    assert scores.to_dict()["image+audio"]["cross_modal"]["image->audio"]["queries"] == 30


def test_a_row_of_the_same_label_is_found_as_well_as_the_row_itself(scenes: list[Sample]) -> None:
    labels = sorted({sample.label for sample in scenes})
    count = iter(range(10**6))

    def embed(inputs: Mapping[str, Any]) -> Predicted:
        row = next(count) // 3
        vector = np.zeros(40, np.float32)
        vector[labels.index(scenes[row].label)] = 1
        vector[10 + (row if "image" in inputs else 29 - row)] = 0.1  # what is of the row alone leads astray
        return Predicted(embedding=vector)

    both = evaluate(embed, scenes, ["image", "audio"], [], task="embedding")["image", "audio"].cross_modal
    assert {name: found.recall[1] for name, found in both.items()} == {"image->audio": 1.0, "audio->image": 1.0}


def test_pairs_may_be_given_by_line_and_those_that_lack_a_row_are_left_out(
    scenes: list[Sample], tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"first": 1, "second": 4, "same": true}\n{"first": 1, "second": 2}\n{"first": 3, "second": 2}\n')
    pairs = read_pairs(file, scenes)
    assert pairs == [(1, 4), (1, 2), (3, 2)]
    report = evaluate(answer, scenes, ["audio"], [], task="embedding", pairs=pairs)["audio",].report
    assert isinstance(report, EmbeddingReport)
    assert (report.verification.pairs, report.verification.same) == (3, 1)
    fewer = evaluate(answer, scenes[:2], ["audio"], [], task="embedding", pairs=pairs)["audio",].report
    assert isinstance(fewer, EmbeddingReport)
    assert (fewer.verification.pairs, fewer.verification.undefined) == (1, "no pair is of one label")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2]", "line 2: found b'\\[1, 2\\]'; expected"),
        ("{", "line 2: found"),
        ('{"first": 1, "second": [2]}', "line 2: found"),
        ('{"first": 1, "second": 99}', r"line 2: \(1, 99\) are not both lines"),
    ],
)
def test_bad_pairs_are_named_by_line(line: str, message: str, scenes: list[Sample], tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(f'{{"first": 1, "second": 2}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        read_pairs(file, scenes)
    with pytest.raises(DataError, match="cannot read"):
        read_pairs(tmp_path / "none.jsonl", scenes)
    file.write_text("")
    with pytest.raises(DataError, match="is empty; expected"):
        read_pairs(file, scenes)


def test_predictions_without_what_the_task_needs_are_refused(scenes: list[Sample]) -> None:
    with pytest.raises(InvalidArgument, match="without an embedding"):
        evaluate(lambda inputs: Predicted(SIDES[0]), scenes, ["image"], [], task="embedding")
    with pytest.raises(InvalidArgument, match="found labels None"):
        evaluate(lambda inputs: Predicted(), scenes, ["image"], SIDES)


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(brightness, [], ["image"], LABELS)


def test_subsets_come_small_ones_first_in_the_order_of_the_modalities() -> None:
    assert modality_subsets(["b", "a", "c"]) == [
        ("b",), ("a",), ("c",), ("b", "a"), ("b", "c"), ("a", "c"), ("b", "a", "c"),
    ]  # fmt: skip
