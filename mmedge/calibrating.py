"""Calibrate a bundle: hands the calibration real samples and a measure of accuracy, and writes what it finds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from mmedge.budget import accuracy_drop
from mmedge.calibration.blocks import half_within
from mmedge.calibration.collect import Collector, subset_rows
from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.errors import BudgetExceeded, CalibrationError
from mmedge.calibration.graph import blocks_of, nodes_in_int8, with_names
from mmedge.calibration.half import as_an_engine_computes, nodes_in_half
from mmedge.calibration.layers import find_layers, find_tables, quantizable, tensors_to_range
from mmedge.calibration.search import Point, Search, layer_noise, measure_speedup, microseconds, search_layers
from mmedge.calibration.table import CALIBRATION_FILE, Calibration, Origin, read_calibration, told_nans
from mmedge.data.folder import Sample, content_hash, read_split, spread
from mmedge.evaluation import Evaluation, evaluate
from mmedge.export.writing import check_destination, staged, write_bundle
from mmedge.predicting import bundle_predictor
from mmedge.report.page import Precision, write_report
from mmedge.runtime import Preprocessor
from mmedge.runtime.errors import InvalidArgument, NotFinite
from mmedge.runtime.manifest import Graph, Manifest, read_manifest

GRAPH_FILE, TENSORRT_FILE, REPORT_FILE = "model.onnx", "model.tensorrt.onnx", "report.html"
_NOISE_SAMPLES = 8  # of those calibrated on, for the noise of single layers

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CalibratedBundle:
    """What was written. before, after, tensorrt: the accuracy of the bundle it is made of, of its own graph, and of the
    one for TensorRT, computed on this CPU; search: of the layers in INT8, None in FP16; bytes: of the graphs before and
    after, the last being TensorRT's.
    """

    path: Path
    manifest: Manifest
    search: Search | None
    before: Evaluation
    after: Evaluation
    tensorrt: Evaluation
    bytes: tuple[int, int, int]

    @property
    def drop(self) -> float:
        """Points lost by that of its graphs that loses more."""
        return max(accuracy_drop(self.before, after) for after in (self.after, self.tensorrt))


@dataclass(frozen=True)
class Settings:
    """precision: "int8", the rest of TensorRT's graph being FP16; "fp16", which only TensorRT's graph gets; or "auto",
    the fewest bits of "int8", FP16 and FP32 that each graph has within the budget. Blocks of the model that lose too
    much in FP16 are FP32 in all of them.

    samples: rows of `calibration_split` to take ranges from by `method`; ranges: a calibration.json of just these to
    read instead, or a bundle with one; "fp16" reads none of these. max_accuracy_drop: points of a hundred that accuracy
    on `evaluation_split` may fall, as `accuracy_drop` has it.

    Raises:
        InvalidArgument: there are no samples, or the drop is no number from 0 on.
    """

    precision: Literal["int8", "fp16", "auto"] = "int8"
    calibration_split: str = "train"
    evaluation_split: str = "validation"
    samples: int = 200
    method: str = "mse"
    max_accuracy_drop: float = 0.5
    ranges: Path | None = None

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 <= self.max_accuracy_drop < inf:
            raise InvalidArgument(
                f"found {self.samples} samples and a drop of {self.max_accuracy_drop}; expected at least 1 and 0"
            )


def calibrate_bundle(
    bundle: Path,
    destination: Path,
    data: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    progress: Progress = lambda stage, done, total: None,
    found: Callable[[Point], None] = lambda point: None,
) -> CalibratedBundle:
    """Write a bundle that computes like `bundle` in fewer bits, within a budget of accuracy.

    In INT8 are those layers that are faster so on this CPU and together accurate enough; none, if so it comes out.
    TensorRT's graph, which cannot be timed here, has all that are accurate enough. Every subset of modalities is
    calibrated on and measured, through libmmedge. A pass over the samples that is broken off goes on where it was.

    Raises:
        BundleError: there is no such bundle, or the destination exists. DataError: as `read_split`.
        InvalidArgument: it has fewer bits already or is not for ONNX Runtime.
        CalibrationError: a tensor has no range, a modality is in no row, or the ranges given are of something else.
        BudgetExceeded: TensorRT's graph loses more, or "int8" is asked for and it has no layer in INT8.
    """
    check_destination(destination, overwrite)
    work = _Work(bundle, destination, data, settings, progress)
    work.check_held_out()
    if settings.precision == "int8" and not work.layers:
        raise CalibrationError(
            f"{bundle} has no layer that can be in INT8: no convolution, product or table of constant weights; "
            "take the precision fp16 or auto"
        )
    calibration = None if settings.precision == "fp16" else work.calibrate()
    before = work.score(None)
    after, graph, search, candidates = before, work.model, None, list[onnx.ModelProto]()
    if calibration is not None:
        after, graph, search, candidates = work.search_int8(calibration.ranges, before, found)
    if settings.precision == "int8" and not candidates:
        raise BudgetExceeded(
            f"TensorRT's graph has no layer in INT8 where {settings.max_accuracy_drop:g} points are allowed; "
            "allow more, calibrate on more samples or by another method, "
            "train with mmedge train --qat, or take the precision auto"
        )
    if settings.precision != "int8":
        candidates.append(work.model)
    for_tensorrt, tensorrt, in_float32 = work.first_within_budget(candidates, before)
    graphs = {GRAPH_FILE: graph, TENSORRT_FILE: for_tensorrt}
    computed = {name: {"precision": _precision(g), "int8": nodes_in_int8(g)} for name, g in graphs.items()}
    if in_float32:
        computed[TENSORRT_FILE]["float32"] = list(in_float32)
    where = f"{data.name}/{settings.evaluation_split}"
    times, nans = work.microseconds(graph), calibration.nans if calibration else {}
    evidence = {
        **work.manifest.evidence,
        "accuracy": after.to_evidence(where),
        "calibration": {
            "accuracy_fp32": before.to_evidence(where),
            "accuracy_tensorrt": tensorrt.to_evidence(where),
            "max_accuracy_drop": settings.max_accuracy_drop,
            "microseconds": times,
            "layers": len(work.layers),
            "graphs": computed,
            **({"nans": nans} if nans else {}),
            **(asdict(search) if search else {}),
        },
    }
    with staged(destination, overwrite) as folder:
        report = Precision([before, after, tensorrt], times, search, settings.max_accuracy_drop)
        facts = [("bundle", bundle.name), ("accuracy on", where), ("layers", str(len(work.layers)))]
        facts += [("NaN left out of ranges", told_nans(nans))] if nans else []
        write_report(
            folder / REPORT_FILE, after, title=f"{destination.stem}, calibrated", facts=facts, precision=report
        )
        page = (folder / REPORT_FILE).read_bytes()
        manifest = work.write(folder, graphs, evidence, {REPORT_FILE: page})
        paths = [bundle / work.manifest.graphs[0].path, *(folder / entry.path for entry in manifest.graphs)]
        sizes = [path.stat().st_size for path in paths]
    return CalibratedBundle(destination, manifest, search, before, after, tensorrt, (sizes[0], sizes[1], sizes[2]))


def take_ranges(bundle: Path, data: Path, settings: Settings, progress: Progress) -> Calibration:
    """The ranges that `calibrate_bundle` would take. Raises as it does."""
    return _Work(bundle, bundle, data, settings, progress).calibrate()


class _Work:
    """A bundle being calibrated, and the samples."""

    def __init__(self, bundle: Path, destination: Path, data: Path, settings: Settings, progress: Progress) -> None:
        self.bundle, self.manifest = bundle, read_manifest(bundle)
        self._destination, self._settings, self._progress = destination, settings, progress
        graph = self.manifest.graphs[0]
        if len(self.manifest.graphs) > 1 or graph.precision != "fp32":
            raise InvalidArgument(f"{bundle} has fewer bits already; take the fp32 bundle it was made of")
        if not graph.target.startswith("onnxruntime"):
            raise InvalidArgument(
                f"{bundle} is written for {graph.target}; calibrate one for onnxruntime: what comes of it has a graph "
                "for TensorRT too"
            )
        self.model = with_names(onnx.load(bundle / graph.path))
        self.layers = quantizable(self.model)
        modalities = bundle_predictor(bundle)[1]
        labels = None if self.manifest.task == "embedding" else self.manifest.labels
        self._held_out = read_split(data, settings.evaluation_split, modalities, labels)
        if settings.precision == "fp16":  # takes no ranges, but is timed on rows
            self._rows = self._held_out
        else:
            self._rows = spread(read_split(data, settings.calibration_split, modalities, labels), settings.samples)
        self._modalities = modalities
        self._calibration: Calibration | None = None

    def check_held_out(self) -> None:
        """Raise CalibrationError where the budget could not be held for a modality, or for all of them together."""
        missing, split = _in_no_row(self._held_out, self._modalities), self._settings.evaluation_split
        if missing:
            raise CalibrationError(
                f"no row of the split {split} has {missing}, and accuracy is measured there, so the budget would not "
                "hold with it; measure on another split or other data"
            )
        if not any(set(self._modalities).issubset(sample.modalities) for sample in self._held_out):
            raise CalibrationError(
                f"no row of the split {split} has {' and '.join(self._modalities)}, and the budget is of the accuracy "
                "with all of them; measure on another split or other data"
            )

    def score(self, graph: onnx.ModelProto | None, stage: str = "accuracy, fp32") -> Evaluation:
        """The accuracy of the bundle with another graph; None: with its own."""
        with tempfile.TemporaryDirectory(prefix="mmedge-") as folder:
            if graph is not None:
                self.write(Path(folder), {GRAPH_FILE: graph}, {})
            predict, modalities, options = bundle_predictor(self.bundle if graph is None else Path(folder))
            return evaluate(
                predict,
                self._held_out,
                modalities,
                self.manifest.labels,
                **options,
                progress=lambda done, total: self._progress(stage, done, total),
            )

    def first_within_budget(
        self, graphs: Sequence[onnx.ModelProto], before: Evaluation
    ) -> tuple[onnx.ModelProto, Evaluation, tuple[str, ...]]:
        """The first of some graphs for TensorRT that in FP16 loses no more than is allowed, its accuracy, and which of
        its blocks are in FP32 for that. With "auto" the bundle's own if none does.
        """
        accuracy: dict[tuple[str, ...], Evaluation] = {}

        def score(graph: onnx.ModelProto, in_float32: tuple[str, ...]) -> float:
            stage = f"accuracy, TensorRT's graph in {_precision(graph)}"
            try:
                accuracy[in_float32] = self.score(
                    as_an_engine_computes(graph),
                    f"{stage}, {', '.join(in_float32)} in fp32" if in_float32 else stage,
                )
            except NotFinite:
                return float("inf")
            return accuracy_drop(before, accuracy[in_float32])

        blocks, budget, lost = blocks_of(self.model), self._settings.max_accuracy_drop, list[float]()
        for graph in graphs:
            half = half_within(graph, blocks, budget, score)
            if half.lost > budget:
                lost.append(half.lost)
            elif nodes_in_int8(graph) or nodes_in_half(half.model):
                return half.model, accuracy[half.in_float32], half.in_float32
        if self._settings.precision == "auto":
            return self.model, before, ()
        found = f"loses {min(100.0, *lost):.2f} points" if lost else "loses too much in FP16 in each of its blocks"
        raise BudgetExceeded(
            f"TensorRT's graph {found}, and {budget:g} are allowed; "
            "allow more, calibrate on more samples or by another method, or take the precision auto"
        )

    def search_int8(
        self, ranges: Mapping[str, float], before: Evaluation, found: Callable[[Point], None]
    ) -> tuple[Evaluation, onnx.ModelProto, Search, list[onnx.ModelProto]]:
        """The best choice of layers: its accuracy, its graph, how it was found, and graphs to try for TensorRT."""
        model = self.model
        accuracy: dict[tuple[str, ...], Evaluation] = {(): before}

        def emit(layers: Sequence[str]) -> onnx.ModelProto:
            return emit_cpu(model, ranges, layers) if layers else model

        def drop(layers: Sequence[str]) -> float:
            accuracy[tuple(layers)] = self.score(emit(layers), f"accuracy, {len(layers)} layers")
            return accuracy_drop(before, accuracy[tuple(layers)])

        feeds = self._feeds()
        sample = {name: values[-1:] for name, values in feeds.items()}
        search = search_layers(
            self.layers,
            layer_noise(model, emit, self.layers, feeds),
            self._settings.max_accuracy_drop,
            drop=drop,
            speedup=lambda layers, than: measure_speedup(emit(than), emit(layers), sample),
            report=found,
            for_size=find_tables(model),
        )
        chosen = search.chosen.layers
        choices = dict.fromkeys([search.largest.layers, chosen])
        # With a choice of tables and fusions alone, TensorRT computes nothing in INT8.
        products = {layer.name for layer in find_layers(model)}
        emitted = [emit_tensorrt(model, ranges, layers) for layers in choices if products.intersection(layers)]
        return accuracy[chosen], emit(chosen), search, emitted

    def calibrate(self) -> Calibration:
        """The ranges, taken or read; what is written from now on has them beside it."""
        unseen = _in_no_row(self._rows, self._modalities)
        if unseen:
            raise CalibrationError(
                f"none of the {len(self._rows)} rows of the split {self._settings.calibration_split} that ranges are "
                f"taken from has {unseen}, so what it goes through would have none; take another split, other data or "
                "more samples"
            )
        origin = Origin.of(self.model, self.manifest, content_hash(self._rows), self._settings.method)
        if self._settings.ranges is not None:
            file = self._settings.ranges
            file = file / CALIBRATION_FILE if file.is_dir() else file
            self._calibration = read_calibration(file)
            self._calibration.origin.check_same(origin, str(file))
            missing = set(tensors_to_range(self.model)).difference(self._calibration.ranges)
            if missing:
                raise CalibrationError(f"{file} has no range of {', '.join(sorted(missing))}; calibrate again")
            return self._calibration
        state = self._destination.with_name(f".{self._destination.name}.calibration")
        collector = Collector(self.model, self.manifest, self.bundle, tensors_to_range(self.model), state=state)
        samples = [(f"line {sample.line}", partial(self._load, sample)) for sample in self._rows]
        self._calibration = collector.collect(
            samples, origin, lambda done, total: self._progress("ranges", done, total)
        )
        return self._calibration

    def _load(self, sample: Sample) -> dict[str, Any]:
        inputs: dict[str, str] = {entry.modality: entry.name for entry in self.manifest.inputs}
        return {inputs[modality]: value for modality, value in sample.load().items()}

    def _feeds(self) -> dict[str, npt.NDArray[Any]]:
        """The graph's inputs for a few of the rows; the last of a sample has all of its modalities."""
        preprocessors = {entry.name: Preprocessor(entry.preprocess, self.bundle) for entry in self.manifest.inputs}
        found = [
            row
            for sample in spread(self._rows, _NOISE_SAMPLES)
            for row in subset_rows(self.manifest, self._load(sample), preprocessors)
        ]
        return {name: np.stack([row[name] for row in found]) for name in found[0]}

    def microseconds(self, graph: onnx.ModelProto) -> dict[str, tuple[float, float]]:
        """Of one sample under each subset of its modalities: a run of the bundle's graph, and of `graph`."""
        feeds = self._feeds()
        found = {}
        for index, flags in enumerate(feeds[self.manifest.presence]):
            subset = "+".join(entry.modality for entry, there in zip(self.manifest.inputs, flags, strict=True) if there)
            if subset not in found:
                one = {name: values[index : index + 1] for name, values in feeds.items()}
                found[subset] = microseconds(self.model, graph, one)
        return found

    def write(
        self,
        folder: Path,
        graphs: Mapping[str, onnx.ModelProto],
        evidence: Mapping[str, Any],
        others: Mapping[str, bytes] | None = None,
    ) -> Manifest:
        """A bundle like the one there, of other graphs, with `others` among its files."""
        replaced = {entry.path for entry in self.manifest.graphs}
        files = {name: (self.bundle / name).read_bytes() for name in self.manifest.files if name not in replaced}
        files |= {name: graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}
        files |= others or {}
        if self._calibration is not None:
            files[CALIBRATION_FILE] = self._calibration.to_json().encode()
        target = self.manifest.graphs[0].target
        entries = [
            Graph(
                path=name,
                precision=_precision(graph),
                target="tensorrt" if name == TENSORRT_FILE else target,
                opset=next(entry.version for entry in graph.opset_import if entry.domain == ""),
                ir_version=graph.ir_version,
            )
            for name, graph in graphs.items()
        ]
        return write_bundle(
            folder, self.manifest.model_copy(update={"graphs": entries, "evidence": dict(evidence)}), files
        )


def _precision(graph: onnx.ModelProto) -> Literal["fp32", "fp16", "int8"]:
    """The fewest bits that anything in it computes in."""
    types = {entry.data_type for entry in graph.graph.initializer}
    if TensorProto.INT8 in types:
        return "int8"
    return "fp16" if TensorProto.FLOAT16 in types else "fp32"


def _in_no_row(rows: Sequence[Sample], modalities: Sequence[str]) -> str:
    """Those modalities that no row has, as a sentence names them."""
    there = {modality for sample in rows for modality in sample.modalities}
    return " or ".join(modality for modality in modalities if modality not in there)
