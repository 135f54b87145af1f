"""GatedFusion as ONNX Runtime's operator for its CUDA provider, judged by the function body: on a GPU, and with the
kernel emulated, which the CPU's provider runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

import mmedge
from mmedge.export.functions import gated_fusion

BUILD = Path(__file__).parents[2] / "build"
PARAMETERS = ("weight", "bias", "norm_weight", "norm_bias", "gate_weight", "gate_bias")
Arrays = dict[str, npt.NDArray[np.generic]]


@pytest.fixture(params=["emulated", "device"])
def operator(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """The library, and the provider that runs it."""
    if request.param == "emulated":
        library = BUILD / "release/tests/runtime/cuda/libmmedge_onnxruntime_emulated.so"
        provider, maker = "CPUExecutionProvider", "make test-cpp"
    else:
        library = BUILD / "gpu/runtime/libmmedge_onnxruntime_cuda.so"
        provider, maker = "CUDAExecutionProvider", "make gpu-check"
        if provider not in onnxruntime.get_available_providers():
            pytest.skip("needs a CUDA device and onnxruntime-gpu, whose CUDA provider is not there")
    if not library.exists():
        pytest.skip(f"needs {library.relative_to(BUILD.parent)}, which `{maker}` builds")
    return library, provider


class Case:
    """A graph of one node, its operands, and what it gives."""

    def __init__(self, features: list[int], dim: int, dtype: type = np.float32, constant: bool = True) -> None:
        random = np.random.default_rng(dim)
        self.features, self.dtype, self.constant = features, dtype, constant
        self.parameters: Arrays = {}
        for m, count in enumerate(features):
            shapes = [(dim, count), (dim,), (dim,), (dim,), (1, dim), (1,)]
            scales = [count**-0.5, 0.1, 0.3, 0.3, dim**-0.5, 0.1]
            for name, shape, scale in zip(PARAMETERS, shapes, scales, strict=True):
                values = random.normal(size=shape) * scale + (name == "norm_weight")
                self.parameters[f"{name}_{m}"] = values.astype(dtype)

    def graph(self, dtype: type, outputs: tuple[str, ...]) -> bytes:
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        info = onnx.helper.make_tensor_value_info
        parameters = {name: array.astype(dtype) for name, array in self.parameters.items()}
        names, modalities, dim = ["presence"], len(self.features), len(parameters["bias_0"])
        inputs = [info("presence", onnx.TensorProto.BOOL, ["batch", modalities])]
        for m, count in enumerate(self.features):
            names += [f"x_{m}", *(f"{name}_{m}" for name in PARAMETERS)]
            inputs.append(info(f"x_{m}", kind, ["batch", count]))
        if not self.constant:
            inputs += [info(name, kind, array.shape) for name, array in parameters.items()]
        ports = {
            "y": info("y", kind, ["batch", dim]),
            "alpha": info("alpha", onnx.TensorProto.FLOAT, ["batch", modalities]),
        }
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("GatedFusion", names, outputs, "fusion", domain="mmedge", epsilon=1e-3)],
            "fusion",
            inputs,
            [ports[name] for name in outputs if name],
            [onnx.numpy_helper.from_array(a, n) for n, a in parameters.items()] if self.constant else [],
        )
        opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("mmedge", 1)]
        body = gated_fusion(modalities, 18, alpha=len(outputs) > 1)
        return bytes(
            onnx.helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=8).SerializeToString()
        )

    def feeds(self, batch: int) -> Arrays:
        """About every third modality of a row is missing, in row 0 each, and holds no number there."""
        random = np.random.default_rng(batch)
        presence = random.random((batch, len(self.features))) < 0.7
        presence[0] = batch == 1
        xs = {f"x_{m}": random.normal(size=(batch, n)).astype(self.dtype) for m, n in enumerate(self.features)}
        return {"presence": presence, **xs}

    def expected(self, feeds: Arrays) -> list[npt.NDArray[np.float32]]:
        """The body in float32, of the same numbers."""
        session = onnxruntime.InferenceSession(self.graph(np.float32, ("y", "alpha")))
        floats = {name: x if name == "presence" else x.astype(np.float32) for name, x in feeds.items()}
        return [np.asarray(array) for array in session.run(None, floats)]

    def session(
        self, operator: tuple[Path, str], outputs: tuple[str, ...] = ("y", "alpha"), model: bytes | None = None
    ) -> onnxruntime.InferenceSession:
        library, provider = operator
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # refused ones are asked for here
        options.register_custom_ops_library(str(library))
        graph = self.graph(self.dtype, outputs) if model is None else model
        return onnxruntime.InferenceSession(graph, options, providers=[provider])


def hide_the_missing(feeds: Arrays) -> Arrays:
    for name, x in feeds.items():
        if name != "presence":
            x[~feeds["presence"][:, int(name[2:])].astype(bool)] = np.nan
    return feeds


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("batch", [1, 3, 17, 70])
def test_it_gives_what_the_body_gives(operator: tuple[Path, str], dtype: type, batch: int) -> None:
    case = Case([20, 33, 130], 70, dtype)
    feeds = case.feeds(batch)
    y, alpha = case.expected(feeds)
    found_y, found_alpha = case.session(operator).run(None, hide_the_missing(feeds))
    assert found_y.dtype == dtype
    tolerance = 1e-5 if dtype is np.float32 else 6e-4  # y rounded to float16
    np.testing.assert_allclose(found_y.astype(np.float32), y, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found_alpha, alpha, rtol=0, atol=1e-5)


@pytest.mark.parametrize("outputs", [("y",), ("y", "")], ids=["left out", "unnamed"])
def test_the_second_output_may_be_left_out(operator: tuple[Path, str], outputs: tuple[str, ...]) -> None:
    case = Case([5, 9], 24)
    feeds = case.feeds(6)
    (found,) = case.session(operator, outputs).run(None, feeds)
    np.testing.assert_allclose(found, case.expected(feeds)[0], rtol=1e-5, atol=1e-5)


def test_a_session_takes_batches_of_every_size_in_turn(operator: tuple[Path, str]) -> None:
    case = Case([5, 9], 24)
    session = case.session(operator)
    for batch in (4, 40, 1, 41, 40):
        feeds = case.feeds(batch)
        for _ in range(2):
            np.testing.assert_allclose(session.run(None, feeds)[0], case.expected(feeds)[0], rtol=1e-5, atol=1e-5)


def test_parameters_that_a_run_computes_are_refused(operator: tuple[Path, str]) -> None:
    with pytest.raises(Exception, match=r"GatedFusion: input 2 is computed"):
        Case([5, 9], 24, constant=False).session(operator)


def test_more_modalities_than_the_kernel_takes_are_refused(operator: tuple[Path, str]) -> None:
    with pytest.raises(Exception, match=r"fuses 9 modalities; expected up to 8"):
        Case([2] * 9, 8).session(operator)


def test_features_of_another_type_are_refused(operator: tuple[Path, str]) -> None:
    with pytest.raises(Exception, match=r"expected float32 or float16 features"):
        Case([5, 9], 24, np.float64).session(operator)


@pytest.mark.parametrize("name", ["x_1", *(f"{name}_0" for name in PARAMETERS)])
def test_inputs_of_several_types_are_refused(operator: tuple[Path, str], name: str) -> None:
    case = Case([5, 9], 24)
    model = onnx.load_from_string(case.graph(np.float32, ("y",)))
    index = list(model.graph.node[0].input).index(name)
    model.graph.node[0].input[index] = "half"
    model.graph.node.insert(0, onnx.helper.make_node("Cast", [name], ["half"], to=onnx.TensorProto.FLOAT16))
    with pytest.raises(Exception, match=rf"GatedFusion: input {index} is float16; expected float32$"):
        case.session(operator, model=bytes(model.SerializeToString()))


def test_features_that_do_not_fit_the_weight_are_refused(operator: tuple[Path, str]) -> None:
    case = Case([5, 9], 24)
    case.features = [5, 8]
    with pytest.raises(Exception, match=r"x of modality 1 holds 24 numbers; expected \[3, 9\]"):
        case.session(operator).run(None, case.feeds(3))


def test_a_session_of_libmmedge_on_cuda_takes_the_operator_by_itself(digits_bundle: Path) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs a CUDA device and onnxruntime-gpu, whose CUDA provider is not there")
    session, judge = mmedge.Session(digits_bundle, provider="cuda"), mmedge.Session(digits_bundle)
    if not session.engine.endswith(", with mmedge's operators"):
        pytest.skip(
            "needs libmmedge_onnxruntime_cuda.so beside libmmedge, or in LD_LIBRARY_PATH as in `make gpu-check`"
        )
    random = np.random.default_rng(0)
    image, audio = (random.standard_normal(entry.shape, np.float32) for entry in session.manifest.inputs)
    for tensors in ({"image": image, "audio": audio}, {"image": image}, {"audio": audio}):
        expected, found = (of.run(tensors=tensors).outputs["logits"] for of in (judge, session))
        np.testing.assert_allclose(found, expected, atol=1e-3)
