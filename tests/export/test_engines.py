"""Engines, by TensorRT-RTX itself, and what can be known of native TensorRT without it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from enum import IntEnum
from glob import glob
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from processes import children, ends

from mmedge.export.builders import EngineOptions, TensorRtRtx, first_gpu, inspected, network_flags
from mmedge.export.engine_process import Progress
from mmedge.export.engines import build_engine, check_parse, describe_builder
from mmedge.export.errors import BuilderMissing, BuildOutOfMemory, ExportError, GpuMissing, UnsupportedLayer
from mmedge.export.graph import to_bytes
from mmedge.runtime.errors import EngineError, InvalidArgument


def test_the_parser_accepts_the_fused_graph_and_inlines_the_fusion(fused_graph: onnx.ModelProto) -> None:
    report = check_parse(to_bytes(fused_graph))
    assert report
    assert not report.errors
    assert report.layers > len(fused_graph.graph.node)
    report.raise_if_failed()


def test_an_engine_is_built_for_gpus_that_are_not_here(fused_graph: onnx.ModelProto) -> None:
    engine = build_engine(to_bytes(fused_graph), EngineOptions(compute_capabilities=("8.6", "12.0"), max_batch=4))
    assert len(engine.plan) > 10_000
    assert not engine.warnings
    listed = {node: layer for layer in engine.layers for node in layer.nodes}
    convolutions = [node.name for node in fused_graph.graph.node if node.op_type == "Conv"]
    assert convolutions
    for name in (*convolutions, "GatedFusion/z_0"):
        assert set(listed[name].inputs + listed[name].outputs) == {"Float"}


def test_a_graph_in_half_precision_becomes_half_precision_kernels() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT16, [64, 64], np.ones((64, 64), np.float16).tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"], "product"), helper.make_node("Relu", ["m"], ["y"], "relu")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", 64])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (layer,) = [layer for layer in build_engine(to_bytes(model)).layers if "product" in layer.nodes]
    assert {*layer.inputs, *layer.outputs} == {"Half"}


def test_no_engine_is_built_of_what_is_no_graph() -> None:
    with pytest.raises(ExportError, match="refuses the graph"):
        build_engine(b"not a graph")


def test_an_unsupported_node_is_named() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["r"], "first"),
            helper.make_node("Unique", ["r"], ["y"], "the_odd_one", sorted=1),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    report = check_parse(model.SerializeToString())
    assert not report
    assert "node 'the_odd_one' (Unique)" in report.errors[0]
    for refused in (report.raise_if_failed, lambda: build_engine(model.SerializeToString())):
        with pytest.raises(UnsupportedLayer, match=r"the_odd_one.*run the bundle with ONNX Runtime"):
            refused()


@pytest.mark.parametrize("data", [b"", b"not a graph"])
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    assert not check_parse(data)


# ---- Progress and cancelling -----------------------------------------------------------------------------------------


def test_progress_rises_from_nothing_to_the_whole(fused_graph: onnx.ModelProto) -> None:
    told: list[tuple[str, int, int]] = []
    build_engine(to_bytes(fused_graph), progress=lambda *told_now: told.append(told_now))
    done = [entry[1] for entry in told]
    assert {(stage, total) for stage, _, total in told} == {("TensorRT-RTX", 1000)}
    assert (done[0], done[-1]) == (0, 1000)
    assert done == sorted(done)
    assert len(set(done)) > 5


class Stopped(Exception):
    pass


@pytest.mark.parametrize("reason", [Stopped, KeyboardInterrupt])
def test_what_the_progress_raises_ends_the_builder(
    fused_graph: onnx.ModelProto, reason: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, running = children(os.getpid()), set[int]()

    def stop(_stage: str, done: int, _total: int) -> None:
        if done:
            running.update(children(os.getpid()) - before)
            raise reason

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(reason):
        build_engine(to_bytes(fused_graph), progress=stop)
    assert running
    assert all(ends(process, within_s=0.1) for process in running)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [(signal.SIGKILL, BuildOutOfMemory, "lower --workspace"), (signal.SIGSEGV, EngineError, "exit code -11")],
)
def test_a_builder_that_dies_is_an_error_of_its_own_kind(
    fused_graph: onnx.ModelProto, how: signal.Signals, kind: type[Exception], message: str
) -> None:
    before = children(os.getpid())

    def shoot(_stage: str, done: int, _total: int) -> None:
        for process in children(os.getpid()) - before if done else ():
            os.kill(process, how)

    with pytest.raises(kind, match=message):
        build_engine(to_bytes(fused_graph), progress=shoot)


def test_a_phase_inside_a_step_counts_as_a_part_of_that_step() -> None:
    progress = Progress()
    progress.start("build", None, 4)
    assert progress.step("build", 0) == 0.25
    progress.start("tactics", "build", 10)
    progress.start("one of them", "tactics", 2)
    assert progress.step("one of them", 0) == pytest.approx(0.25 + 0.25 * 0.05)
    progress.finish("one of them")
    assert progress.step("tactics", 4) == pytest.approx(0.375)
    progress.finish("tactics")
    assert progress.step("build", 1) == 0.5


names = st.sampled_from("abc")


@given(st.lists(st.tuples(names, st.none() | names, st.integers(0, 5), st.integers(0, 9), st.booleans())))
def test_whatever_phases_are_told_of_progress_never_falls_nor_ends_above_one(
    phases: list[tuple[str, str | None, int, int, bool]],
) -> None:
    progress, last = Progress(), 0.0
    for name, parent, steps, step, over in phases:
        progress.start(name, None if parent is None or parent >= name else parent, steps)
        now = progress.step(name, step)
        assert last <= now <= 1
        last = now
        if over:
            progress.finish(name)


# ---- What a builder takes --------------------------------------------------------------------------------------------


def identity(shape: list[int | str]) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    return to_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def test_sizes_that_the_graph_leaves_open_are_those_of_the_bundle() -> None:
    open_sizes = identity(["batch", "rows", 8])
    assert build_engine(open_sizes, shapes={"x": [5, 8]}).plan
    with pytest.raises(InvalidArgument, match="input 'x' has no fixed size"):
        build_engine(open_sizes)


def test_a_graph_of_one_batch_is_built_for_that_and_no_other() -> None:
    assert build_engine(identity([2, 8]), EngineOptions(max_batch=2)).plan
    with pytest.raises(InvalidArgument, match="takes a batch of 2 and no other"):
        build_engine(identity([2, 8]), EngineOptions(max_batch=4))


def test_too_little_memory_to_work_with_says_which_option_gives_more(fused_graph: onnx.ModelProto) -> None:
    with pytest.raises(BuildOutOfMemory, match="raise --workspace"):
        build_engine(to_bytes(fused_graph), EngineOptions(workspace=1))
    assert build_engine(to_bytes(fused_graph), EngineOptions(workspace=64, optimization_level=0)).plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(compute_capabilities=("8.7",)), "compute capability '8.7': TensorRT-RTX builds for 8.0, "),
        (EngineOptions(max_batch=0), "found max_batch 0"),
        (EngineOptions(version_compatible=True), "no lean runtime.* --target tensorrt"),
        (EngineOptions(hardware_compatible=True), "with --compute-capability"),
        (EngineOptions(plugin=True), "leave it out, or take --target tensorrt"),
        (EngineOptions(target="tensorrt", compute_capabilities=("8.6",)), "for the GPU that is here"),
        (EngineOptions(target="openvino"), "unknown builder 'openvino'"),
    ],
)
def test_what_a_builder_does_not_take_is_refused_before_it_runs(options: EngineOptions, message: str) -> None:
    for call in (lambda: build_engine(b"", options), lambda: describe_builder(options)):
        with pytest.raises(InvalidArgument, match=message):
            call()


def test_the_version_is_that_of_the_library_and_of_its_bindings() -> None:
    here = describe_builder(EngineOptions(compute_capabilities=("8.9",)))
    assert here.version == version("tensorrt-rtx-cu13-bindings")
    assert here.compute_capabilities == ("8.9",)
    assert describe_builder(EngineOptions()).compute_capabilities == ("8.6", "12.0")


def test_without_tensorrt_rtx_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRtRtx, "bindings", "no_such_bindings")
    with pytest.raises(BuilderMissing, match="tensorrt-rtx-cu13-bindings"):
        check_parse(b"")


# TensorRT-RTX has the calls of a timing cache, which do nothing there: enough to see that they are used as they must.
KEEPING_TIMINGS = """
from mmedge.export import builders, engine_process
builders.TensorRtRtx.keeps_timings = True
engine_process.main()
"""


@pytest.mark.parametrize("earlier", [None, b"no timing cache"])
def test_the_timing_cache_is_read_where_there_is_one_and_written(tmp_path: Path, earlier: bytes | None) -> None:
    model, timings = identity(["batch", 8]), tmp_path / "timings"
    if earlier is not None:
        timings.write_bytes(earlier)
    request = {
        "describe": False,
        "options": asdict(EngineOptions()),
        "size": len(model),
        "shapes": {},
        "plan": str(tmp_path / "plan"),
        "timings": str(timings),
        "plugin": "",
    }
    command = [sys.executable, "-c", KEEPING_TIMINGS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n" + model)
        process.stdin.flush()  # And stays open: its end would cancel the build.
        answer = json.loads(process.stdout.read().splitlines()[-1])
    assert not answer["refused"], answer
    assert (tmp_path / "plan").stat().st_size > 1000
    assert len(timings.read_bytes()) > 100


# ---- Native TensorRT, which is not here ------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_the_error_says_where_it_comes_from() -> None:
    with pytest.raises(BuilderMissing, match=r"python3-libnvinfer.*--system-site-packages.*--target tensorrt-rtx"):
        build_engine(b"", EngineOptions(target="tensorrt"))


@pytest.mark.skipif(bool(glob("/dev/nvidia[0-9]*")), reason="a GPU is here")
def test_without_a_gpu_the_error_says_what_needs_none() -> None:
    with pytest.raises(GpuMissing, match=r"needs a GPU to build.*--target tensorrt-rtx, which needs none"):
        first_gpu()


@pytest.mark.parametrize(
    ("members", "flags"),
    # The values of NvInfer.h in 10.3 and 10.16, in 11.1, and of a version that has the flag no more.
    [
        ({"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 0b10),
        ({"STRONGLY_TYPED": 0, "PREFER_JIT_PYTHON_PLUGINS": 1}, 0b1),
        ({"PREFER_JIT_PYTHON_PLUGINS": 1}, 0),
    ],
)
def test_a_network_is_strongly_typed_in_every_version(members: dict[str, int], flags: int) -> None:
    versions = SimpleNamespace(NetworkDefinitionCreationFlag=IntEnum("NetworkDefinitionCreationFlag", members))
    assert network_flags(versions) == flags


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}, "Int8"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "Half"),
        ({"Format/Datatype": "Row major linear FP32"}, "Float"),
        ({"Format/Datatype": "Row major linear BFloat16"}, "other"),
        ({"Format/Datatype": "Half"}, "Half"),
        ({"DataType": "Float", "Format": "Row major linear format (kLINEAR)"}, "Float"),
        ({"DataType": "Int32", "Format": "Row major linear format (kLINEAR)"}, "other"),
    ],
)
def test_the_inspectors_words_for_a_type_are_understood(tensor: dict[str, str], kind: str) -> None:
    layer = {
        "Name": "conv1 + relu1",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Dimensions": [1, 3, 8, 8], **tensor}],
        "Outputs": [],
        "Metadata": "[ONNX Layer: conv1]\u001e[ONNX Layer: z_0 | fusion]",
    }
    (found,) = inspected(json.dumps({"Layers": [layer], "Bindings": ["x"]}))
    assert (found.kind, found.nodes, found.inputs, found.outputs) == ("CaskConvolution", ("conv1", "z_0"), (kind,), ())
