"""Compare two bundles of one model, tensor by tensor, on real samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

import onnx

from mmedge.calibration.collect import subset_rows
from mmedge.calibration.divergence import Divergence, Row, find_divergence, write_reproduction
from mmedge.calibration.half import as_an_engine_computes
from mmedge.data.folder import read_split, spread
from mmedge.runtime import Preprocessor
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.manifest import Manifest, read_manifest


def diff_bundles(
    first: Path, second: Path, data: Path, *, split: str, samples: int, tolerance: float, target: str, save: Path | None
) -> Divergence:
    """Find where the graphs for `target` of two bundles part, on rows of a split under every subset of modalities.

    Both graphs get the same tensors, so that the preprocessing of both has to be the same. Where they part and `save`
    is given, that folder gets what shows it (see `write_reproduction`).

    Raises:
        InvalidArgument: their inputs or their preprocessing differ, no sample is asked for, the tolerance is no number
            from 0 on, or `save` is there already.
        BundleError, DataError, CalibrationError: as `read_manifest`, `read_split` and `find_divergence`.
    """
    if samples < 1:
        raise InvalidArgument(f"found {samples} samples; expected at least 1")
    if not 0 <= tolerance < inf:
        raise InvalidArgument(f"found a tolerance of {tolerance}; expected a number from 0 on")
    if save is not None and save.exists():
        raise InvalidArgument(f"{save} is there already; name a folder to make")
    manifest, other = read_manifest(first), read_manifest(second)
    if [(entry.name, entry.shape) for entry in manifest.inputs] != [
        (entry.name, entry.shape) for entry in other.inputs
    ]:
        raise InvalidArgument(f"{first} and {second} take other inputs; expected two bundles of one model")
    _check_preprocessing(manifest, other, second)
    preprocessors = {entry.name: Preprocessor(entry.preprocess, first) for entry in manifest.inputs}
    names: dict[str, str] = {entry.modality: entry.name for entry in manifest.inputs}
    labels = None if manifest.task == "embedding" else manifest.labels
    chosen = spread(read_split(data, split, list(names), labels), samples)

    def rows() -> Iterator[Row]:
        for sample in chosen:
            inputs = {names[modality]: value for modality, value in sample.load().items()}
            for row in subset_rows(manifest, inputs, preprocessors):
                shown = zip(manifest.inputs, row[manifest.presence], strict=True)
                yield f"line {sample.line} with {' + '.join(entry.name for entry, there in shown if there)}", row

    graphs = _graph(first, manifest, target), _graph(second, other, target)
    found = find_divergence(*graphs, rows(), tolerance)
    if found.first is not None and save is not None:
        worst = found.first.worst
        save.mkdir(parents=True)
        write_reproduction(save, *graphs, found, next(row for sample, row in rows() if sample == worst))
    return found


def _check_preprocessing(manifest: Manifest, other: Manifest, second: Path) -> None:
    for entry, its in zip(manifest.inputs, other.inputs, strict=True):
        for key in sorted(entry.preprocess.keys() | its.preprocess.keys()):
            expected, found = (_setting(*side, key) for side in ((manifest, entry.preprocess), (other, its.preprocess)))
            if found != expected:
                raise InvalidArgument(
                    f"preprocessing of the input {entry.name}: {second} has {key} {found}, expected {expected} as in "
                    "the first; both graphs get the same tensors, so compare two bundles that prepare them alike"
                )


def _setting(manifest: Manifest, preprocess: Mapping[str, Any], key: str) -> str:
    """A key's value as it is told; of a file in the bundle its hash too."""
    value = preprocess.get(key)
    file = manifest.files.get(value) if isinstance(value, str) else None
    return "not there" if value is None else f"{value!r}" + (f" of SHA-256 {file.sha256[:12]}" if file else "")


def _graph(bundle: Path, manifest: Manifest, target: str) -> onnx.ModelProto:
    """The graph for a target, or the only one; another engine's as that computes it."""
    fitting = [graph for graph in manifest.graphs if graph.target.startswith(target)] or manifest.graphs
    model = onnx.load(bundle / fitting[0].path)
    return model if fitting[0].target.startswith("onnxruntime") else as_an_engine_computes(model)
