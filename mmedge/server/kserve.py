"""The Open Inference Protocol (KServe v2) as JSON: pure functions between bodies and tensors.

https://github.com/kserve/open-inference-protocol, "specification/protocol/inference_rest.md".
"""

from __future__ import annotations

import json
import math
import reprlib
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mmedge.runtime import Manifest, Result
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.manifest import Input

VERSION = "1"
"""A bundle is never changed, so each model has this one version."""

_DATATYPES = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8", "int8": "INT8", "int32": "INT32"}


@dataclass(frozen=True)
class Request:
    """tensors: by input name, of the input's dtype, without the batch dimension; outputs: names wanted; id: echoed."""

    tensors: dict[str, npt.NDArray[Any]]
    outputs: tuple[str, ...]
    id: str | None


def model_metadata(manifest: Manifest) -> dict[str, Any]:
    """What the model takes and gives.

    Beside its own outputs there are, where its task has labels, "scores" (FP32 [1, n], probabilities in the order of
    the labels) and "label" (BYTES [1], the best one), unless it has outputs of these names.
    """
    return {
        "name": manifest.name,
        "versions": [VERSION],
        "platform": "onnx_onnxv1",
        "inputs": [
            {"name": entry.name, "datatype": _DATATYPES[entry.dtype], "shape": [1, *entry.shape]}
            for entry in manifest.inputs
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": shape}
            for name, (datatype, shape) in _outputs(manifest).items()
        ],
    }


def read_request(body: bytes, manifest: Manifest) -> Request:
    """The request in a body; nothing is allocated on the word of its shapes.

    Raises:
        InvalidArgument: it is not strict JSON, or not what the model takes; the message says where.
    """
    request = _object(_parse(body), "the body")
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        _refuse("id", identity, "a string")
    tensors: dict[str, npt.NDArray[Any]] = {}
    declared = {entry.name: entry for entry in manifest.inputs}
    for index, entry in enumerate(_array(request.get("inputs"), "inputs")):
        name = _name(entry, f"inputs[{index}]", declared)
        if name in tensors:
            raise InvalidArgument(f"input {name!r} is given twice; give it once")
        tensors[name] = _tensor(entry, f"input {name!r}", declared[name])
    outputs = _outputs(manifest)
    # A dict, so that asking for an output twice does not make the answer longer.
    wanted = {
        _name(entry, f"outputs[{index}]", outputs): None
        for index, entry in enumerate(_array(request.get("outputs", []), "outputs"))
    }
    return Request(tensors, tuple(wanted or outputs), identity)


def response(request: Request, result: Result, manifest: Manifest) -> dict[str, Any]:
    """The answer to a request, as JSON values."""
    values: dict[str, list[Any]] = {}
    if result.label is not None:
        values = {"scores": [result.scores[label] for label in manifest.labels], "label": [result.label]}
    values |= {name: array.ravel().tolist() for name, array in result.outputs.items()}
    described = _outputs(manifest)
    return {
        "model_name": manifest.name,
        "model_version": VERSION,
        **({"id": request.id} if request.id is not None else {}),
        "outputs": [
            {"name": name, "datatype": described[name][0], "shape": described[name][1], "data": values[name]}
            for name in request.outputs
        ],
    }


def _outputs(manifest: Manifest) -> dict[str, tuple[str, list[int]]]:
    described: dict[str, tuple[str, list[int]]] = {}
    if manifest.output("logits") is not None:
        described = {"label": ("BYTES", [1]), "scores": ("FP32", [1, len(manifest.labels)])}
    return described | {output.name: ("FP32", [1, *output.shape]) for output in manifest.outputs}


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_not_json)
    except RecursionError:
        raise InvalidArgument("the body's JSON is nested too deeply") from None
    except ValueError as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from None


def _not_json(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is no JSON value")


def _refuse(where: str, found: Any, expected: str) -> NoReturn:
    raise InvalidArgument(f"{where}: found {reprlib.repr(found)}; expected {expected}")


def _object(value: Any, where: str) -> dict[str, Any]:
    return value if isinstance(value, dict) else _refuse(where, value, "a JSON object")


def _array(value: Any, where: str) -> list[Any]:
    return value if isinstance(value, list) else _refuse(where, value, "a JSON array")


def _name(entry: Any, where: str, known: dict[str, Any]) -> str:
    name = _object(entry, where).get("name")
    if not isinstance(name, str) or name not in known:
        _refuse(f"{where}.name", name, " or ".join(map(repr, known)))
    return name


def _tensor(entry: dict[str, Any], where: str, declared: Input) -> npt.NDArray[Any]:
    datatype = _DATATYPES[declared.dtype]
    if entry.get("datatype") != datatype:
        _refuse(f"{where}: datatype", entry.get("datatype"), repr(datatype))
    if "data" not in entry:
        raise InvalidArgument(f'{where} has no "data"; send it as JSON (binary tensors are not served)')
    shape = entry.get("shape")
    wanted = [1, *declared.shape]
    if (
        not isinstance(shape, list)
        or len(shape) != len(wanted)
        or not all(type(n) is int and n > 0 and (n == d or d < 0) for n, d in zip(shape, wanted, strict=True))
    ):
        _refuse(f"{where}: shape", shape, str(wanted))
    values = _flat(_array(entry["data"], f"{where}: data"), shape, where)
    if len(values) != math.prod(shape):
        _refuse(f"{where}: data", f"{len(values)} values", f"{math.prod(shape)} for shape {shape}")
    array = _numbers(values, np.dtype(declared.dtype), where)
    return array.reshape(shape[1:])


def _numbers(values: list[Any], dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    allowed, kind = ({int, float}, "numbers") if dtype.kind == "f" else ({int}, "whole numbers")
    if not set(map(type, values)) <= allowed:
        raise InvalidArgument(f"{where}: data holds something that is not a number of {dtype}; expected {kind} only")
    if dtype.kind != "f":
        bounds = np.iinfo(dtype)
        wrong = next((i for i, value in enumerate(values) if not bounds.min <= value <= bounds.max), None)
        if wrong is not None:
            raise InvalidArgument(f"{where}: value {wrong} is not within {bounds.min} to {bounds.max}")
        return np.array(values, dtype)
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype)
        finite = np.isfinite(array)
    except OverflowError:  # an integer beyond the range of a double
        finite = np.zeros(1, np.bool_)
    if not finite.all():
        raise InvalidArgument(f"{where}: value {int(finite.argmin())} is not finite as {dtype}")
    return array


def _flat(data: list[Any], shape: list[int], where: str) -> list[Any]:
    """Row-major values: `data` may be flat already, or nested as `shape` says."""
    if data and isinstance(data[0], list):
        for size in shape[1:]:
            if not all(isinstance(row, list) and len(row) == size for row in data):
                raise InvalidArgument(f"{where}: data is nested otherwise than shape {shape}")
            data = list(chain.from_iterable(data))
    return data
