from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.export.parity import ParityReport, compare
from mmedge.runtime.errors import InvalidArgument, ParityError

Array = np.ndarray[Any, Any]
SAMPLES = [(f"row {i}", {"image": np.full(3, i + 1.0), "audio": np.arange(3.0) - i}) for i in range(4)]


def total(sample: Mapping[str, Array], subset: tuple[str, ...]) -> dict[str, Array]:
    return {"logits": sum((sample[name] for name in subset), np.zeros(3))}


def off_by(error: Array, row: str, subset: tuple[str, ...]) -> ParityReport:
    def candidate(sample: Mapping[str, Array], seen: tuple[str, ...]) -> dict[str, Array]:
        wrong = seen == subset and sample is dict(SAMPLES)[row]
        return {"logits": total(sample, seen)["logits"] + (error if wrong else 0)}

    return compare(total, candidate, SAMPLES, ["image", "audio"])


def test_equal_models_pass_with_statistics_for_every_subset() -> None:
    report = compare(total, total, SAMPLES, ["image", "audio"])
    assert report
    assert report.max_abs == 0
    report.raise_if_failed()
    assert [entry.subset for entry in report.outputs] == [("image",), ("audio",), ("image", "audio")]
    for entry in report.outputs:
        assert (entry.output, entry.samples, entry.top1_agreement) == ("logits", 4, 1)
        assert entry.cosine_min == pytest.approx(1)


def test_an_error_over_tolerance_names_the_worst_sample_and_its_subset() -> None:
    report = off_by(np.array([0, 0, 0.5]), "row 2", ("image",))
    assert not report
    worst = report.outputs[0]
    assert (worst.max_abs, worst.worst_sample) == (0.5, "row 2")
    assert worst.max_rel == pytest.approx(0.5 / 3)
    assert worst.top1_agreement == 0.75
    assert report.outputs[1].passed
    with pytest.raises(ParityError, match=r"'row 2' with image: output 'logits' differs by 0\.5"):
        report.raise_if_failed()


def test_a_small_value_beside_large_ones_does_not_blow_up_the_relative_error() -> None:
    samples = [("only", {"audio": np.array([100.0, 0.0, 1.0])})]
    report = compare(total, lambda s, m: {"logits": total(s, m)["logits"] + np.array([0, 1e-5, 0])}, samples, ["audio"])
    assert report
    assert report.outputs[0].max_rel == pytest.approx(1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_never_passes(value: float) -> None:
    report = off_by(np.array([value, 0, 0]), "row 1", ("image", "audio"))
    assert not report
    assert report.max_abs is None
    assert report.outputs[2].worst_sample == "row 1"
    assert report.outputs[2].non_finite == 1
    with pytest.raises(ParityError, match="'row 1' with image \\+ audio: output 'logits' is not finite"):
        report.raise_if_failed()
    json.dumps(report.to_dict(), allow_nan=False)


def test_not_a_number_in_both_models_does_not_pass_either() -> None:
    samples = [("only", {"audio": np.array([math.nan, 0.0, 0.0])})]
    assert not compare(total, total, samples, ["audio"])


def test_samples_that_lack_a_modality_take_part_in_the_other_subsets() -> None:
    samples = [*SAMPLES, ("deaf", {"image": np.ones(3), "audio": None}), ("blind", {"audio": np.ones(3)})]
    report = compare(total, total, samples, ["image", "audio"])
    assert [entry.samples for entry in report.outputs] == [5, 5, 4]


def test_no_samples_are_an_error_and_so_is_a_subset_that_none_has() -> None:
    with pytest.raises(InvalidArgument, match="no sample has image"):
        compare(total, total, [], ["image", "audio"])
    with pytest.raises(InvalidArgument, match=r"no sample has image \+ audio"):
        compare(total, total, [("a", {"image": np.ones(3)}), ("b", {"audio": np.ones(3)})], ["image", "audio"])


@pytest.mark.parametrize("found", [{}, {"scores": np.zeros(3)}, {"logits": np.zeros(4)}])
def test_other_outputs_than_the_references_are_an_error(found: dict[str, Array]) -> None:
    with pytest.raises(ParityError, match="'row 0': the outputs are"):
        compare(total, lambda _sample, _subset: found, SAMPLES, ["image", "audio"])


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), st.floats(0, 1), st.data())
def test_the_gate_is_the_largest_absolute_difference(values: list[float], size: float, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(values) - 1))
    reference = np.array(values)
    candidate = reference.copy()
    candidate[index] += size
    error = abs(candidate - reference).max()
    samples = [("only", {"audio": reference})]
    report = compare(lambda *_: {"y": reference}, lambda *_: {"y": candidate}, samples, ["audio"], 0.25)
    assert bool(report) == (error <= 0.25)
    assert report.max_abs == error
    json.dumps(report.to_dict(), allow_nan=False)
