"""Engines: graphs compiled by TensorRT or TensorRT-RTX. Both run in a process of their own (engine_process.py), which
the caller can cancel: whatever they do, there is an answer. What differs between them is in builders.py.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmedge.export.builders import EngineLayer, EngineOptions, find_builder
from mmedge.export.engine_process import STEPS
from mmedge.export.errors import BuilderMissing, BuildOutOfMemory, ExportError, GpuMissing, UnsupportedLayer
from mmedge.runtime.errors import EngineError, InvalidArgument

_DEFAULTS = EngineOptions()
_ERRORS = {kind.__name__: kind for kind in (BuilderMissing, GpuMissing, InvalidArgument)}
_PARSE_TIMEOUT_S, _BUILD_TIMEOUT_S, _CANCEL_TIMEOUT_S = 300, 4 * 3600, 5


@dataclass(frozen=True)
class ParseReport:
    """Whether a parser can read a graph: true or false, with what it said.

    builder: its name and version. layers: of the network it made. errors, warnings: one line each; an error names the
    node it is about.
    """

    builder: str
    layers: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.errors

    def raise_if_failed(self) -> None:
        """Raise UnsupportedLayer, or ExportError where no node is named, with every error of a refused graph."""
        if not self.errors:
            return
        text = f"{self.builder} refuses the graph: {'; '.join(self.errors)}"
        if any(error.startswith("node ") for error in self.errors):
            raise UnsupportedLayer(f"{text}; take a newer one, or run the bundle with ONNX Runtime")
        raise ExportError(text)


@dataclass(frozen=True)
class Engine:
    """A compiled graph. plan: its file, native code for the compute capabilities it was built for; version: of its
    builder; layers: its kernels in their order; warnings: one line each; timings: TensorRT's timing cache, or nothing.
    """

    plan: bytes
    version: str
    layers: tuple[EngineLayer, ...]
    warnings: tuple[str, ...]
    timings: bytes


@dataclass(frozen=True)
class BuilderHere:
    """What an engine built here depends on: the builder's version, the compute capabilities it is for, and of TensorRT
    the GPU's model, as `first_gpu` tells it.
    """

    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str


def check_parse(model: bytes) -> ParseReport:
    """Parse the ONNX file `model` with TensorRT-RTX, which needs no GPU.

    Raises:
        EngineError: TensorRT-RTX is not installed, or its parser crashed or hung.
    """
    return _parse_report(_DEFAULTS, _ask(_DEFAULTS, model, _PARSE_TIMEOUT_S))


def describe_builder(options: EngineOptions) -> BuilderHere:
    """What an engine built with `options` depends on.

    Raises:
        InvalidArgument: the builder does not take these options.
        BuilderMissing, GpuMissing: it, or the GPU it needs, is not here.
    """
    check_options(options)
    found = _ask(options, b"", _PARSE_TIMEOUT_S, {"describe": True})
    return BuilderHere(found["version"], tuple(found["capabilities"]), found["gpu"])


def check_options(options: EngineOptions) -> None:
    """Check what can be known of `options` before anything is run.

    Raises:
        InvalidArgument: the builder is not known, or does not take these options.
    """
    if options.max_batch < 1:
        raise InvalidArgument(f"found max_batch {options.max_batch}; expected at least 1")
    find_builder(options.target).check(options)


def build_engine(
    model: bytes,
    options: EngineOptions = _DEFAULTS,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    plugin: Path | None = None,
    timings: bytes = b"",
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Engine:
    """Compile the ONNX file `model`.

    Args:
        model: the first dimension of every input is the batch.
        shapes: of one sample, by the input's name; those of the graph by default.
        plugin: the library with the operators that have no body in the graph.
        timings: TensorRT's timing cache, of an earlier build.
        progress: called with the stage's name, how much is done, of how much. What it raises cancels the build, as
            KeyboardInterrupt does.

    Raises:
        UnsupportedLayer, ExportError: the parser refuses the graph, or no engine can be built of it.
        BuildOutOfMemory: the build needs more memory than there is, or than `options` allow.
        BuilderMissing, GpuMissing: the builder, or the GPU it needs, is not here.
        EngineError: the builder crashed or hung.
        InvalidArgument: the builder does not take these options.
    """
    check_options(options)
    title = find_builder(options.target).title
    with tempfile.TemporaryDirectory(prefix="mmedge-engine-") as folder:
        plan, kept = Path(folder, "plan"), Path(folder, "timings")
        if timings:
            kept.write_bytes(timings)
        request = {
            "plan": str(plan),
            "timings": str(kept),
            "plugin": str(plugin),
            "shapes": {name: list(shape) for name, shape in (shapes or {}).items()},
        }
        progress(title, 0, STEPS)
        answer = _ask(options, model, _BUILD_TIMEOUT_S, request, lambda done: progress(title, done, STEPS))
        _parse_report(options, answer).raise_if_failed()
        if answer["refused"]:
            raise _refusal(f"{title} {answer['version']}", answer["refused"], answer["warnings"])
        progress(title, STEPS, STEPS)
        return Engine(
            plan.read_bytes(),
            answer["version"],
            tuple(_layer(**fields) for fields in answer["layers"]),
            tuple(answer["warnings"]),
            kept.read_bytes() if kept.exists() else b"",
        )


def _layer(name: str, kind: str, **lists: Sequence[str]) -> EngineLayer:
    return EngineLayer(name, kind, **{key: tuple(entries) for key, entries in lists.items()})


def _refusal(builder: str, reasons: Sequence[str], warnings: Sequence[str]) -> Exception:
    text = f"{builder} builds no engine: {'; '.join(reasons)}"
    if re.search("workspace", text, re.I):
        return BuildOutOfMemory(f"{text}; a kernel needs more memory to work with: raise --workspace, or leave it out")
    # Tactics that did not fit are only warned of; that none is left is the error.
    if re.search("out ?of ?memory|insufficient memory|FAILED_ALLOCATION", "\n".join((text, *warnings)), re.I):
        return BuildOutOfMemory(
            f"{text}; the GPU's memory is full: end what else runs on it, or lower --workspace, --max-batch or"
            " --optimization-level"
        )
    return ExportError(text)


def _parse_report(options: EngineOptions, answer: Mapping[str, Any]) -> ParseReport:
    return ParseReport(
        f"{find_builder(options.target).title} {answer['version']}",
        answer["network_layers"],
        tuple(answer["errors"]),
        tuple(answer["warnings"]),
    )


def _ask(
    options: EngineOptions,
    model: bytes,
    timeout_s: int,
    request: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    builder = find_builder(options.target)
    builder.find()
    fields: dict[str, Any] = {"describe": False, "plan": "", "options": asdict(options), "size": len(model)}
    line = json.dumps(fields | dict(request or {})).encode() + b"\n"
    command = [sys.executable, "-m", "mmedge.export.engine_process"]
    hung = threading.Event()
    answer: dict[str, Any] | None = None
    with tempfile.TemporaryFile() as remarks:
        # In a session of its own, so that Ctrl-C reaches it through here only.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=remarks, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None

        def kill() -> None:
            hung.set()
            process.kill()

        watchdog = threading.Timer(timeout_s, kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            with suppress(BrokenPipeError):  # It ended: how, is told below.
                process.stdin.write(line + model)
                process.stdin.flush()
            for told in process.stdout:
                message = json.loads(told)
                if "progress" in message:
                    progress(message["progress"])
                else:
                    answer = message
        finally:
            watchdog.cancel()
            _end(process)
        remarks.seek(0)
        last = remarks.read().decode(errors="replace").strip().split("\n")[-1]
    if hung.is_set():
        raise EngineError(f"{builder.title} gave no answer within {timeout_s} s")
    if answer is None and process.returncode == -signal.SIGKILL:
        raise BuildOutOfMemory(
            f"{builder.title} was killed, as a system does that runs out of memory: end what else takes memory, or"
            " lower --workspace, --max-batch or --optimization-level"
        )
    if answer is None:
        raise EngineError(f"{builder.title} stopped with exit code {process.returncode}: {last}")
    if "error" in answer:
        raise _ERRORS.get(answer["error"], EngineError)(answer["message"])
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    # The end of its input cancels what it still does.
    with suppress(BrokenPipeError):
        process.stdin.close()  # type: ignore[union-attr]
    try:
        process.wait(_CANCEL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()  # type: ignore[union-attr]
