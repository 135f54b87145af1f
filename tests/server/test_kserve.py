from __future__ import annotations

import json
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.runtime import Manifest, Result
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.manifest import Graph, Input, Output
from mmedge.server.kserve import Request, model_metadata, read_request, response

IMAGE_SHAPE, AUDIO_SHAPE = [1, 4, 3], [5, -1]
MANIFEST = Manifest(
    name="digits",
    task="classification",
    inputs=[
        Input(name="image", modality="image", shape=IMAGE_SHAPE, preprocess={}),
        Input(name="audio", modality="audio", shape=AUDIO_SHAPE, preprocess={}),
    ],
    presence="presence",
    outputs=[Output(name="logits", kind="logits", shape=[2])],
    labels=["one", "two"],
    graphs=[Graph(path="model.onnx", precision="fp32", target="onnxruntime", opset=18, ir_version=10)],
    files={},
)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "inputs", "outputs", "name", "shape", "datatype", "data", "other"]), inner
        )
    ),
    max_leaves=12,
)


def entry(**changes: Any) -> dict[str, Any]:
    """A valid image input, changed."""
    return {"name": "image", "datatype": "FP32", "shape": [1, 1, 4, 3], "data": [0.5] * 12} | changes


def encoded(*inputs: Any, **fields: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


@given(arrays.arrays(np.float32, (1, *IMAGE_SHAPE), elements=finite), st.booleans())
def test_a_tensor_arrives_bit_for_bit_flat_or_nested(array: Any, nested: bool) -> None:
    data = array.tolist() if nested else array.ravel().tolist()
    tensors = read_request(encoded(entry(data=data)), MANIFEST).tensors
    np.testing.assert_array_equal(tensors["image"], array[0], strict=True)


@given(st.integers(1, 20))
def test_a_dimension_that_varies_takes_any_size(frames: int) -> None:
    audio = entry(name="audio", shape=[1, 5, frames], data=[0] * 5 * frames)
    request = read_request(encoded(audio), MANIFEST)
    assert request.tensors["audio"].shape == (5, frames)


@given(json_values)
def test_any_json_is_a_request_or_an_invalid_argument(value: Any) -> None:
    try:
        read_request(json.dumps(value).encode(), MANIFEST)
    except InvalidArgument as error:
        json.dumps(str(error)).encode()


@given(st.sampled_from(["name", "datatype", "shape", "data"]), json_values)
def test_any_change_of_a_field_is_a_request_or_an_invalid_argument(field: str, value: Any) -> None:
    try:
        tensors = read_request(encoded(entry(**{field: value})), MANIFEST).tensors
    except InvalidArgument as error:
        reason = str(error)
    else:
        reason = field if np.isfinite(tensors["image"]).all() else "not finite"
    assert field in reason or "is no JSON value" in reason


@given(st.binary(max_size=64))
def test_any_bytes_are_a_request_or_an_invalid_argument(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"body|inputs"):
        read_request(body, MANIFEST)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b'{"inputs": ', "not JSON"),
        (b'{"inputs": [NaN]}', "NaN is no JSON value"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "the body: found .*; expected a JSON object"),
        (b"{}", "inputs: found None; expected a JSON array"),
        (encoded(7), r"inputs\[0\]: found 7"),
        (encoded(entry(), id=5), "id: found 5; expected a string"),
        (encoded(entry(name="video")), "'video'; expected 'image' or 'audio'"),
        (encoded(entry(), entry()), "given twice"),
        (encoded(entry(), outputs=[{"name": "boxes"}]), "'boxes'; expected 'label' or 'scores' or 'logits'"),
        (encoded(entry(datatype="FP64")), "datatype: found 'FP64'"),
        (encoded(entry(shape=[-1, 16])), r"shape: found \[-1, 16\]; expected \[1, 1, 4, 3\]"),
        (encoded(entry(shape=[4611686018427387904, 8])), r"shape: found \[4611686018427387904, 8\]"),
        (encoded(entry(shape=[1] * 10_000)), "shape: found"),
        (encoded(entry(shape="1,1,4,3")), "shape: found '1,1,4,3'"),
        (encoded(entry(shape=[1, 1, 4, 3.0])), "shape: found"),
        (encoded(entry(shape=[True, 1, 4, 3])), "shape: found"),
        (encoded(entry(name="audio", shape=[1, 5, -1])), "shape: found"),
        (encoded(entry(name="audio", shape=[1, 5, 4611686018427387904])), "expected 23058430092136939520"),
        (encoded(entry(data="abcdefghijkl")), "data: found 'abcdefghijkl'"),
        (encoded(entry(data=[1.0] * 11)), "'11 values'; expected 12"),
        (encoded(entry(data=["1"] * 12)), "not a number"),
        (encoded(entry(data=[True] * 12)), "not a number"),
        (encoded(entry(data=[None] * 12)), "not a number"),
        (encoded(entry(data=[[0.5] * 12])), "nested otherwise"),
        (encoded(entry(data=[[[[0.5] * 3] * 3 + [[0.5] * 2]]])), "nested otherwise"),
        (encoded(entry(data=[0.5] * 11 + [1e39])), "value 11 is not finite"),
        (encoded(entry(data=[10**400] + [0.5] * 11)), "not finite"),
        (encoded({"name": "image", "datatype": "FP32", "shape": [1, 1, 4, 3]}), 'has no "data"'),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        read_request(body, MANIFEST)


def test_a_reason_stays_short_whatever_was_sent() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_request(encoded(entry(name="x" * 100_000)), MANIFEST)
    assert len(str(caught.value)) < 200


RESULT = Result(
    label="two",
    score=0.75,
    scores={"two": 0.75, "one": 0.25},
    outputs={"logits": np.array([0.1, 1.2], np.float32)},
    timings={},
)


def test_an_answer_has_the_outputs_that_the_metadata_declares() -> None:
    answer = response(read_request(encoded(entry(), id="7"), MANIFEST), RESULT, MANIFEST)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("digits", "1", "7")
    declared = model_metadata(MANIFEST)["outputs"]
    assert [{k: o[k] for k in ("name", "datatype", "shape")} for o in answer["outputs"]] == declared
    data = {output["name"]: output["data"] for output in answer["outputs"]}
    assert data["label"] == ["two"]
    assert data["scores"] == [0.25, 0.75]
    np.testing.assert_array_equal(np.array(data["logits"], np.float32), RESULT.outputs["logits"])


def test_a_task_without_labels_answers_no_label() -> None:
    values = {**MANIFEST.model_dump(), "task": "embedding", "metric": "cosine"}
    values["outputs"] = [{"name": "embedding", "kind": "embedding", "shape": [2]}]
    manifest = Manifest.model_validate(values)
    assert [output["name"] for output in model_metadata(manifest)["outputs"]] == ["embedding"]
    result = Result(None, None, {}, {"embedding": np.array([0.6, 0.8], np.float32)}, {})
    answer = response(read_request(encoded(entry()), manifest), result, manifest)
    assert [output["name"] for output in answer["outputs"]] == ["embedding"]
    with pytest.raises(InvalidArgument, match="'label'; expected 'embedding'"):
        read_request(encoded(entry(), outputs=[{"name": "label"}]), manifest)


def test_only_the_outputs_asked_for_are_answered_and_each_once() -> None:
    request = read_request(encoded(entry(), outputs=[{"name": "logits"}] * 3), MANIFEST)
    assert [output["name"] for output in response(request, RESULT, MANIFEST)["outputs"]] == ["logits"]


def test_an_output_of_the_model_comes_before_ours_of_the_same_name() -> None:
    manifest = MANIFEST.model_copy(update={"outputs": [Output(name="scores", kind="logits", shape=[2])]})
    result = Result("two", 0.75, {"two": 0.75, "one": 0.25}, {"scores": np.ones(2, np.float32)}, {})
    answer = response(Request({}, ("scores",), None), result, manifest)
    assert answer["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 1.0]}]
    assert "id" not in answer


@pytest.mark.parametrize(
    ("dtype", "datatype", "values"),
    [
        ("uint8", "UINT8", [0, 255]),
        ("int8", "INT8", [-128, 127]),
        ("int32", "INT32", [-(2**31), 2**31 - 1]),
        ("float16", "FP16", [-0.5, 65504.0]),
    ],
)
def test_a_tensor_has_the_type_the_model_declares(dtype: Any, datatype: str, values: list[Any]) -> None:
    manifest = MANIFEST.model_copy(
        update={"inputs": [Input(name="image", modality="image", dtype=dtype, shape=[2], preprocess={})]}
    )
    assert model_metadata(manifest)["inputs"][0]["datatype"] == datatype
    given_entry = {"name": "image", "datatype": datatype, "shape": [1, 2], "data": values}
    tensor = read_request(encoded(given_entry), manifest).tensors["image"]
    np.testing.assert_array_equal(tensor, np.array(values, dtype), strict=True)
    for wrong in ([values[0], 65536 * values[1]], [values[0], "1"]):
        with pytest.raises(InvalidArgument, match="input 'image'"):
            read_request(encoded(given_entry | {"data": wrong}), manifest)
    if dtype != "float16":
        with pytest.raises(InvalidArgument, match="whole numbers"):
            read_request(encoded(given_entry | {"data": [0, 0.5]}), manifest)
