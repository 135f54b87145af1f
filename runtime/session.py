"""A bundle ready to run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.inputs import from_c_tensor, present, to_c_audio, to_c_image, to_c_tensor
from mmedge.runtime.manifest import Manifest
from mmedge.runtime.native import check, ffi, find_onnxruntime, lib, path_bytes, struct, text


@dataclass(frozen=True)
class Result:
    """What one run found."""

    label: str
    score: float
    """Probability of `label`, 0 to 1."""
    scores: dict[str, float]
    """Probability by label, best first."""
    outputs: dict[str, npt.NDArray[np.float32]]
    """The graph's raw outputs by name, without the batch dimension."""
    timings: dict[str, float]
    """Microseconds by stage: "preprocess.NAME" per input, "engine", "postprocess", "total"."""


class Session:
    """Runs a bundle: preprocess, engine, postprocess, all in libmmedge.

    One thread at a time; give each thread a session of its own. Calls release the GIL while C works.

    Args:
        bundle: the bundle's directory.
        onnxruntime: path of libonnxruntime.so; by default the installed onnxruntime package's, then the system's.
        threads: threads inside one run.

    Raises:
        BundleError: the bundle is missing, damaged or too new.
        EngineError: no ONNX Runtime from 1.23 on was found, or it refuses the graph.
    """

    def __init__(self, bundle: str | os.PathLike[str], *, onnxruntime: str | None = None, threads: int = 1) -> None:
        library = ffi.new("char[]", os.fsencode(onnxruntime or find_onnxruntime()))
        options = struct("mme_model_options", onnxruntime=library, threads=threads)
        model, session = ffi.new("mme_model **"), ffi.new("mme_session **")
        check(lib.mme_model_open(path_bytes(bundle), options, model))
        self._model = ffi.gc(model[0], lib.mme_model_close)
        check(lib.mme_session_create(self._model, ffi.NULL, session))
        self._session = ffi.gc(session[0], lib.mme_session_destroy)
        info = struct("mme_model_info")
        check(lib.mme_model_get_info(self._model, info))
        self.engine = text(info.engine)
        """Engine, version and where it was found."""
        self.manifest = Manifest.model_validate_json(text(info.manifest))
        self.labels = self.manifest.labels

    def run(self, *, tensors: Mapping[str, npt.NDArray[np.float32]] | None = None, **inputs: Any) -> Result:
        """Run on one moment's inputs, by input name; one left out, or None, is absent.

        Images are an `Image` or a plain array (uint8, [height, width, 3] RGB or [height, width] grey), audio an
        `Audio`; `tensors` holds ready float32 tensors without the batch dimension.

        Raises:
            InvalidArgument: an unknown input, a wrong type or shape, or nothing present.
            DataError: the data itself is unusable, such as empty audio or a NaN sample.
            EngineError: the engine failed, or an output holds NaN or infinity.
        """
        tensors = present(tensors or {})
        inputs = present(inputs)
        twice = sorted(tensors.keys() & inputs.keys())
        if twice:
            raise InvalidArgument(f"given both as data and as a tensor: {', '.join(twice)}; give one")
        modalities = {entry.name: entry.modality for entry in self.manifest.inputs}
        for name in [*inputs, *tensors]:
            if name not in modalities:
                raise InvalidArgument(f"the model has no input {name!r}; it has {', '.join(modalities)}")
        for name, modality in modalities.items():
            encoded = name.encode()
            if name in tensors:
                tensor, _shape = to_c_tensor(tensors[name])
                check(lib.mme_session_set_tensor(self._session, encoded, tensor))
            elif name not in inputs:
                check(lib.mme_session_set_absent(self._session, encoded))
            elif modality == "image":
                check(lib.mme_session_set_image(self._session, encoded, to_c_image(inputs[name])))
            else:
                check(lib.mme_session_set_audio(self._session, encoded, to_c_audio(inputs[name])))
        result = struct("mme_result")
        check(lib.mme_session_run(self._session, result))
        scores = np.frombuffer(ffi.buffer(result.scores, 4 * result.class_count), np.float32)
        ranking = np.frombuffer(ffi.buffer(result.ranking, 4 * result.class_count), np.int32)
        return Result(
            label=text(result.label),
            score=float(result.score),
            scores={self.labels[i]: float(scores[i]) for i in ranking},
            outputs=dict(self._read(result.output_count, "mme_tensor", lib.mme_session_output, _named_tensor)),
            timings=dict(self._read(result.timing_count, "mme_timing", lib.mme_session_timing, _microseconds)),
        )

    def _read(self, count: int, kind: str, get: Any, convert: Any) -> Any:
        for index in range(count):
            value = struct(kind)
            check(get(self._session, index, value))
            yield convert(value)


def _named_tensor(tensor: Any) -> tuple[str, npt.NDArray[np.float32]]:
    return text(tensor.name), from_c_tensor(tensor)


def _microseconds(timing: Any) -> tuple[str, float]:
    return text(timing.stage), timing.nanoseconds / 1000
