"""Calibrate a bundle: hands the calibration real samples and a measure of accuracy, and writes what it finds."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mmedge.calibration.collect import Collector, subset_rows
from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.layers import find_layers, tensors_to_range
from mmedge.calibration.search import Point, Search, Stopwatch, layer_noise, search_layers
from mmedge.calibration.table import CALIBRATION_FILE, Calibration, Origin
from mmedge.data.folder import Sample, read_split
from mmedge.evaluation import Evaluation, bundle_predictor, evaluate
from mmedge.export.writing import check_destination, staged, write_bundle
from mmedge.runtime import Preprocessor, Session
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.manifest import Graph, Manifest, read_manifest

GRAPH_FILE, TENSORRT_FILE = "model.onnx", "model.tensorrt.onnx"
_NOISE_SAMPLES = 8  # of those calibrated on, for the noise of single layers

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CalibratedBundle:
    """A bundle that keeps to its budget. before, after: the accuracy of the one it is made of and its own."""

    path: Path
    manifest: Manifest
    calibration: Calibration
    search: Search
    before: Evaluation
    after: Evaluation
    bytes_before: int
    bytes_after: int


def calibrate_bundle(
    bundle: Path,
    destination: Path,
    *,
    data: Path,
    calibration_split: str,
    evaluation_split: str,
    samples: int,
    method: str,
    max_accuracy_drop: float,
    overwrite: bool,
    progress: Progress = lambda stage, done, total: None,
    found: Callable[[Point], None] = lambda point: None,
) -> CalibratedBundle:
    """Write a bundle that computes the layers of `bundle` in INT8, as far as that is faster and accurate enough.

    Ranges come from `samples` rows spread over one split, under every subset of their modalities; the accuracy that may
    fall by `max_accuracy_drop` points is that of every subset on another split, through libmmedge. A pass that is
    broken off goes on where it was. Of the graph for TensorRT, which gets the same layers, nothing is measured here.

    Raises:
        BundleError: there is no such bundle, or the destination exists. InvalidArgument: it is quantised already, or
            there are no samples or no budget. CalibrationError: a tensor has no range. DataError: as `read_split`.
    """
    if samples < 1 or max_accuracy_drop < 0:
        raise InvalidArgument(f"found {samples} samples and a drop of {max_accuracy_drop}; expected at least 1 and 0")
    check_destination(destination, overwrite)
    manifest = read_manifest(bundle)
    if manifest.graphs[0].precision != "fp32":
        raise InvalidArgument(
            f"{bundle} computes in {manifest.graphs[0].precision} already; calibrate the fp32 bundle it was made of"
        )
    model = onnx.load(bundle / manifest.graphs[0].path)
    session = Session(bundle)
    _, modalities, _ = bundle_predictor(session)
    labels = None if manifest.task == "embedding" else manifest.labels
    rows = spread(read_split(data, calibration_split, modalities, labels), samples)
    held_out = read_split(data, evaluation_split, modalities, labels)

    calibration = _collect(bundle, destination, model, manifest, rows, method, progress)
    before = _score(session, held_out, progress, "accuracy, fp32")
    accuracy: dict[tuple[str, ...], Evaluation] = {(): before}

    def emit(layers: Sequence[str]) -> onnx.ModelProto:
        return emit_cpu(model, calibration.ranges, layers)

    def drop(layers: Sequence[str]) -> float:
        with tempfile.TemporaryDirectory(prefix="mmedge-") as folder:
            made = Path(folder)
            _write(made, bundle, manifest, {GRAPH_FILE: emit(layers)}, {})
            after = _score(Session(made), held_out, progress, f"accuracy, {len(layers)} layers")
        accuracy[tuple(layers)] = after
        return largest_drop(before, after)

    feeds = _feeds(bundle, manifest, rows)
    names = [layer.name for layer in find_layers(model)]
    stopwatch = Stopwatch(model, {name: values[-1:] for name, values in feeds.items()})
    search = search_layers(
        names,
        layer_noise(model, emit, names, feeds),
        max_accuracy_drop,
        drop=drop,
        speedup=lambda layers: stopwatch.speedup(emit(layers)),
        report=found,
    )
    chosen = search.chosen.layers
    after = accuracy[chosen]
    graphs = {GRAPH_FILE: emit(chosen) if chosen else model}
    if chosen:
        graphs[TENSORRT_FILE] = emit_tensorrt(model, calibration.ranges, chosen)
    evidence = {
        **manifest.evidence,
        "accuracy": after.to_evidence(f"{data.name}/{evaluation_split}"),
        "calibration": {
            "accuracy_fp32": before.to_evidence(f"{data.name}/{evaluation_split}"),
            "max_accuracy_drop": max_accuracy_drop,
            "layers": len(names),
            "points": [asdict(point) for point in search.points],
            "chosen": asdict(search.chosen),
        },
    }
    with staged(destination) as folder:
        manifest = _write(folder, bundle, manifest, graphs, evidence, calibration)
        sizes = [(place / manifest.graphs[0].path).stat().st_size for place in (bundle, folder)]
    return CalibratedBundle(destination, manifest, calibration, search, before, after, *sizes)


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """So many of `samples`, or all, evenly."""
    step = max(len(samples) // count, 1)
    return list(samples[::step][:count])


def largest_drop(before: Evaluation, after: Evaluation) -> float:
    """How much worse the main metric is, in points of a hundred, in the subset of modalities where most."""
    worse = []
    for old, new in zip(before.subsets, after.subsets, strict=True):
        if old.main.value is not None and new.main.value is not None:
            gain = new.main.value - old.main.value
            worse.append(100 * (-gain if old.main.larger_is_better else gain))
    return max(worse)


def _collect(
    bundle: Path,
    destination: Path,
    model: onnx.ModelProto,
    manifest: Manifest,
    rows: Sequence[Sample],
    method: str,
    progress: Progress,
) -> Calibration:
    origin = Origin.of(model, manifest, _data_hash(rows), method)
    state = destination.with_name(f".{destination.name}.calibration")
    collector = Collector(model, manifest, bundle, tensors_to_range(model), state=state)
    inputs: dict[str, str] = {entry.modality: entry.name for entry in manifest.inputs}

    def loader(sample: Sample) -> Callable[[], dict[str, Any]]:
        return lambda: {inputs[modality]: value for modality, value in sample.load().items()}

    named = [(f"line {sample.line}", loader(sample)) for sample in rows]
    return collector.collect(named, origin, lambda done, total: progress("ranges", done, total))


def _data_hash(rows: Sequence[Sample]) -> str:
    """SHA-256 of what the rows hold."""
    digest = hashlib.sha256()
    for sample in rows:
        digest.update(json.dumps([sample.text, sorted(sample.files)]).encode())
        for _, path in sorted(sample.files.items()):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _feeds(bundle: Path, manifest: Manifest, rows: Sequence[Sample]) -> dict[str, np.ndarray[Any, Any]]:
    """The graph's inputs for a few of the rows; the last of a sample has all of its modalities."""
    inputs: dict[str, str] = {entry.modality: entry.name for entry in manifest.inputs}
    preprocessors = {entry.name: Preprocessor(entry.preprocess, bundle) for entry in manifest.inputs}
    found = []
    for sample in spread(rows, _NOISE_SAMPLES):
        loaded = {inputs[modality]: value for modality, value in sample.load().items()}
        found += list(subset_rows(manifest, bundle, loaded, preprocessors))
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


def _score(session: Session, samples: Sequence[Sample], progress: Progress, stage: str) -> Evaluation:
    predict, modalities, options = bundle_predictor(session)
    return evaluate(
        predict,
        samples,
        modalities,
        session.labels,
        **options,
        progress=lambda done, total: progress(stage, done, total),
    )


def _write(
    folder: Path,
    bundle: Path,
    manifest: Manifest,
    graphs: dict[str, onnx.ModelProto],
    evidence: dict[str, Any],
    calibration: Calibration | None = None,
) -> Manifest:
    """A bundle like the one there, of other graphs."""
    replaced = {entry.path for entry in manifest.graphs} | {CALIBRATION_FILE}
    files = {name: (bundle / name).read_bytes() for name in manifest.files if name not in replaced}
    files |= {name: graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}
    if calibration is not None:
        files[CALIBRATION_FILE] = calibration.to_json().encode()
    first = manifest.graphs[0]
    entries = [
        Graph(
            path=name,
            precision="int8" if any(node.op_type == "QuantizeLinear" for node in graph.graph.node) else "fp32",
            target="tensorrt" if name == TENSORRT_FILE else first.target,
            opset=first.opset,
            ir_version=first.ir_version,
        )
        for name, graph in graphs.items()
    ]
    return write_bundle(folder, manifest.model_copy(update={"graphs": entries, "evidence": evidence}), files)
