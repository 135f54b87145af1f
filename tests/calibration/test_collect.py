from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import make_bundles
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mmedge.calibration.collect import Collector, Sample
from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.layers import tensors_to_range
from mmedge.calibration.table import Calibration, Origin, read_calibration
from mmedge.runtime.errors import DataError, InvalidArgument
from mmedge.runtime.manifest import Manifest, read_manifest


@pytest.fixture(scope="module")
def model(digits_bundle: Path) -> onnx.ModelProto:
    return onnx.load(digits_bundle / "model.onnx")


@pytest.fixture(scope="module")
def manifest(digits_bundle: Path) -> Manifest:
    return read_manifest(digits_bundle)


@pytest.fixture(scope="module")
def origin(model: onnx.ModelProto, manifest: Manifest) -> Origin:
    return Origin.of(model, manifest, data="of the test", method="minmax")


def samples(count: int = 6) -> list[Sample]:
    def load(inputs: Mapping[str, Any]) -> Callable[[], Mapping[str, Any]]:
        return lambda: inputs

    found = [(name, load(inputs)) for name, inputs in make_bundles.raw_samples(count)]
    # One sample has only its picture.
    found[1] = (found[1][0], load({"image": make_bundles.raw_samples(2)[1][1]["image"]}))
    return found


@pytest.fixture(scope="module")
def collect(
    model: onnx.ModelProto, manifest: Manifest, digits_bundle: Path, origin: Origin
) -> Callable[..., Calibration]:
    def collect(found: list[Sample], origin: Origin = origin, **options: Any) -> Calibration:
        collector = Collector(model, manifest, digits_bundle, tensors_to_range(model), **options)
        return collector.collect(found, origin)

    return collect


def with_weights(model: onnx.ModelProto, value: float) -> tuple[onnx.ModelProto, onnx.NodeProto]:
    """The graph with all weights of its first convolution of pictures of this value, and that node."""
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    weight = next(entry for entry in broken.graph.initializer if len(entry.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values[:] = value
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return broken, next(node for node in broken.graph.node if weight.name in node.input)


def test_every_subset_of_every_sample_is_seen(collect: Callable[..., Calibration]) -> None:
    made = collect(samples())
    assert made.samples == 6
    assert made.rows == 5 * 3 + 1
    # Of an absent picture the encoder sees zeros.
    assert made.tensors["image"].minimum <= 0 <= made.tensors["image"].maximum
    assert all(entry.range == max(abs(entry.minimum), abs(entry.maximum)) > 0 for entry in made.tensors.values())


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_ranges_do_not_depend_on_the_batch(collect: Callable[..., Calibration], batch: int) -> None:
    expected, found = collect(samples(), batch=8), collect(samples(), batch=batch)
    assert found.rows == expected.rows
    for name, entry in expected.tensors.items():
        # The engine sums in another order for another batch.
        assert found.tensors[name].range == pytest.approx(entry.range, rel=1e-5)


def test_a_pass_broken_off_goes_on_where_it_was(
    collect: Callable[..., Calibration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmedge.calibration.collect._KEEP_EVERY", 2)
    state, whole = tmp_path / "state.json", samples()
    loaded: list[str] = []

    def counted(sample: Sample, fails: bool) -> Sample:
        def load() -> Mapping[str, Any]:
            loaded.append(sample[0])
            if fails:
                raise KeyboardInterrupt
            return sample[1]()

        return sample[0], load

    with pytest.raises(KeyboardInterrupt):
        collect([counted(sample, index == 5) for index, sample in enumerate(whole)], state=state)
    assert state.exists()
    loaded.clear()
    found = collect([counted(sample, False) for sample in whole], state=state)
    assert loaded == [name for name, _ in whole[4:]]
    assert not state.exists()
    expected = collect(whole)
    assert found.rows == expected.rows
    for name, entry in expected.tensors.items():
        assert found.tensors[name].range == pytest.approx(entry.range, rel=1e-5)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_error_leaves_no_state_behind(
    model: onnx.ModelProto,
    manifest: Manifest,
    digits_bundle: Path,
    origin: Origin,
    value: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmedge.calibration.collect._KEEP_EVERY", 1)
    state, kept = tmp_path / "state.json", list[bool]()

    def progress(done: int, total: int) -> None:
        kept.append(state.exists())

    broken, taker = with_weights(model, value)
    collector = Collector(broken, manifest, digits_bundle, [taker.output[0]], state=state)
    with pytest.raises(CalibrationError):
        collector.collect(samples(3), origin, progress)
    assert kept == ([True] * 3 if np.isnan(value) else [])

    def damaged() -> Mapping[str, Any]:
        raise DataError("7.png: not a readable image")

    collector = Collector(model, manifest, digits_bundle, [taker.output[0]], state=state)
    with pytest.raises(DataError):
        collector.collect([*samples(3), ("last", damaged)], origin, progress)
    assert kept[-3:] == [True] * 3
    assert not any(tmp_path.iterdir())


def test_the_state_of_another_pass_is_refused(
    collect: Callable[..., Calibration], tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmedge.calibration.collect._KEEP_EVERY", 1)
    state = tmp_path / "state.json"

    def fail() -> Mapping[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect([*samples(2), ("last", fail)], state=state)
    with pytest.raises(CalibrationError, match=r"other: data \(it has of the test.*; remove it to start over"):
        collect(samples(), replace(origin, data="others"), state=state)
    other_method = replace(origin, method="percentile")
    assert collect(samples(), other_method, state=state).ranges == collect(samples(), other_method).ranges
    state.write_text("{}")
    with pytest.raises(CalibrationError, match="damaged"):
        collect(samples(), state=state)


@pytest.mark.parametrize(("value", "message"), [(np.inf, "infinite in sample 0"), (np.nan, "NaN in every sample")])
def test_a_tensor_without_a_range_is_named_with_its_sample(
    model: onnx.ModelProto, manifest: Manifest, digits_bundle: Path, origin: Origin, value: float, message: str
) -> None:
    broken, taker = with_weights(model, value)
    collector = Collector(broken, manifest, digits_bundle, [taker.output[0]])
    named = [(f"sample {number}", load) for number, (_, load) in enumerate(samples())]
    with pytest.raises(CalibrationError, match=rf"tensor '{taker.output[0]}' is {message}"):
        collector.collect(named, origin)


def test_what_cannot_be_collected_is_refused(collect: Callable[..., Calibration], origin: Origin) -> None:
    with pytest.raises(CalibrationError, match="no sample"):
        collect([])
    with pytest.raises(InvalidArgument, match="methods are minmax, entropy, percentile, mse"):
        collect(samples(), replace(origin, method="best"))
    with pytest.raises(InvalidArgument, match="batches of 0"):
        collect(samples(), batch=0)


def test_a_calibration_comes_back_from_its_file(collect: Callable[..., Calibration], tmp_path: Path) -> None:
    made = collect(samples())
    file = tmp_path / "calibration.json"
    file.write_text(made.to_json())
    assert read_calibration(file) == made
    broken = [made.to_json().replace('"range": ', f'"range": {value}, "was": ') for value in ('"wide"', "NaN", "-1")]
    for wrong in ('{"version": 2}', "{", "[]", '{"version": 1}', *broken):
        file.write_text(wrong)
        with pytest.raises(CalibrationError, match="calibrate again"):
            read_calibration(file)


def test_one_changed_weight_makes_a_calibration_stale(
    model: onnx.ModelProto, manifest: Manifest, origin: Origin
) -> None:
    def changed(edit: Callable[[onnx.ModelProto], None]) -> Origin:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        edit(copy)
        return Origin.of(copy, manifest, "of the test", "minmax")

    def weight(copy: onnx.ModelProto) -> None:
        entry = next(entry for entry in copy.graph.initializer if len(entry.dims) == 4)
        values = numpy_helper.to_array(entry).copy()
        values.flat[3] += 1e-6
        entry.CopyFrom(numpy_helper.from_array(values, entry.name))

    def structure(copy: onnx.ModelProto) -> None:
        copy.graph.node.append(helper.make_node("Relu", ["logits"], ["more"], "more"))

    origin.check_same(changed(lambda copy: None), "calibration.json")
    with pytest.raises(CalibrationError, match=r"calibration.json was made from other: weights \("):
        origin.check_same(changed(weight), "calibration.json")
    with pytest.raises(CalibrationError, match=r"other: graph \("):
        origin.check_same(changed(structure), "calibration.json")
    other = manifest.model_copy(update={"inputs": [manifest.inputs[0].model_copy(update={"preprocess": {}})]})
    with pytest.raises(CalibrationError, match=r"other: preprocessing \("):
        origin.check_same(Origin.of(model, other, "of the test", "minmax"), "calibration.json")
    with pytest.raises(CalibrationError, match=r"other: data .* method \("):
        origin.check_same(replace(origin, data="d", method="mse"), "calibration.json")
