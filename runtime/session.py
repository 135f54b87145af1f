"""A bundle ready to run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mmedge.runtime.arrays import from_c_memory, from_c_tensor, to_c_tensor
from mmedge.runtime.device import DeviceArray, LentTensor, from_device_tensor, to_device_tensor
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.inputs import Audio, Image, to_c_audio
from mmedge.runtime.manifest import check_is_folder, parse_manifest
from mmedge.runtime.native import check, ffi, find_onnxruntime, find_tensorrt, lib, path_bytes, struct, text


class Stage(NamedTuple):
    """One stage of a run: when it began, on the clock of `time.monotonic_ns()`, and how long it took. `begin_ns` is 0
    for the preprocessing of an absent input.
    """

    stage: str
    begin_ns: int
    nanoseconds: int


Box = tuple[float, float, float, float]
"""x, y, width and height in pixels of the upright frame."""


@dataclass(frozen=True)
class Region:
    """The part of an image that an answer rests on."""

    map: npt.NDArray[np.float32]
    """Relevance of each cell, 0 to 1, [rows, columns], over what preprocessing took of the frame."""
    box: Box | None
    """Around the cells from `threshold` on that hang together with the most relevant one; None where no cell is."""
    map_box: Box
    """Where the map lies; past the frame where that was padded."""
    score: float
    """The largest relevance."""
    threshold: float


@dataclass(frozen=True)
class Result:
    """What one run found. What the model's task does not have is None or empty."""

    label: str | None
    """The best class, or answer."""
    score: float | None
    """Probability of `label`, 0 to 1."""
    scores: dict[str, float]
    """Probability by label, best first; the best `top_k` if the session was made with that."""
    outputs: dict[str, npt.NDArray[np.float32]]
    """The graph's raw outputs by name, without the batch dimension."""
    timings: dict[str, float]
    """Microseconds by stage: "preprocess.NAME" per input, "engine", "postprocess", "total"; then "layer.NAME" per
    layer, where they are profiled."""
    timeline: tuple[Stage, ...] = ()
    """The same stages with the times they began."""
    labels: tuple[str, ...] | None = None
    """Of a multi-label model: those whose probability reaches its threshold, best first."""
    embedding: npt.NDArray[np.float32] | None = None
    """[embedding size], of length 1 where the metric is cosine."""
    region: Region | None = None
    """Of the answer; None too where the image was absent or given as a tensor."""
    input_weights: dict[str, float] | None = None
    """How much the fusion listened to each input, by name, summing to 1; None where the model does not tell."""

    def to_dict(self) -> dict[str, Any]:
        """What was found as JSON values, without what the task does not have; no raw outputs."""
        found: dict[str, Any] = {}
        if self.label is not None:
            found = {"label": self.label, "score": self.score, "scores": self.scores}
        if self.labels is not None:
            found["labels"] = list(self.labels)
        if self.embedding is not None:
            found["embedding"] = self.embedding.tolist()
        if self.region is not None:
            found["region"] = {**vars(self.region), "map": self.region.map.tolist()}
        if self.input_weights is not None:
            found["input_weights"] = self.input_weights
        return {**found, "timings_us": self.timings}


_EXPECTED = {"audio": "an Audio(samples, sample_rate)", "image": "an Image or pixels", "text": "a str"}


def _check_options(engine: str, of_onnxruntime: Mapping[str, Any], of_tensorrt: Mapping[str, Any]) -> None:
    """Raise InvalidArgument where an option of the other engine is given."""
    if engine == "tensorrt":
        given = " and ".join(name for name, value in of_onnxruntime.items() if value)
        if given:
            raise InvalidArgument(f'{given}: of engine "onnxruntime"; leave out with engine "tensorrt"')
    elif any(of_tensorrt.values()):
        raise InvalidArgument('tensorrt and engines are of engine "tensorrt"; ask for that too, or leave them out')


class Session:
    """Runs a bundle: preprocess, engine, postprocess, all in libmmedge.

    One thread at a time; give each thread a session of its own: `another` of the same model. Calls release the GIL
    while C works.

    Args:
        bundle: the bundle's directory.
        onnxruntime: path of libonnxruntime.so; by default MMEDGE_ONNXRUNTIME, then the installed onnxruntime package's,
            then the system's.
        threads: threads inside one run.
        provider: of ONNX Runtime, what runs the graph; "cpu" by default. Another is never taken in its place: a graph
            that it cannot run whole is refused.
        device: number of the GPU.
        arena: keep memory from run to run; without, each gives it back, slower and smaller.
        spinning: idle threads spin for a while instead of sleeping: faster by microseconds, for a core's power.
        flush_denormals: take denormal numbers for zero; computing with them is many times slower.
        affinities: processors for the threads after the caller's own, "1;2" or "1-2;3", as many as threads - 1;
            None: any.
        cache: an existing directory for what the engine makes of the graph, for a faster next start. Files there are
            trusted as this program is: keep it private.
        top_k: classes to rank; None: all.
        engine: "tensorrt" is TensorRT itself, with an engine that `mmedge build` compiled; of the options above it
            takes `device` and `top_k`, and it alone takes those below.
        tensorrt: path of libnvinfer.so; by default MMEDGE_TENSORRT, then the installed tensorrt package's, then the
            system's.
        engines: the engine's file, or the folder where `mmedge build` put it; by default the user's cache. Trusted as
            this program is.
        stream: handle of the CUDA stream to run on, which must outlive the session; by default one of its own.
        profile_layers: time each layer, which makes a run slower.

    Raises:
        BundleError: the bundle is missing, damaged or too new.
        EngineError: no ONNX Runtime from 1.23 on was found, it lacks the provider, or it refuses the graph; no TensorRT
            from 10.3 on, no GPU, or no engine that was built for both.
        InvalidArgument: an option has an impossible value.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        onnxruntime: str | None = None,
        threads: int = 1,
        provider: Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"] | None = None,
        device: int = 0,
        arena: bool = True,
        spinning: bool = False,
        flush_denormals: bool = True,
        affinities: str | None = None,
        cache: str | os.PathLike[str] | None = None,
        top_k: int | None = None,
        engine: Literal["onnxruntime", "tensorrt"] = "onnxruntime",
        tensorrt: str | None = None,
        engines: str | os.PathLike[str] | None = None,
        stream: int | None = None,
        profile_layers: bool = False,
    ) -> None:
        check_is_folder(bundle)
        _check_options(
            engine,
            {"onnxruntime": onnxruntime, "provider": provider, "affinities": affinities, "cache": cache},
            {"tensorrt": tensorrt, "engines": engines},
        )
        if cache and not os.path.isdir(cache):
            raise InvalidArgument(f"cache {os.fspath(cache)} is not a directory; make it first")
        if engine == "onnxruntime":
            onnxruntime = onnxruntime or os.environ.get("MMEDGE_ONNXRUNTIME") or find_onnxruntime()
        else:
            tensorrt = tensorrt or os.environ.get("MMEDGE_TENSORRT") or find_tensorrt()
        # The struct holds bare addresses, so the strings need a name here.
        strings = {
            name: ffi.new("char[]", path_bytes(value))
            for name, value in {
                "onnxruntime": onnxruntime,
                "provider": provider,
                "affinities": affinities,
                "cache": cache,
                "engine": engine,
                "tensorrt": tensorrt,
                "engines": engines,
            }.items()
            if value
        }
        options = struct(
            "mme_model_options",
            threads=threads,
            device=device,
            disable_arena=not arena,
            allow_spinning=spinning,
            keep_denormals=not flush_denormals,
            **strings,
        )
        model = ffi.new("mme_model **")
        check(lib.mme_model_open(path_bytes(bundle), options, model))
        self._model = ffi.gc(model[0], lib.mme_model_close)
        if top_k is not None and top_k < 1:
            raise InvalidArgument(f"top_k is {top_k}; expected at least 1, or None for all classes")
        self._options = struct(
            "mme_session_options",
            top_k=top_k or 0,
            stream=ffi.cast("void *", stream or 0),
            profile_layers=profile_layers,
        )
        info = struct("mme_model_info")
        check(lib.mme_model_get_info(self._model, info))
        self.engine = text(info.engine)
        """Engine, version and where it was found."""
        self.manifest = parse_manifest(text(info.manifest), bundle)
        self.labels = self.manifest.labels
        self.graph_sha256 = text(info.graph_sha256)
        """Of the graph: embeddings of two models cannot be compared."""
        self._device = device
        self._inputs = {entry.name: (entry.name.encode(), entry) for entry in self.manifest.inputs}
        self._create()

    def another(self) -> Session:
        """One more session of this one's model, made with the same options, for another thread; it may be asked for
        while this one runs.

        The two share the model: its weights, its threads inside a run, and the CUDA stream if one was given. Each has
        its own inputs, pushed audio, buffers and results. The model lives until the last of its sessions is gone,
        whichever that is.

        Raises:
            EngineError: the engine could not bind its inputs and outputs.
        """
        made = copy(self)
        made._create()
        return made

    def _create(self) -> None:
        session = ffi.new("mme_session **")
        check(lib.mme_session_create(self._model, self._options, session))
        self._session = ffi.gc(session[0], lib.mme_session_destroy)
        self._pushed: set[str] = set()
        self._lent: dict[str, LentTensor | Image] = {}
        # Filled anew by every run.
        self._result, self._tensor, self._timing = struct("mme_result"), struct("mme_tensor"), struct("mme_timing")
        self._region = struct("mme_region")

    def run(self, *, tensors: Mapping[str, Any] | None = None, copy: bool = True, **inputs: Any) -> Result:
        """Run on one moment's inputs, by input name; one left out is absent unless samples were pushed to it, and
        None is absent in any case.

        Images are an `Image` or whatever it takes without a format (such as uint8 [height, width, 3] RGB), audio is an
        `Audio`, text is a str. `tensors` holds ready tensors of the input's dtype without the batch dimension: NumPy
        arrays, DLPack objects or buffers with a shape, contiguous. With engine "tensorrt" also arrays on the GPU, of
        PyTorch, CuPy, PyCUDA or whatever speaks DLPack or `__cuda_array_interface__`: they are read where they lie,
        once what is still to fill them is done.

        Without `copy`, the result's arrays are read-only views of the session's memory: the next run overwrites them.

        Raises:
            InvalidArgument: an unknown input, a wrong type or shape, or nothing present.
            DataError: the data itself is unusable, such as empty audio or a NaN sample.
            EngineError: the engine failed; NotFinite, one of these, if an output holds NaN or infinity.
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
        self._lent.clear()
        check(status)
        return self._read(copy)

    def push_audio(self, name: str, audio: Audio) -> None:
        """Feed live samples to input `name`, which is thereby present in the next run, even if they are none.

        Work is done for the new hops only, and the run sees the last window, silence before the first sample. The
        input's preprocessing must ask for a window ("samples"). All pushes of a stream have one dtype, channel count
        and sample rate, until `reset_audio`. At another rate than the model's the stream lags by up to a block of the
        resampler's, which is longer the larger the ratio of the two rates.

        Raises:
            InvalidArgument: an unknown input, no audio, no window, or another kind of audio than before.
            DataError: a NaN sample; nothing of this push is used.
        """
        check(lib.mme_session_push_audio(self._session, name.encode(), to_c_audio(audio, piece=True)))
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
        found = "audio" if isinstance(value, Audio) else "text" if isinstance(value, str) else "image"
        if found != entry.modality:
            raise InvalidArgument(f"input {name!r}: found {type(value).__name__}; expected {_EXPECTED[entry.modality]}")
        if isinstance(value, str):
            encoded_text = value.encode("utf-8", "surrogatepass")  # the library says what is wrong with it
            check(lib.mme_session_set_text(self._session, encoded, encoded_text, len(encoded_text)))
        elif isinstance(value, Audio):
            check(lib.mme_session_set_audio(self._session, encoded, to_c_audio(value)))
        else:
            frame = value if isinstance(value, Image) else Image(value)
            self._lent[name] = frame  # until the run has ended
            for stream in frame.streams or ():
                check(lib.mme_session_wait_stream(self._session, ffi.cast("void *", stream)))
            check(lib.mme_session_set_image(self._session, encoded, frame.c_struct))

    def device_output(self, name: str) -> DeviceArray:
        """Output `name` of the last run where the GPU has it, with engine "tensorrt": a view, until the next run.

        Raises:
            InvalidArgument: an unknown output, no run yet, or an engine that computes in host memory.
        """
        names = [entry.name for entry in self.manifest.outputs]
        if name not in names:
            raise InvalidArgument(f"the model has no output {name!r}; it has {', '.join(names)}")
        check(lib.mme_session_device_output(self._session, names.index(name), self._tensor))
        return from_device_tensor(self._tensor, self._device, self._session)

    def _set_tensor(self, name: str, value: Any) -> None:
        encoded, entry = self._inputs[name]
        lent = to_device_tensor(value, entry.dtype)
        if lent is not None:
            self._lent[name] = lent  # until the run has ended
            check(lib.mme_session_wait_stream(self._session, ffi.cast("void *", lent.stream)))
            check(lib.mme_session_set_tensor(self._session, encoded, lent.tensor))
            return
        check(lib.mme_session_set_tensor(self._session, encoded, to_c_tensor(value, entry.dtype)))

    def _read(self, copy: bool) -> Result:
        found = self._result
        owner = None if copy else self._session
        scores = ffi.unpack(found.scores, found.class_count) if found.class_count else []
        ranking = ffi.unpack(found.ranking, found.ranking_count) if found.ranking_count else []
        weights = ffi.unpack(found.input_weights, found.input_weight_count) if found.input_weight_count else None
        outputs = {}
        for index in range(found.output_count):
            check(lib.mme_session_output(self._session, index, self._tensor))
            outputs[text(self._tensor.name)] = from_c_tensor(self._tensor, owner)
        timeline = []
        for index in range(found.timing_count):
            check(lib.mme_session_timing(self._session, index, self._timing))
            timeline.append(Stage(text(self._timing.stage), self._timing.begin, self._timing.nanoseconds))
        labels = tuple(self.labels[index] for index in ranking[: found.above_threshold])
        embedding = None
        if found.embedding_size:
            embedding = from_c_memory(found.embedding, [found.embedding_size], np.float32, owner)
        return Result(
            label=text(found.label) if found.label else None,
            score=found.score if found.label else None,
            scores={self.labels[index]: scores[index] for index in ranking},
            outputs=outputs,
            timings={stage.stage: stage.nanoseconds / 1000 for stage in timeline},
            timeline=tuple(timeline),
            labels=labels if self.manifest.multi_label else None,
            embedding=embedding,
            region=self._read_region(owner) if self.manifest.task == "vqa" else None,
            input_weights=None if weights is None else dict(zip(self._inputs, weights, strict=True)),
        )

    def _read_region(self, owner: Any) -> Region | None:
        status = lib.mme_session_region(self._session, self._region)
        if status == lib.MME_NOT_READY:
            return None
        check(status)
        found = self._region
        return Region(
            map=from_c_memory(found.map, [found.rows, found.columns], np.float32, owner),
            box=(found.x, found.y, found.width, found.height) if found.width > 0 else None,
            map_box=(found.map_x, found.map_y, found.map_width, found.map_height),
            score=found.score,
            threshold=found.threshold,
        )
