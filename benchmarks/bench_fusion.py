"""The fused GatedFusion operator against the same graph where ONNX Runtime inlines the function body.

Both run inside ONNX Runtime with IO binding, one thread, weights constant, taking turns in one process. A round times
a batch of runs by this thread's CPU time, so that neither the clock nor another program's turn on the core counts; the
figure is the median round. What Python's wrapper of a run adds to both sides, 1 us, is passed by.

`one_absent` is the first shape with one modality missing, `large_batch` 64 rows of it. `int8` is QGatedFusion, features
and weights in 8 bits, its features as integer encoders give them; `cosine_int8` the least between its rows and those in
float32. `start` is what ONNX Runtime itself takes to start a graph, measured by one that does nothing; it is in all
figures but `operator_ratio_int8`: how many times as long as the operator the nodes of the float graph take, since a
bundle's graph starts once for all of its nodes. MMEDGE_MAX_ISA=avx2 measures the fused operator as on a processor
without AVX-512; ONNX Runtime keeps its own.

    python benchmarks/bench_fusion.py --json
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.export.functions import gated_fusion
from mmedge.runtime.native import find_library

RANGE = 4.0  # of features in 8 bits
PARAMETERS = ("weight", "bias", "norm_weight", "norm_bias", "gate_weight", "gate_bias")


class Case(NamedTuple):
    features: tuple[int, ...]
    dim: int
    batch: int = 1
    present: tuple[bool, ...] = ()  # empty: all


CASES = {
    "": Case((512, 256, 384), 256),
    "one_absent": Case((512, 256, 384), 256, present=(True, False, True)),
    "small_bundle": Case((64, 64), 64),
    "large_batch": Case((512, 256, 384), 256, batch=64),
}


def make_model(case: Case) -> bytes:
    rng = np.random.default_rng(0)
    inputs = [onnx.helper.make_tensor_value_info("presence", onnx.TensorProto.BOOL, [None, len(case.features)])]
    initializers, names = [], ["presence"]
    for m, count in enumerate(case.features):
        inputs.append(onnx.helper.make_tensor_value_info(f"x_{m}", onnx.TensorProto.FLOAT, [None, count]))
        names.append(f"x_{m}")
        shapes = [(case.dim, count), (case.dim,), (case.dim,), (case.dim,), (1, case.dim), (1,)]
        for name, shape in zip(PARAMETERS, shapes, strict=True):
            names.append(f"{name}_{m}")
            array = rng.normal(size=shape).astype(np.float32) * 0.1
            initializers.append(onnx.numpy_helper.from_array(array, names[-1]))
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, case.dim])
    node = onnx.helper.make_node("GatedFusion", names, ["y"], "fusion", domain="mmedge", epsilon=1e-5)
    graph = onnx.helper.make_graph([node], "fusion", inputs, [output], initializers)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("mmedge", 1)]
    body = gated_fusion(len(case.features), 18)
    model = onnx.helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=8)
    return bytes(model.SerializeToString())


def make_integer_model(case: Case, model: bytes) -> bytes:
    """The same in integers, which the features are already."""
    ranges = {f"x_{m}": RANGE for m in range(len(case.features))}
    emitted = emit_cpu(onnx.load_from_string(model), ranges, ["fusion"])
    graph = emitted.graph
    rounded = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    for port in graph.input:
        if port.name in rounded:
            port.type.tensor_type.elem_type = onnx.TensorProto.UINT8
            node = rounded[port.name]
            graph.node.remove(node)
            port.name = node.output[0]
    return bytes(emitted.SerializeToString())


def make_idle_model(model: bytes) -> bytes:
    """A graph of the same inputs that only hands one of them out."""
    idle = onnx.load_from_string(model)
    graph = idle.graph
    del graph.node[:], graph.initializer[:], idle.functions[:]
    graph.node.append(onnx.helper.make_node("Identity", ["presence"], ["y"]))
    graph.output[0].CopyFrom(graph.input[0])
    graph.output[0].name = "y"
    return bytes(idle.SerializeToString())


class Runner:
    """A session with its inputs and its output bound once."""

    def __init__(self, case: Case, model: bytes, *, fused: bool = False, int8: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        if fused:
            options.register_custom_ops_library(find_library("libmmedge_onnxruntime.so"))
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(1)
        present = case.present or (True,) * len(case.features)
        self.feeds: list[npt.NDArray[np.generic]] = [np.tile(np.array(present), (case.batch, 1))]
        xs = [rng.normal(size=(case.batch, count)).astype(np.float32) for count in case.features]
        self.feeds += [np.clip(np.rint(x * 127 / RANGE) + 128, 0, 255).astype(np.uint8) for x in xs] if int8 else xs
        (output,) = self.session.get_outputs()
        is_float = output.type == "tensor(float)"
        self.y = np.empty((case.batch, case.dim), np.float32) if is_float else np.empty(self.feeds[0].shape, np.bool_)
        self.binding = self.session.io_binding()
        self.options = onnxruntime.RunOptions()
        for port, feed in zip(self.session.get_inputs(), self.feeds, strict=True):
            self.binding.bind_input(port.name, "cpu", 0, feed.dtype, feed.shape, feed.ctypes.data)
        self.binding.bind_output("y", "cpu", 0, self.y.dtype, self.y.shape, self.y.ctypes.data)

    def time(self, runs: int) -> float:
        """Microseconds of CPU time per run."""
        run, binding, options = self.session._sess.run_with_iobinding, self.binding._iobinding, self.options
        start = time.thread_time_ns()
        for _ in range(runs):
            run(binding, options)
        return (time.thread_time_ns() - start) / runs / 1000


def measure(case: Case, rounds: int) -> dict[str, float]:
    model = make_model(case)
    fused, unfused = Runner(case, model, fused=True), Runner(case, model)
    int8 = Runner(case, make_integer_model(case, model), fused=True, int8=True)
    idle = Runner(case, make_idle_model(model))
    runs = max(1, round(2000 / max(unfused.time(20), 1.0)))  # about 2 ms
    times = [[runner.time(runs) for runner in (fused, unfused, int8, idle)] for _ in range(rounds)]
    np.testing.assert_allclose(fused.y, unfused.y, rtol=0, atol=1e-4)
    fused_us, unfused_us, int8_us, start_us = (median(column) for column in zip(*times, strict=True))
    norms = np.linalg.norm(fused.y, axis=1) * np.linalg.norm(int8.y, axis=1)
    return {
        "fused_us": fused_us,
        "unfused_us": unfused_us,
        "ratio": unfused_us / fused_us,
        "int8_us": int8_us,
        "ratio_int8": unfused_us / int8_us,
        "start_us": start_us,
        "operator_ratio_int8": (unfused_us - start_us) / (int8_us - start_us),
        "cosine_int8": float(((fused.y * int8.y).sum(axis=1) / norms).min()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {name: measure(case, arguments.rounds) for name, case in CASES.items()}
    if arguments.json:
        flat = {f"{k}_{name}" if name else k: v for name, figures in results.items() for k, v in figures.items()}
        print(json.dumps(flat, indent=2))
        return
    columns = (
        "fused_us",
        "unfused_us",
        "ratio",
        "int8_us",
        "ratio_int8",
        "start_us",
        "operator_ratio_int8",
        "cosine_int8",
    )
    names = ("fused µs", "inlined µs", "ratio", "int8 µs", "ratio", "start µs", "operator's ratio", "cosine")
    table = Table("case", *names, title="GatedFusion inside ONNX Runtime")
    for name, figures in results.items():
        case = CASES[name]
        label = f"{'/'.join(map(str, case.features))} -> {case.dim}, batch {case.batch} {name}"
        table.add_row(label, *(f"{figures[key]:.5g}" for key in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
