"""A bundle ready to run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mmedge.runtime.arrays import from_c_tensor, to_c_tensor
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.inputs import Audio, Image, to_c_audio
from mmedge.runtime.manifest import Manifest
from mmedge.runtime.native import check, ffi, find_onnxruntime, lib, path_bytes, struct, text


class Stage(NamedTuple):
    """One stage of a run: when it began, on the clock of `time.monotonic_ns()`, and how long it took. `begin_ns` is 0
    for the preprocessing of an absent input.
    """

    stage: str
    begin_ns: int
    nanoseconds: int


@dataclass(frozen=True)
class Result:
    """What one run found."""

    label: str
    score: float
    """Probability of `label`, 0 to 1."""
    scores: dict[str, float]
    """Probability by label, best first; the best `top_k` if the session was made with that."""
    outputs: dict[str, npt.NDArray[np.float32]]
    """The graph's raw outputs by name, without the batch dimension."""
    timings: dict[str, float]
    """Microseconds by stage: "preprocess.NAME" per input, "engine", "postprocess", "total"."""
    timeline: tuple[Stage, ...] = ()
    """The same stages with the times they began."""


class Session:
    """Runs a bundle: preprocess, engine, postprocess, all in libmmedge.

    One thread at a time; give each thread a session of its own. Calls release the GIL while C works.

    Args:
        bundle: the bundle's directory.
        onnxruntime: path of libonnxruntime.so; by default the installed onnxruntime package's, then the system's.
        threads: threads inside one run.
        provider: what runs the graph. Another is never taken in its place: a graph that it cannot run whole is
            refused.
        device: number of the GPU.
        arena: keep memory from run to run; without, each gives it back, slower and smaller.
        spinning: idle threads spin for a while instead of sleeping: faster by microseconds, for a core's power.
        flush_denormals: take denormal numbers for zero; computing with them is many times slower.
        affinities: processors for the threads after the caller's own, "1;2" or "1-2;3", as many as threads - 1;
            None: any.
        cache: an existing directory for what the engine makes of the graph, for a faster next start. Files there are
            trusted as this program is: keep it private.
        top_k: classes to rank; None: all.

    Raises:
        BundleError: the bundle is missing, damaged or too new.
        EngineError: no ONNX Runtime from 1.23 on was found, it lacks the provider, or it refuses the graph.
        InvalidArgument: an option has an impossible value.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        onnxruntime: str | None = None,
        threads: int = 1,
        provider: Literal["cpu", "cuda", "tensorrt"] = "cpu",
        device: int = 0,
        arena: bool = True,
        spinning: bool = False,
        flush_denormals: bool = True,
        affinities: str | None = None,
        cache: str | os.PathLike[str] | None = None,
        top_k: int | None = None,
    ) -> None:
        # The struct holds bare addresses, so each string needs a name here.
        library = ffi.new("char[]", os.fsencode(onnxruntime or find_onnxruntime()))
        chosen = ffi.new("char[]", provider.encode())
        processors = ffi.NULL if affinities is None else ffi.new("char[]", affinities.encode())
        folder = ffi.NULL if cache is None else ffi.new("char[]", path_bytes(cache))
        options = struct(
            "mme_model_options",
            onnxruntime=library,
            threads=threads,
            provider=chosen,
            device=device,
            disable_arena=not arena,
            allow_spinning=spinning,
            keep_denormals=not flush_denormals,
            affinities=processors,
            cache=folder,
        )
        model, session = ffi.new("mme_model **"), ffi.new("mme_session **")
        check(lib.mme_model_open(path_bytes(bundle), options, model))
        self._model = ffi.gc(model[0], lib.mme_model_close)
        if top_k is not None and top_k < 1:
            raise InvalidArgument(f"top_k is {top_k}; expected at least 1, or None for all classes")
        check(lib.mme_session_create(self._model, struct("mme_session_options", top_k=top_k or 0), session))
        self._session = ffi.gc(session[0], lib.mme_session_destroy)
        info = struct("mme_model_info")
        check(lib.mme_model_get_info(self._model, info))
        self.engine = text(info.engine)
        """Engine, version and where it was found."""
        self.manifest = Manifest.model_validate_json(text(info.manifest))
        self.labels = self.manifest.labels
        self._inputs = {entry.name: (entry.name.encode(), entry) for entry in self.manifest.inputs}
        self._pushed: set[str] = set()
        # Filled anew by every run.
        self._result, self._tensor, self._timing = struct("mme_result"), struct("mme_tensor"), struct("mme_timing")

    def run(self, *, tensors: Mapping[str, Any] | None = None, copy: bool = True, **inputs: Any) -> Result:
        """Run on one moment's inputs, by input name; one left out is absent unless samples were pushed to it, and
        None is absent in any case.

        Images are an `Image` or whatever it takes without a format (such as uint8 [height, width, 3] RGB), audio is an
        `Audio`. `tensors` holds ready tensors of the input's dtype without the batch dimension: NumPy arrays, DLPack
        objects or buffers with a shape, contiguous.

        Without `copy`, the result's outputs are read-only views of the session's memory: the next run overwrites them.

        Raises:
            InvalidArgument: an unknown input, a wrong type or shape, or nothing present.
            DataError: the data itself is unusable, such as empty audio or a NaN sample.
            EngineError: the engine failed, or an output holds NaN or infinity.
        """
        tensors = {name: value for name, value in (tensors or {}).items() if value is not None}
        self._check_names(inputs, tensors)
        for name in self._inputs:
            if name in tensors:
                self._set_tensor(name, tensors[name])
            elif inputs.get(name) is not None:
                self._set(name, inputs[name])
            elif name in inputs or name not in self._pushed:
                check(lib.mme_session_set_absent(self._session, self._inputs[name][0]))
        status = lib.mme_session_run(self._session, self._result)
        self._pushed.clear()
        check(status)
        return self._read(copy)

    def push_audio(self, name: str, audio: Audio) -> None:
        """Feed live samples to input `name`, which is thereby present in the next run, even if they are none.

        Work is done for the new hops only, and the run sees the last window, silence before the first sample. The
        input's preprocessing must ask for a window ("samples"). All pushes of a stream have one dtype, channel count
        and sample rate, until `reset_audio`.

        Raises:
            InvalidArgument: an unknown input, no audio, no window, or another kind of audio than before.
            DataError: a NaN sample; nothing of this push is used.
        """
        check(lib.mme_session_push_audio(self._session, name.encode(), to_c_audio(audio)))
        self._pushed.add(name)

    def reset_audio(self, name: str) -> None:
        """Forget the samples pushed to input `name`: the next push begins a new stream.

        Raises:
            InvalidArgument: an unknown input, or no audio.
        """
        check(lib.mme_session_reset_audio(self._session, name.encode()))
        self._pushed.discard(name)

    def _check_names(self, inputs: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        given = {name for name, value in inputs.items() if value is not None}
        for name in [*inputs, *tensors]:
            if name not in self._inputs:
                raise InvalidArgument(f"the model has no input {name!r}; it has {', '.join(self._inputs)}")
        for ways, twice in (
            ("as data and as a tensor", given & tensors.keys()),
            ("to push_audio and to run", self._pushed & (given | tensors.keys())),
        ):
            if twice:
                raise InvalidArgument(f"given both {ways}: {', '.join(sorted(twice))}; give one")

    def _set(self, name: str, value: Any) -> None:
        encoded, entry = self._inputs[name]
        if isinstance(value, Audio) != (entry.modality == "audio"):
            expected = "an Audio(samples, sample_rate)" if entry.modality == "audio" else "an Image or pixels"
            raise InvalidArgument(f"input {name!r}: found {type(value).__name__}; expected {expected}")
        if isinstance(value, Audio):
            check(lib.mme_session_set_audio(self._session, encoded, to_c_audio(value)))
        else:
            frame = value if isinstance(value, Image) else Image(value)
            check(lib.mme_session_set_image(self._session, encoded, frame.c_struct))

    def _set_tensor(self, name: str, value: Any) -> None:
        encoded, entry = self._inputs[name]
        check(lib.mme_session_set_tensor(self._session, encoded, to_c_tensor(value, entry.dtype)))

    def _read(self, copy: bool) -> Result:
        found = self._result
        probabilities = ffi.unpack(found.scores, found.class_count)
        ranking = ffi.unpack(found.ranking, found.ranking_count)
        outputs = {}
        for index in range(found.output_count):
            check(lib.mme_session_output(self._session, index, self._tensor))
            outputs[text(self._tensor.name)] = from_c_tensor(self._tensor, None if copy else self._session)
        timeline = []
        for index in range(found.timing_count):
            check(lib.mme_session_timing(self._session, index, self._timing))
            timeline.append(Stage(text(self._timing.stage), self._timing.begin, self._timing.nanoseconds))
        return Result(
            label=text(found.label),
            score=found.score,
            scores={self.labels[index]: probabilities[index] for index in ranking},
            outputs=outputs,
            timings={stage.stage: stage.nanoseconds / 1000 for stage in timeline},
            timeline=tuple(timeline),
        )
