"""The process that a builder runs in: reads a request and a graph, tells of its progress, answers.

TensorRT is native code that may crash, hang or exhaust the memory: here it takes nobody with it. When the standard
input ends, because the caller gave up or is gone, the build is cancelled.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmedge.export.builders import Builder, EngineOptions, find_builder, network_flags
from mmedge.runtime.errors import EngineError, InvalidArgument, MmedgeError

STEPS = 1000
"""Of a whole build, in which progress is told."""

_GRACE_S = 3.0


class Progress:
    """How far a build is, from the phases that TensorRT tells of: each has a number of steps, and any may be split into
    phases of its own. Called from several threads.
    """

    def __init__(self) -> None:
        self._phases: dict[str, tuple[str | None, int, int]] = {}
        self._lock = threading.Lock()
        self._done = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = (parent, max(steps, 1), 0)

    def step(self, name: str, step: int) -> float:
        """The part of the build that is done, 0 to 1: it never falls."""
        with self._lock:
            parent, steps, _ = self._phases.get(name, (None, step + 1, 0))
            self._phases[name] = (parent, steps, step + 1)
            self._done = max(self._done, self._inside(None))
            return self._done

    def finish(self, name: str) -> None:
        with self._lock:
            self._phases.pop(name, None)

    def _inside(self, parent: str | None) -> float:
        parts = (
            min((done + self._inside(name)) / steps, 1.0)
            for name, (above, steps, done) in self._phases.items()
            if above == parent
        )
        return max(parts, default=0.0)


def answer(
    request: Mapping[str, Any], model: bytes, tell: Callable[[Mapping[str, Any]], None], cancelled: threading.Event
) -> dict[str, Any]:
    """What `request` asks for: the builder's version and GPUs ("describe"), or to parse `model`, and to build it where
    there is a "plan" to write.
    """
    options = EngineOptions(**request["options"])
    builder = find_builder(options.target)
    tensorrt, version = builder.load()
    if request["describe"]:
        return {"version": version, "capabilities": builder.capabilities(options), "gpu": builder.gpu()}
    logger = _logger(tensorrt)
    maker = tensorrt.Builder(logger)
    if options.plugin and maker.get_plugin_registry().load_library(request["plugin"]) is None:
        raise EngineError(f"{builder.title} cannot load the plugin {request['plugin']}: {logger.lines['ERROR']}")
    network = maker.create_network(network_flags(tensorrt))
    parser = tensorrt.OnnxParser(network, logger)
    accepted = parser.parse(model)
    errors = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
    if not errors and not (accepted and network.num_outputs):
        errors = ["the file holds no graph with an output"]
    found = {"version": version, "network_layers": network.num_layers, "errors": errors}
    plan = None
    if request["plan"] and not errors:
        config = maker.create_builder_config()
        config.add_optimization_profile(
            _profile(maker.create_optimization_profile(), network, request["shapes"], options)
        )
        _configure(tensorrt, config, builder, options)
        monitor = _monitor(tensorrt, tell, cancelled)
        config.progress_monitor = monitor
        timings = Path(request["timings"]) if builder.keeps_timings else None
        cache = _use_timings(config, timings.read_bytes() if timings.exists() else b"") if timings else None
        plan = maker.build_serialized_network(network, config)
        if plan is not None:
            Path(request["plan"]).write_bytes(plan)
            if timings and cache is not None:
                timings.write_bytes(cache.serialize())
    return found | {
        "warnings": logger.lines["WARNING"],
        "refused": [] if plan is not None else logger.lines["ERROR"] or ["it does not say why"],
        "layers": []
        if plan is None
        else [asdict(layer) for layer in builder.layers(tensorrt, logger, plan, options, request["plugin"])],
    }


def _profile(profile: Any, network: Any, shapes: Mapping[str, list[int]], options: EngineOptions) -> Any:
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *sizes = tensor.shape
        sizes = shapes.get(tensor.name, sizes)
        if min(sizes, default=1) < 1:
            raise InvalidArgument(
                f"input {tensor.name!r} has no fixed size: found {[batch, *sizes]}; expected a batch and fixed sizes"
            )
        if batch > 0 and options.max_batch != batch:
            raise InvalidArgument(
                f"the graph takes a batch of {batch} and no other, found --max-batch {options.max_batch}"
            )
        smallest = max(batch, 1)
        profile.set_shape(tensor.name, [smallest, *sizes], [smallest, *sizes], [options.max_batch, *sizes])
    return profile


def _configure(tensorrt: Any, config: Any, builder: Builder, options: EngineOptions) -> None:
    config.clear_flag(tensorrt.BuilderFlag.TF32)  # which rounds the factors of float32's products to 10 bits
    if options.workspace is not None:
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    builder.configure(tensorrt, config, options)


def _use_timings(config: Any, content: bytes) -> Any:
    """The cache in use, which must outlive the build."""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        # Damaged, or of another driver: begin a new one.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _monitor(tensorrt: Any, tell: Callable[[Mapping[str, Any]], None], cancelled: threading.Event) -> Any:
    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.progress, self.told = Progress(), -1

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.progress.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            done = int(self.progress.step(name, step) * STEPS)
            if done > self.told:
                self.told = done
                tell({"progress": done})
            return not cancelled.is_set()

        def phase_finish(self, name: str) -> None:
            self.progress.finish(name)

    return Monitor()


def _logger(tensorrt: Any) -> Any:
    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: dict[str, list[str]] = {"ERROR": [], "WARNING": []}
            self.listing: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self.lines["ERROR"].append(message)
            elif severity == tensorrt.ILogger.WARNING:
                self.lines["WARNING"].append(message)
            elif message.startswith("Layers:\n"):
                lines = message.partition("I/O Tensors:")[0].splitlines()[1:]
                self.listing += filter(str.strip, lines)

    return Logger()


def _describe(error: Any) -> str:
    reason = f"{error.code().name} in {error.func()}: {error.desc()}"
    return f"node {error.node_name()!r} ({error.node_operator()}): {reason}" if error.node_operator() else reason


def _watch_input(cancelled: threading.Event, answered: threading.Event) -> None:
    def watch() -> None:
        # Not through sys.stdin: a thread that waits in it would be in the way at exit.
        os.read(0, 1)
        cancelled.set()
        if not answered.wait(_GRACE_S):
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    # TensorRT writes remarks to the standard output: they go where errors go.
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)

        def tell(message: Mapping[str, Any]) -> None:
            output.write(json.dumps(message) + "\n")
            output.flush()

        request = json.loads(sys.stdin.buffer.readline())
        model = sys.stdin.buffer.read(request["size"])
        cancelled, answered = threading.Event(), threading.Event()
        _watch_input(cancelled, answered)
        try:
            tell(answer(request, model, tell, cancelled))
        except MmedgeError as error:
            tell({"error": type(error).__name__, "message": str(error)})
        answered.set()


if __name__ == "__main__":
    main()
