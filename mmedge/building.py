"""Engines for a bundle: its graph compiled by TensorRT for the GPU that is here, or by TensorRT-RTX ahead of time for
GPUs that need not be here, kept in a cache.

An engine runs on the GPUs and with the version that it was built for, and on no other: it never goes into the bundle,
which stays the same everywhere. In the cache's folder lie, of each,

    GRAPH-PRECISION-BUILDERVERSION-GPUS-batch1[-vc][-hc][-plugin].engine    GRAPH: 16 digits of the graph's SHA-256
    the same .json                                                           what it is: BuiltEngine, and "format"
    BUILDERVERSION-GPUS.timing                                               TensorRT's timing cache, of all builds

GPUS: compute capabilities, such as sm86+sm120, and of TensorRT the GPU's model, such as sm87-Orin-8-multiprocessors.

libmmedge finds engines by these names and trusts a file only as far as its record: change both with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.export.builders import EngineOptions, find_builder
from mmedge.export.engines import build_engine, describe_builder
from mmedge.export.errors import BuilderMissing
from mmedge.export.parity import Model, ParityReport, compare
from mmedge.export.writing import write_bundle
from mmedge.runtime import Session
from mmedge.runtime.device import device_copier
from mmedge.runtime.errors import EngineUnavailable, InvalidArgument, MmedgeError, ParityError
from mmedge.runtime.manifest import Graph, Input, Manifest, read_manifest
from mmedge.runtime.native import find_library

FORMAT = 2
"""Of an engine's record; one of another is built anew."""

CHECKED_SAMPLES = 8


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in the cache.

    engine: its file. builder: "tensorrt" or "tensorrt-rtx"; version: of that. graph: of the bundle, with its hash;
    precision: what it was written in. gpu: of TensorRT, the model that it is for. plugin: it needs mmedge's plugin.
    size, sha256: of the engine's file. kernels: how many of its kernels take each type, such as "Int8"; one that takes
    several counts as the narrowest. warnings: one line each. seconds: that it took to build. max_abs: the largest
    difference of any output from ONNX Runtime's, as `check_engine` finds it; None where it was not checked. cached: it
    was there already.
    """

    engine: str
    builder: str
    version: str
    graph: str
    graph_sha256: str
    precision: str
    compute_capabilities: tuple[str, ...]
    gpu: str
    version_compatible: bool
    hardware_compatible: bool
    plugin: bool
    max_batch: int
    size: int
    sha256: str
    kernels: dict[str, int]
    warnings: tuple[str, ...]
    seconds: float
    max_abs: float | None = None
    cached: bool = False

    @property
    def title(self) -> str:
        """The builder and its version."""
        return f"{find_builder(self.builder).title} {self.version}"


_ANSWERED = ("engine", "cached")  # Of the answer only, not of the record.


def build_bundle(
    bundle: Path,
    options: EngineOptions,
    *,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> BuiltEngine:
    """Compile the graph of `bundle` that is written for TensorRT, or else its first, which is in FP32.

    Args:
        cache: the folder for engines; by default mmedge/engines in the user's cache. What is there already for this
            graph, the builder's version, these GPUs and options is not built again, but for a workspace or an
            optimization level given: no record tells these.
        progress: as that of `build_engine`: what it raises cancels the build, and nothing is written.

    Raises:
        BundleError: the bundle is damaged.
        ParityError: TensorRT's engine computes something else, as `check_engine` says; it is not kept.
        ExportError, EngineError, InvalidArgument: as `build_engine`; and where the cache cannot be written.
        CalibrationError: as `graph_for_plugin`.
    """
    manifest = read_manifest(bundle)
    graph = graph_for_tensorrt(manifest)
    sha256 = manifest.files[graph.path].sha256
    here = describe_builder(options)
    capabilities = tuple(sorted(here.compute_capabilities, key=lambda entry: (len(entry), entry)))
    folder = cache or default_cache()
    _check_writable(folder)
    gpus = "+".join("sm" + capability.replace(".", "") for capability in capabilities)
    gpus += re.sub(r"\W+", "-", f" {here.gpu}".rstrip(" )"), flags=re.ASCII)
    marks = "-vc" * options.version_compatible + "-hc" * options.hardware_compatible + "-plugin" * options.plugin
    name = f"{sha256[:16]}-{graph.precision}-{options.target}{here.version}-{gpus}-batch{options.max_batch}{marks}"
    path = folder / f"{name}.engine"
    if options.workspace is None and options.optimization_level is None:
        kept = read_engine(path)
        if kept is not None and (kept.graph_sha256, kept.plugin) == (sha256, options.plugin):
            return kept

    timings = folder / f"{options.target}{here.version}-{gpus}.timing"
    model, plugin = (bundle / graph.path).read_bytes(), None
    if options.plugin:
        model, plugin = graph_for_plugin(bundle), plugin_library()
    begin = time.monotonic()
    engine = build_engine(
        model,
        options,
        shapes={entry.name: entry.shape for entry in manifest.inputs} | {manifest.presence: [len(manifest.inputs)]},
        plugin=plugin,
        timings=timings.read_bytes() if timings.exists() else b"",
        progress=progress,
    )
    built = BuiltEngine(
        engine=str(path.resolve()),
        builder=options.target,
        version=here.version,
        graph=graph.path,
        graph_sha256=sha256,
        precision=graph.precision,
        compute_capabilities=capabilities,
        gpu=here.gpu,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        plugin=options.plugin,
        max_batch=options.max_batch,
        size=len(engine.plan),
        sha256=hashlib.sha256(engine.plan).hexdigest(),
        kernels=dict(Counter(narrowest(layer.inputs) for layer in engine.layers)),
        warnings=engine.warnings,
        seconds=round(time.monotonic() - begin, 1),
    )
    if options.target == "tensorrt":  # the GPU is here
        built = _checked(bundle, built, engine.plan)
    folder.mkdir(parents=True, exist_ok=True)
    _write_engine(path, built, engine.plan)
    if engine.timings:
        # Of two builds at once the last one's stays; what the other timed is timed again.
        write_whole(timings, engine.timings)
    return built


def _write_engine(path: Path, built: BuiltEngine, plan: bytes) -> None:
    write_whole(path, plan)
    record = {key: value for key, value in asdict(built).items() if key not in _ANSWERED}
    write_whole(path.with_suffix(".json"), json.dumps({"format": FORMAT} | record, indent=2).encode())


def _checked(bundle: Path, built: BuiltEngine, plan: bytes) -> BuiltEngine:
    # Beside the cache: nobody finds an engine there that was not compared.
    with tempfile.TemporaryDirectory(prefix="mmedge-engine-") as folder:
        path = Path(folder, "new.engine")
        _write_engine(path, built, plan)
        try:
            session = Session(bundle, engine="tensorrt", engines=path)
        except EngineUnavailable as error:  # a libmmedge without TensorRT: it is for who has one
            return replace(built, warnings=(*built.warnings, f"not compared with ONNX Runtime: {error}"))
        return replace(built, max_abs=check_engine(bundle, session, built.precision).max_abs)


def check_engine(bundle: Path, session: Session, precision: str) -> ParityReport:
    """Compare what `session` computes with ONNX Runtime on the CPU, which is given the graph that the engine was built
    of: random tensors, every subset of the modalities. The engine reads them in the memory of the GPU where
    `device_copier` finds what holds them there.

    In float32 no value may differ by more than 1e-4. In fewer bits the two round in other places; then the angle
    between their outputs must have a cosine of .99.

    Raises:
        ParityError: it is further off, or not finite.
    """
    judge, random = _judge(bundle, session.manifest), np.random.default_rng(0)

    def draw(entry: Input) -> np.ndarray[Any, Any]:
        shape = [16 if size == -1 else size for size in entry.shape]
        if entry.dtype.startswith("float"):
            return random.standard_normal(shape).astype(entry.dtype)
        return random.integers(0, 10, shape).astype(entry.dtype)  # tokens of any vocabulary

    def run(of: Session, place: Callable[[np.ndarray[Any, Any]], Any]) -> Model:
        return lambda sample, subset: of.run(tensors={name: place(sample[name]) for name in subset}).outputs

    inputs = session.manifest.inputs
    samples = [(f"random sample {i}", {entry.name: draw(entry) for entry in inputs}) for i in range(CHECKED_SAMPLES)]
    report = compare(
        run(judge, lambda array: array),
        run(session, device_copier() or (lambda array: array)),
        samples,
        [entry.name for entry in inputs],
        1e-4 if precision == "fp32" else float("inf"),
    )
    report.raise_if_failed()
    worst = min(report.outputs, key=lambda entry: entry.cosine_min or 0.0)
    if precision != "fp32" and (worst.cosine_min or 0.0) < 0.99:
        raise ParityError(
            f"output {worst.output!r} with {' + '.join(worst.subset)}: the cosine of the angle to ONNX Runtime's is"
            f" {worst.cosine_min:.4f}; expected at least .99"
        )
    return report


def _judge(bundle: Path, manifest: Manifest) -> Session:
    # The bundle's graph for the CPU has other layers in integers.
    graph = graph_for_tensorrt(manifest)
    others = {entry.path for entry in manifest.graphs} - {graph.path}
    files = {name: (bundle / name).read_bytes() for name in manifest.files if name not in others}
    graphs = [graph.model_copy(update={"target": "onnxruntime"})]
    with tempfile.TemporaryDirectory(prefix="mmedge-engine-") as folder:
        write_bundle(Path(folder), manifest.model_copy(update={"graphs": graphs}), files)
        return Session(folder)


def read_engine(path: Path) -> BuiltEngine | None:
    """The engine at `path`, if it is whole and what its record says, or nothing."""
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        plan = path.read_bytes()
    except (OSError, ValueError):
        return None
    expected = {"format"} | {field.name for field in fields(BuiltEngine)} - set(_ANSWERED)
    if not isinstance(record, dict) or set(record) != expected or record.pop("format") != FORMAT:
        return None
    if (record["size"], record["sha256"]) != (len(plan), hashlib.sha256(plan).hexdigest()):
        return None
    for name in ("compute_capabilities", "warnings"):
        record[name] = tuple(record[name])
    return BuiltEngine(engine=str(path.resolve()), **record, cached=True)


def graph_for_tensorrt(manifest: Manifest) -> Graph:
    """The graph written for TensorRT, or the first, which is in FP32."""
    return next((graph for graph in manifest.graphs if graph.target.startswith("tensorrt")), manifest.graphs[0])


def default_cache() -> Path:
    """mmedge/engines in $XDG_CACHE_HOME, where that is an absolute path, or in ~/.cache: where sessions look."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "mmedge" / "engines"


def _check_writable(folder: Path) -> None:
    # Before a build of minutes, not after it.
    present = next(entry for entry in (folder, *folder.absolute().parents) if entry.exists())
    if not (present.is_dir() and os.access(present, os.W_OK)):
        raise InvalidArgument(f"{present} is no folder that engines can be written to; give another with --cache")


def narrowest(types: Sequence[str]) -> str:
    """Of a kernel's types the one with the fewest bits that numbers are computed in, or "other"."""
    return next((kind for kind in ("Int8", "Half", "Float") if kind in types), "other")


def plugin_library() -> Path:
    """The library with mmedge's plugins for TensorRT.

    Raises:
        BuilderMissing: mmedge was built without.
    """
    name = "libmmedge_tensorrt_plugin.so"
    try:
        return Path(find_library(name))
    except MmedgeError as error:
        raise BuilderMissing(
            f"mmedge's plugin for TensorRT, {name}, is not installed: it is built where CUDA and TensorRT's headers"
            " are, with -DMMEDGE_CUDA=ON; or build the engine without --plugin"
        ) from error


def graph_for_plugin(bundle: Path) -> bytes:
    """The graph for TensorRT, an ONNX file, with its fused operators by mmedge's plugin.

    Where it is in INT8, so are those that were chosen for it.

    Raises:
        BundleError: the bundle is damaged. ExportError: as `for_plugin`. CalibrationError: as `quantize_fusions`; or it
            has no ranges that can be read.
    """
    import onnx

    from mmedge.calibration.emit_tensorrt import chosen_fusions, quantize_fusions
    from mmedge.calibration.table import CALIBRATION_FILE, read_calibration
    from mmedge.export.plugins import for_plugin

    graph = graph_for_tensorrt(read_manifest(bundle))
    model = onnx.load(bundle / graph.path)
    fusions = chosen_fusions(model)
    if graph.precision == "int8" and fusions:
        model = quantize_fusions(model, read_calibration(bundle / CALIBRATION_FILE).ranges, fusions)
    content: bytes = for_plugin(model).SerializeToString()
    return content


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, then take its place."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
