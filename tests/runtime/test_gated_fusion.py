"""The GatedFusion operator in plain ONNX Runtime, judged by the function body that ONNX Runtime inlines without it."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.export.functions import gated_fusion
from mmedge.runtime.native import find_library

PLUGIN = find_library("libmmedge_onnxruntime.so")
X86 = platform.machine() == "x86_64"
PARAMETERS = ("weight", "bias", "norm_weight", "norm_bias", "gate_weight", "gate_bias")
Arrays = dict[str, npt.NDArray[np.generic]]


def make_parameters(features: list[int], dim: int, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for m, count in enumerate(features):
        shapes = [(dim, count), (dim,), (dim,), (dim,), (1, dim), (1,)]
        scales = [count**-0.5, 0.1, 0.3, 0.3, dim**-0.5, 0.1]
        for name, shape, scale in zip(PARAMETERS, shapes, scales, strict=True):
            arrays[f"{name}_{m}"] = (rng.normal(size=shape) * scale + (name == "norm_weight")).astype(np.float32)
    return arrays


def make_model(features: list[int], parameters: Arrays, constant: set[int], outputs: tuple[str, ...] = ("y",)) -> bytes:
    """A graph of one node; the parameters of the modalities in `constant` are initialisers, the others inputs.
    `outputs` are the node's; "" is one left out.
    """
    dim = len(parameters["bias_0"])
    inputs = [onnx.helper.make_tensor_value_info("presence", onnx.TensorProto.BOOL, ["batch", len(features)])]
    initializers, names = [], ["presence"]
    for m, count in enumerate(features):
        inputs.append(onnx.helper.make_tensor_value_info(f"x_{m}", onnx.TensorProto.FLOAT, ["batch", count]))
        names += [f"x_{m}", *(f"{name}_{m}" for name in PARAMETERS)]
        for name in PARAMETERS:
            array = parameters[f"{name}_{m}"]
            if m in constant:
                initializers.append(onnx.numpy_helper.from_array(array, f"{name}_{m}"))
            else:
                info = onnx.helper.make_tensor_value_info(f"{name}_{m}", onnx.TensorProto.FLOAT, array.shape)
                inputs.append(info)
    sizes = {"y": dim, "alpha": len(features)}
    ports = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", sizes[name]])
        for name in outputs
        if name
    ]
    node = onnx.helper.make_node("GatedFusion", names, outputs, "fusion", domain="mmedge", epsilon=1e-5)
    graph = onnx.helper.make_graph([node], "fusion", inputs, ports, initializers)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("mmedge", 1)]
    body = gated_fusion(len(features), 18, alpha=len(outputs) > 1)
    model = onnx.helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=8)
    return bytes(model.SerializeToString())


def make_session(model: bytes, fused: bool, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # refused shapes are asked for here
    options.intra_op_num_threads = threads
    if fused:
        options.register_custom_ops_library(PLUGIN)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def make_inputs(features: list[int], presence: npt.NDArray[np.bool_], seed: int = 1) -> Arrays:
    rng = np.random.default_rng(seed)
    xs = {f"x_{m}": rng.normal(size=(len(presence), n)).astype(np.float32) for m, n in enumerate(features)}
    return {"presence": presence, **xs}


def run_all(session: onnxruntime.InferenceSession, feeds: Arrays) -> list[npt.NDArray[np.float32]]:
    wanted = {port.name for port in session.get_inputs()}
    found = session.run(None, {name: array for name, array in feeds.items() if name in wanted})
    return [np.asarray(array) for array in found]


def run(session: onnxruntime.InferenceSession, feeds: Arrays) -> npt.NDArray[np.float32]:
    (found,) = run_all(session, feeds)
    return found


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_operator_computes_what_its_function_body_does(data: st.DataObject) -> None:
    features = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=5), label="features")
    dim = data.draw(st.integers(2, 200), label="dim")
    batch = data.draw(st.integers(1, 9), label="batch")
    constant = {m for m in range(len(features)) if data.draw(st.booleans(), label=f"constant {m}")}
    flags = st.lists(st.booleans(), min_size=batch * len(features), max_size=batch * len(features))
    presence = np.array(data.draw(flags, label="presence")).reshape(batch, len(features))
    parameters = make_parameters(features, dim, seed=dim)
    model = make_model(features, parameters, constant, ("y", "alpha"))
    feeds = parameters | make_inputs(features, presence)
    expected = run_all(make_session(model, fused=False), feeds)
    found = run_all(make_session(model, fused=True), feeds)
    # With the smallest D a layer norm is a step function: where a difference is next to nothing, rounding decides.
    for array, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1].sum(axis=1), presence.any(axis=1), atol=1e-6)
    assert not found[1][~presence].any()


@pytest.mark.parametrize("outputs", [("y",), ("y", ""), ("y", "alpha")], ids=["left out", "unnamed", "given"])
def test_the_second_output_may_be_left_out_and_changes_nothing(outputs: tuple[str, ...]) -> None:
    features, dim, batch = [20, 33], 40, 70
    presence = np.random.default_rng(5).random((batch, 2)) < 0.6
    parameters = make_parameters(features, dim)
    feeds = make_inputs(features, presence)
    plain = run(make_session(make_model(features, parameters, {0, 1}), fused=True), feeds)
    model = make_model(features, parameters, {0, 1}, outputs)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    for fused in (True, False):
        found = run_all(make_session(model, fused=fused, threads=2), feeds)
        assert len(found) == sum(map(bool, outputs))
        np.testing.assert_allclose(found[0], plain, rtol=0, atol=0 if fused else 1e-5)


@pytest.mark.parametrize("constant", [{0, 1, 2}, set(), {1}], ids=["constant", "computed", "mixed"])
def test_every_subset_of_modalities_in_one_batch_matches_the_body(constant: set[int]) -> None:
    features, dim = [512, 256, 384], 256
    presence = np.array(list(itertools.product((False, True), repeat=3)))
    parameters = make_parameters(features, dim)
    model = make_model(features, parameters, constant)
    feeds = parameters | make_inputs(features, presence)
    fused = make_session(model, fused=True)
    found = run(fused, feeds)
    np.testing.assert_allclose(found, run(make_session(model, fused=False), feeds), rtol=0, atol=1e-5)
    assert not found[0].any()
    for row in range(len(presence)):
        one = {name: array[row : row + 1] for name, array in make_inputs(features, presence).items()}
        np.testing.assert_allclose(run(fused, parameters | one)[0], found[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_large_batch_is_split_without_a_seam(threads: int) -> None:
    features, dim, batch = [20, 33], 40, 101
    presence = np.random.default_rng(2).random((batch, 2)) < 0.7
    parameters = make_parameters(features, dim)
    model = make_model(features, parameters, {0, 1})
    feeds = make_inputs(features, presence)
    expected = run(make_session(model, fused=False), feeds)
    np.testing.assert_allclose(run(make_session(model, fused=True, threads=threads), feeds), expected, atol=1e-5)


def test_an_empty_batch_gives_an_empty_output() -> None:
    parameters = make_parameters([5, 4], 6)
    session = make_session(make_model([5, 4], parameters, {0, 1}), fused=True)
    assert run(session, make_inputs([5, 4], np.zeros((0, 2), bool))).shape == (0, 6)


def test_what_an_absent_modality_holds_does_not_matter_and_a_nan_in_a_present_one_shows() -> None:
    parameters = make_parameters([7, 5], 24)
    session = make_session(make_model([7, 5], parameters, {0, 1}), fused=True)
    feeds = make_inputs([7, 5], np.array([[True, False]]))
    expected = run(session, feeds)
    feeds["x_1"][:] = np.nan
    np.testing.assert_array_equal(run(session, feeds), expected)
    feeds["x_0"][0, 3] = np.nan
    assert np.isnan(run(session, feeds)).all()


def test_sixteen_modalities_and_scores_too_large_for_exp_are_fused() -> None:
    features = list(range(1, 17))
    parameters = make_parameters(features, 32)
    for m in range(16):
        parameters[f"gate_bias_{m}"] = np.array([200.0 * (m % 3)], np.float32)
    model = make_model(features, parameters, set(range(16)))
    feeds = make_inputs(features, np.random.default_rng(3).random((6, 16)) < 0.5)
    expected = run(make_session(model, fused=False), feeds)
    np.testing.assert_allclose(run(make_session(model, fused=True), feeds), expected, rtol=0, atol=1e-5)


def test_threads_may_share_one_session() -> None:
    features, dim = [64, 48], 100
    parameters = make_parameters(features, dim)
    session = make_session(make_model(features, parameters, {0}), fused=True)
    rng = np.random.default_rng(4)
    feeds = [
        parameters | make_inputs(features, rng.random((batch, 2)) < 0.6, seed=batch) for batch in (1, 2, 3, 5, 40, 70)
    ]
    expected = [run(session, feed) for feed in feeds]
    wrong: list[int] = []

    def work(offset: int) -> None:
        for i in range(120):
            case = (i + offset) % len(feeds)
            if not np.array_equal(run(session, feeds[case]), expected[case]):
                wrong.append(case)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_graph_is_one_node_whose_output_shape_is_inferred(tmp_path: Path) -> None:
    parameters = make_parameters([5, 4], 6)
    model = onnx.load_from_string(make_model([5, 4], parameters, {0, 1}))
    # Without the body and the declared shape, only the operator itself can say what y is.
    del model.functions[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    session = make_session(model.SerializeToString(), fused=True)
    assert session.get_outputs()[0].shape == ["batch", 6]
    assert run(session, make_inputs([5, 4], np.ones((2, 2), bool))).shape == (2, 6)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("bias_1", (7,), "input 10 holds 7 numbers"),
        ("gate_bias_0", (2,), "input 7 holds 2 numbers"),
        ("weight_0", (6, 5, 2), "x of modality 0 holds 10 numbers"),
        ("bias_0", (0,), "a bias is empty"),
    ],
)
@pytest.mark.parametrize("constant", [True, False])
def test_parameters_of_another_size_are_refused(
    name: str, shape: tuple[int, ...], message: str, constant: bool
) -> None:
    parameters = make_parameters([5, 4], 6)
    parameters[name] = np.zeros(shape, np.float32)
    feeds = parameters | make_inputs([5, 4], np.ones((2, 2), bool))
    model = onnx.load_from_string(make_model([5, 4], make_parameters([5, 4], 6), set()))
    del model.functions[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for port in model.graph.input:
        port.type.tensor_type.ClearField("shape")
    if constant:
        model.graph.initializer.append(onnx.numpy_helper.from_array(parameters[name], name))
        for other in PARAMETERS:
            for m in range(2):
                if f"{other}_{m}" != name:
                    array = onnx.numpy_helper.from_array(parameters[f"{other}_{m}"], f"{other}_{m}")
                    model.graph.initializer.append(array)
        kept = [port for port in model.graph.input if port.name.startswith(("presence", "x_"))]
        del model.graph.input[:]
        model.graph.input.extend(kept)
    with pytest.raises(Exception, match=message):
        run(make_session(model.SerializeToString(), fused=True), feeds)


def test_an_input_of_another_batch_is_refused() -> None:
    parameters = make_parameters([5, 4], 6)
    session = make_session(make_model([5, 4], parameters, {0, 1}), fused=True)
    feeds = make_inputs([5, 4], np.ones((2, 2), bool))
    feeds["x_1"] = feeds["x_1"][:1]
    with pytest.raises(Exception, match="x of modality 1 holds 4 numbers"):
        run(session, feeds)


# ---- QGatedFusion: the same with features and weights in 8 bits ------------------------------------------------------


def make_integer_model(features: list[int], dim: int, seed: int = 0, outputs: tuple[str, ...] = ("y",)) -> bytes:
    """The graph with its features rounded to 8 bits and its weights in 8 bits."""
    plain = onnx.load_from_string(make_model(features, make_parameters(features, dim, seed), set(range(9)), outputs))
    emitted = emit_cpu(plain, {f"x_{m}": 5.0 - m % 2 for m in range(len(features))}, ["fusion"])
    onnx.checker.check_model(emitted)
    assert [node.op_type for node in emitted.graph.node if node.domain] == ["QGatedFusion"]
    assert [function.name for function in emitted.functions] == ["QGatedFusion"]
    return bytes(emitted.SerializeToString())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_in_integers_the_operator_computes_what_its_function_body_does(data: st.DataObject) -> None:
    features = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=5), label="features")
    dim = data.draw(st.integers(2, 200), label="dim")
    batch = data.draw(st.integers(1, 9), label="batch")
    flags = st.lists(st.booleans(), min_size=batch * len(features), max_size=batch * len(features))
    presence = np.array(data.draw(flags, label="presence")).reshape(batch, len(features))
    model = make_integer_model(features, dim, seed=dim, outputs=("y", "alpha"))
    feeds = make_inputs(features, presence)
    expected = run_all(make_session(model, fused=False), feeds)
    found = run_all(make_session(model, fused=True), feeds)
    for array, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1].sum(axis=1), presence.any(axis=1), atol=1e-6)


def test_integers_are_close_to_floats_for_every_subset() -> None:
    features, dim = [512, 256, 384], 256
    presence = np.array(list(itertools.product((False, True), repeat=3)) * 9)  # more than one chunk
    feeds = make_inputs(features, presence)
    plain = make_model(features, make_parameters(features, dim), {0, 1, 2})
    expected = run(make_session(plain, fused=True), feeds)
    found = run(make_session(make_integer_model(features, dim), fused=True, threads=2), feeds)
    assert not found[~presence.any(axis=1)].any()
    shown = presence.any(axis=1)
    cosines = (found * expected).sum(axis=1)[shown] / np.linalg.norm(found[shown], axis=1)
    # Eight bits spread over five deviations leave a noise of 1e-4 of the features' power, and less of the weights'.
    assert (cosines / np.linalg.norm(expected[shown], axis=1) > 0.9998).all()


def test_what_an_absent_modality_holds_does_not_matter_in_integers_either() -> None:
    session = make_session(make_integer_model([7, 5], 24), fused=True)
    feeds = make_inputs([7, 5], np.array([[True, False]]))
    expected = run(session, feeds)
    feeds["x_1"][:] = 3.0
    np.testing.assert_array_equal(run(session, feeds), expected)


@pytest.mark.parametrize("instructions", ["avx3", "avx2", "ssse3"] if X86 else ["neon"])
def test_in_integers_a_lesser_processor_gives_the_same_result(instructions: str, tmp_path: Path) -> None:
    features, dim = [13, 64], 40
    (tmp_path / "model.onnx").write_bytes(make_integer_model(features, dim))
    feeds = make_inputs(features, np.array([[True, True], [False, True]]))
    np.savez(tmp_path / "feeds.npz", **feeds)
    program = (
        "import sys, numpy, onnxruntime as o\n"
        "folder, plugin = sys.argv[1:]\n"
        "options = o.SessionOptions(); options.register_custom_ops_library(plugin)\n"
        "session = o.InferenceSession(folder + '/model.onnx', options)\n"
        "numpy.save(folder + '/y.npy', session.run(None, dict(numpy.load(folder + '/feeds.npz')))[0])"
    )
    command = [sys.executable, "-c", program, str(tmp_path), PLUGIN]
    subprocess.run(command, check=True, env={**os.environ, "MMEDGE_MAX_ISA": instructions})
    expected = run(make_session((tmp_path / "model.onnx").read_bytes(), fused=True), feeds)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("index", "found", "expected"),
    [
        (1, "int8", "uint8"),
        (11, "bool", "uint8"),
        (2, "float16", "float32"),
        (3, "int8", "uint8"),
        (4, "uint8", "int8"),
        (14, "bool", "int8"),
        *[(index, "int32", "float32") for index in range(5, 11)],
    ],
)
def test_integer_inputs_of_another_type_are_refused(index: int, found: str, expected: str) -> None:
    model = onnx.load_from_string(make_integer_model([7, 5], 24))
    at, node = next((i, node) for i, node in enumerate(model.graph.node) if node.domain)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(found))
    # A constant stays one: ONNX Runtime casts it before it makes the operator.
    model.graph.node.insert(at, onnx.helper.make_node("Cast", [node.input[index]], ["other"], to=kind))
    model.graph.node[at + 1].input[index] = "other"
    with pytest.raises(Exception, match=rf"QGatedFusion: input {index} is {found}; expected {expected}$"):
        make_session(bytes(model.SerializeToString()), fused=True)


def test_integer_parameters_that_do_not_fit_are_refused() -> None:
    model = onnx.load_from_string(make_integer_model([7, 5], 24))
    (node,) = [node for node in model.graph.node if node.domain]
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    scale = next(entry for entry in cut.graph.initializer if entry.name == node.input[5])
    scale.CopyFrom(onnx.numpy_helper.from_array(np.ones(23, np.float32), scale.name))
    with pytest.raises(Exception, match="modality 0 do not fit D = 24"):
        make_session(bytes(cut.SerializeToString()), fused=True)
    computed = onnx.ModelProto()
    computed.CopyFrom(model)
    weight = next(entry for entry in computed.graph.initializer if entry.name == node.input[4])
    computed.graph.initializer.remove(weight)
    computed.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, onnx.TensorProto.INT8, weight.dims))
    with pytest.raises(Exception, match=r"QGatedFusion: input 4 is computed"):
        make_session(bytes(computed.SerializeToString()), fused=True)
