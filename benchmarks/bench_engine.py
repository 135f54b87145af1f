"""What the engine's options are worth: start from the cache, bound tensors, sleeping threads, flushed denormals.

The graph is a chain of residual 3x3 convolutions with random weights, 20 layers of 64 channels on 3x112x112, its runs
interleaved with the peer's in one process; medians.

    start       milliseconds of wall time to open a bundle: without a cache, and from one
    run         microseconds of one run on a ready tensor, whole C ABI, beside ONNX Runtime's own Python IO binding
    denormals   microseconds of one run with weights scaled by 1e-39, over that with normal weights, flushed (the
                default) and kept, with 1 and 2 threads
    idle_cpu    processor milliseconds burnt in the 20 ms after a run with 2 threads: sleeping (the default), spinning

    python benchmarks/bench_engine.py --json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from mmedge.export.writing import write_bundle
from mmedge.runtime.manifest import Graph, Input, Manifest, Output
from mmedge.runtime.native import check, ffi, find_onnxruntime, lib, path_bytes, struct

SIDE, CHANNELS, LAYERS, LABELS = 112, 64, 20, 10
PREPROCESS = {
    "type": "image",
    "width": SIDE,
    "height": SIDE,
    "channels": "rgb",
    "fit": "stretch",
    "interpolation": "bilinear",
    "antialias": True,
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
}


def make_graph(scale: float) -> onnx.ModelProto:
    """The chain of convolutions; `scale` multiplies the first layer's weights, whose outputs the others share."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "image"
    for layer in range(LAYERS):
        channels = 3 if layer == 0 else CHANNELS
        values = random.normal(0, (9 * channels) ** -0.5, (CHANNELS, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array((values * np.float32(scale)).astype(np.float32), f"w{layer}"))
        stride = 2 if layer in (0, 1) else 1
        nodes += [
            helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], strides=[stride] * 2, pads=[1] * 4),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        last = f"r{layer}"
        if layer > 1:
            nodes.append(helper.make_node("Add", [last, f"a{layer - 1}" if layer > 2 else "r1"], [f"a{layer}"]))
            last = f"a{layer}"
    weights.append(numpy_helper.from_array(random.normal(0, 0.1, (CHANNELS, LABELS)).astype(np.float32), "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE]),
        helper.make_tensor_value_info("presence", TensorProto.BOOL, ["batch", 1]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", LABELS])]
    graph = helper.make_graph(nodes, "convolutions", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def make_bundle(folder: Path, scale: float = 1.0) -> Path:
    folder.mkdir()
    manifest = Manifest(
        name=folder.stem,
        task="classification",
        inputs=[Input(name="image", modality="image", shape=[3, SIDE, SIDE], preprocess=PREPROCESS)],
        presence="presence",
        outputs=[Output(name="logits", kind="logits", shape=[LABELS])],
        labels=[str(i) for i in range(LABELS)],
        graphs=[Graph(path="model.onnx", precision="fp32", target="onnxruntime", opset=17, ir_version=9)],
        files={},
    )
    write_bundle(folder, manifest, {"model.onnx": make_graph(scale).SerializeToString()})
    return folder


class Runner:
    """One session on a ready tensor, over the C ABI."""

    def __init__(self, bundle: Path, **options: Any) -> None:
        keep = {name: ffi.new("char[]", value.encode()) for name, value in options.items() if isinstance(value, str)}
        library = ffi.new("char[]", find_onnxruntime().encode())
        model, session = ffi.new("mme_model **"), ffi.new("mme_session **")
        given = struct("mme_model_options", onnxruntime=library, **{**options, **keep})
        check(lib.mme_model_open(path_bytes(bundle), given, model))
        check(lib.mme_session_create(model[0], ffi.NULL, session))
        self.model, self.session = ffi.gc(model[0], lib.mme_model_close), ffi.gc(session[0], lib.mme_session_destroy)
        self.values = np.random.default_rng(1).normal(0, 1, (3, SIDE, SIDE)).astype(np.float32)
        self.shape = ffi.new("int64_t[]", [3, SIDE, SIDE])
        data = ffi.cast("const void *", self.values.ctypes.data)
        self.tensor = struct("mme_tensor", data=data, size=self.values.nbytes, rank=3, shape=self.shape)
        self.result = struct("mme_result")

    def __call__(self) -> None:
        check(lib.mme_session_set_tensor(self.session, b"image", self.tensor))
        check(lib.mme_session_run(self.session, self.result))


def peer_run(bundle: Path) -> Callable[[], None]:
    """ONNX Runtime's Python IO binding on the same graph, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = onnxruntime.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
    values = np.random.default_rng(1).normal(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)
    binding = session.io_binding()
    image, output = np.empty_like(values), np.empty((1, LABELS), np.float32)
    binding.bind_input("image", "cpu", 0, np.float32, image.shape, image.ctypes.data)
    binding.bind_input("presence", "cpu", 0, np.bool_, (1, 1), np.ones((1, 1), np.bool_).ctypes.data)
    binding.bind_output("logits", "cpu", 0, np.float32, output.shape, output.ctypes.data)

    def run() -> None:
        image[:] = values
        session.run_with_iobinding(binding)

    return run


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int, unit: float) -> dict[str, float]:
    """Median wall time of each call, in units of `unit` nanoseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            call()
            times[name].append((time.perf_counter_ns() - start) / unit)
    return {name: median(values) for name, values in times.items()}


def idle_cpu(run: Runner) -> float:
    """Processor milliseconds this process uses in the 20 ms after a run."""
    used = []
    for _ in range(30):
        run()
        start = time.process_time_ns()
        time.sleep(0.02)
        used.append((time.process_time_ns() - start) / 1e6)
    return median(used)


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    bundle, tiny = make_bundle(folder / "normal.mme"), make_bundle(folder / "denormal.mme", 1e-39)
    cache = folder / "cache"
    cache.mkdir()
    cached = {"cache": str(cache)}
    Runner(bundle, **cached)
    start = interleaved({"cold_ms": lambda: Runner(bundle), "warm_ms": lambda: Runner(bundle, **cached)}, rounds, 1e6)
    run = interleaved({"mmedge_us": Runner(bundle), "onnxruntime_us": peer_run(bundle)}, rounds, 1e3)
    denormals: dict[str, Any] = {}
    for threads in (1, 2):
        times = interleaved(
            {
                "normal_us": Runner(bundle, threads=threads),
                "flushed_us": Runner(tiny, threads=threads),
                "kept_us": Runner(tiny, threads=threads, keep_denormals=1),
            },
            max(rounds // 3, 3),
            1e3,
        )
        ratios = {f"ratio_{name}": times[f"{name}_us"] / times["normal_us"] for name in ("flushed", "kept")}
        denormals[f"threads_{threads}"] = {**times, **ratios}
    idle = {
        "sleeping_ms": idle_cpu(Runner(bundle, threads=2)),
        "spinning_ms": idle_cpu(Runner(bundle, threads=2, allow_spinning=1)),
    }
    return {
        "start": {**start, "ratio": start["cold_ms"] / start["warm_ms"]},
        "run": {**run, "ratio": run["onnxruntime_us"] / run["mmedge_us"]},
        "denormals": denormals,
        "idle_cpu": idle,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), arguments.rounds)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    for part, figures in report.items():
        print(part)
        for name, value in figures.items():
            rest = value if isinstance(value, dict) else {"": value}
            print(f"  {name:16}", "  ".join(f"{key} {figure:.2f}".strip() for key, figure in rest.items()))


if __name__ == "__main__":
    main()
