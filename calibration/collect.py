"""One pass over real samples through the device's own preprocessing: what values the tensors of a graph take."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.graph import with_outputs
from mmedge.calibration.histogram import Histogram
from mmedge.calibration.ranges import METHODS
from mmedge.calibration.table import Calibration, Origin, TensorRange
from mmedge.runtime import Preprocessor
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.manifest import Manifest
from mmedge.runtime.native import find_library

Sample = tuple[str, Callable[[], Mapping[str, Any]]]
"""A name for messages, and what loads the raw inputs of those modalities that the sample has."""

_KEEP_EVERY = 50  # samples between two states on disk


def subset_rows(
    manifest: Manifest, inputs: Mapping[str, Any], preprocessors: Mapping[str, Preprocessor]
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The graph's inputs, without the batch dimension, for every non-empty subset of the modalities of a sample."""
    tensors = {name: preprocessors[name](data) for name, data in inputs.items() if data is not None}
    for count in range(1, len(tensors) + 1):
        for subset in combinations(tensors, count):
            row: dict[str, npt.NDArray[Any]] = {
                entry.name: tensors[entry.name] if entry.name in subset else np.zeros(entry.shape, entry.dtype)
                for entry in manifest.inputs
            }
            row[manifest.presence] = np.array([entry.name in subset for entry in manifest.inputs])
            yield row


def session_on_one_thread(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime with our operators, as libmmedge runs it, computing on the caller's thread."""
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(find_library("libmmedge_onnxruntime.so"))
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Collector:
    """Counts the values of `tensors` of a graph.

    The samples are taken in batches of `batch` rows, which alone bound the memory. With `state`, a file, a pass that
    was interrupted goes on where it was; the file is removed at the end, and by an error, which would come again.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        manifest: Manifest,
        directory: Path,
        tensors: Sequence[str],
        *,
        batch: int = 16,
        state: Path | None = None,
    ) -> None:
        if batch < 1:
            raise InvalidArgument(f"found batches of {batch} rows; expected at least 1")
        self._manifest, self._batch, self._state = manifest, batch, state
        self._histograms = {name: Histogram() for name in tensors}
        self._first_nan: dict[str, str] = {}
        self._rows = 0
        self._session = session_on_one_thread(with_outputs(model, list(tensors)))
        self._preprocessors = {entry.name: Preprocessor(entry.preprocess, directory) for entry in manifest.inputs}

    def collect(
        self,
        samples: Sequence[Sample],
        origin: Origin,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Calibration:
        """The ranges by the method that `origin` names.

        Raises:
            CalibrationError: a tensor holds an infinity, or nothing but NaN, or there is no sample; the state on disk
                is of something else.
            InvalidArgument: an unknown method.
        """
        if origin.method not in METHODS:
            raise InvalidArgument(f"unknown method {origin.method!r}; the methods are {', '.join(METHODS)}")
        if not samples:
            raise CalibrationError("there is no sample to calibrate on; expected at least one")
        done = self._resume(origin)
        try:
            self._pass(samples, done, origin, progress)
            made = Calibration(origin, len(samples), self._rows, self._ranges(METHODS[origin.method]))
        except Exception:
            self._forget()
            raise
        self._forget()
        return made

    def _pass(self, samples: Sequence[Sample], done: int, origin: Origin, progress: Callable[[int, int], None]) -> None:
        waiting: list[tuple[str, dict[str, npt.NDArray[Any]]]] = []
        for number, (name, load) in enumerate(samples[done:], done + 1):
            rows = subset_rows(self._manifest, load(), self._preprocessors)
            waiting += [(name, row) for row in rows]
            last = number == len(samples)
            keep = self._state is not None and (number % _KEEP_EVERY == 0 or last)
            while len(waiting) >= self._batch or (waiting and (keep or last)):
                self._run(waiting[: self._batch])
                del waiting[: self._batch]
            if keep:
                self._keep(origin, number)
            progress(number, len(samples))

    def _run(self, rows: Sequence[tuple[str, Mapping[str, npt.NDArray[Any]]]]) -> None:
        feeds = {name: np.stack([row[name] for _, row in rows]) for name in rows[0][1]}
        names = list(self._histograms)
        found = self._session.run(names, feeds) if names else []  # which gives all outputs where none is named
        for name, values in zip(names, found, strict=True):
            histogram = self._histograms[name]
            if not histogram.add(values):
                where = _first(rows, np.isinf(values))
                raise CalibrationError(f"tensor {name!r} is infinite in {where}; no range holds it. Look at the model")
            if histogram.nans and name not in self._first_nan:
                self._first_nan[name] = _first(rows, np.isnan(values))
        self._rows += len(rows)

    def _ranges(self, method: Callable[[Histogram], float]) -> dict[str, TensorRange]:
        ranges = {}
        for name, histogram in self._histograms.items():
            if not histogram.values:
                raise CalibrationError(f"tensor {name!r} is NaN in every sample, first in {self._first_nan[name]}")
            ranges[name] = TensorRange(method(histogram), histogram.minimum, histogram.maximum, histogram.nans)
        return ranges

    # ---- The state of a pass that may be interrupted -----------------------------------------------------------------

    def _forget(self) -> None:
        if self._state is not None:
            self._state.unlink(missing_ok=True)

    def _keep(self, origin: Origin, done: int) -> None:
        assert self._state is not None
        found = {
            "origin": asdict(origin),
            "done": done,
            "rows": self._rows,
            "first_nan": self._first_nan,
            "histograms": {name: histogram.to_dict() for name, histogram in self._histograms.items()},
        }
        beside = self._state.with_name(self._state.name + ".new")
        beside.write_text(json.dumps(found), encoding="utf-8")
        os.replace(beside, self._state)

    def _resume(self, origin: Origin) -> int:
        """Take up the state on disk: how many samples it has seen."""
        if self._state is None or not self._state.exists():
            return 0
        try:
            found = json.loads(self._state.read_text(encoding="utf-8"))
            before, kept = Origin(**found["origin"]), found["histograms"]
            histograms = {name: Histogram.from_dict(kept[name]) for name in self._histograms}
            done, rows, first_nan = found["done"], found["rows"], found["first_nan"]
        except (ValueError, KeyError, TypeError) as error:
            raise CalibrationError(f"{self._state} is damaged ({error}); remove it to start over") from error
        before = replace(before, method=origin.method)  # which only says what is made of the histograms
        before.check_same(origin, f"{self._state}, the state of a pass that was broken off,", "remove it to start over")
        self._histograms, self._rows, self._first_nan = histograms, rows, first_nan
        return int(done)


def _first(rows: Sequence[tuple[str, Any]], marked: npt.NDArray[np.bool_]) -> str:
    """The sample of the first row in which something is marked."""
    return next(sample for (sample, _), part in zip(rows, marked, strict=True) if part.any())
