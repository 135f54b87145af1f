"""Engines for a bundle: its graph compiled ahead of time for GPUs that need not be here, kept in a cache.

An engine runs on the GPUs and with the TensorRT-RTX that it was built for, and on no other: it never goes into the
bundle, which stays the same everywhere.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmedge.export.tensorrt_rtx import build_engine, installed_version
from mmedge.runtime.manifest import Graph, Manifest, read_manifest


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in the cache.

    engine: its file, beside which these fields lie as JSON. graph: of the bundle; precision: what that was written in;
    version: of TensorRT-RTX. kernels: how many of its kernels take each type, such as "Int8"; one that takes several
    counts as the narrowest. warnings: one line each. seconds: that it took to build. cached: it was there already.
    """

    engine: str
    graph: str
    precision: str
    version: str
    compute_capabilities: tuple[str, ...]
    max_batch: int
    kernels: dict[str, int]
    warnings: tuple[str, ...]
    seconds: float
    cached: bool = False


def build_bundle(
    bundle: Path, *, compute_capabilities: Sequence[str], max_batch: int = 1, cache: Path | None = None
) -> BuiltEngine:
    """Compile the graph of `bundle` that is written for TensorRT, or else its only one, with TensorRT-RTX.

    Args:
        compute_capabilities: of `mmedge.export.tensorrt_rtx.COMPUTE_CAPABILITIES`; the engine runs on each of them.
        max_batch: the largest batch the engine takes; it is tuned for one sample.
        cache: the folder for engines; by default mmedge/engines in the user's cache. What is there already for this
            graph, these capabilities, this batch and the installed TensorRT-RTX is not built again.

    Raises:
        BundleError: the bundle is damaged.
        ExportError: TensorRT-RTX refuses the graph.
        EngineError: TensorRT-RTX is not installed, or crashed or hung.
        InvalidArgument: an unknown compute capability, or no batch.
    """
    manifest = read_manifest(bundle)
    graph = graph_for_tensorrt(manifest)
    folder = cache or default_cache()
    capabilities = tuple(sorted(set(compute_capabilities), key=lambda entry: (len(entry), entry)))
    names = "+".join("sm" + capability.replace(".", "") for capability in capabilities)
    digest = manifest.files[graph.path].sha256[:16]
    path = folder / f"{digest}-{graph.precision}-rtx{installed_version()}-{names}-batch{max_batch}.engine"
    record = path.with_suffix(".json")
    if path.exists() and record.exists():
        return BuiltEngine(**json.loads(record.read_text()) | {"cached": True})

    begin = time.monotonic()
    engine = build_engine((bundle / graph.path).read_bytes(), compute_capabilities=capabilities, max_batch=max_batch)
    built = BuiltEngine(
        engine=str(path.resolve()),
        graph=graph.path,
        precision=graph.precision,
        version=engine.version,
        compute_capabilities=capabilities,
        max_batch=max_batch,
        kernels=dict(Counter(narrowest(layer.inputs) for layer in engine.layers)),
        warnings=engine.warnings,
        seconds=round(time.monotonic() - begin, 1),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, engine.plan)
    write_whole(record, json.dumps(asdict(built), indent=2).encode())
    return built


def graph_for_tensorrt(manifest: Manifest) -> Graph:
    """The graph written for TensorRT, or the first, which is in FP32."""
    return next((graph for graph in manifest.graphs if graph.target.startswith("tensorrt")), manifest.graphs[0])


def default_cache() -> Path:
    """mmedge/engines in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmedge" / "engines"


def narrowest(types: Sequence[str]) -> str:
    """Of a kernel's types the one with the fewest bits that numbers are computed in, or "other"."""
    return next((kind for kind in ("Int8", "Half", "Float") if kind in types), "other")


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
