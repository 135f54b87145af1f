"""Finds and loads libmmedge, and turns its statuses into exceptions."""

from __future__ import annotations

import os
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import mmedge.runtime
from mmedge.runtime import errors
from mmedge.runtime._abi import ffi as ffi


def find_library(name: str) -> str:
    """The path of one of our own libraries, such as "libmmedge_onnxruntime.so", ONNX Runtime's operators."""
    # An editable install keeps the built library in site-packages and the sources in the tree: look along both.
    for folder in mmedge.runtime.__path__:
        candidate = Path(folder) / name
        if candidate.is_file():
            return str(candidate)
    raise errors.MmedgeError(f"{name} was not found in {list(mmedge.runtime.__path__)}; install mmedge again")


# Loading it sets ORT_DISABLE_TELEMETRY, in this thread, where mmedge/__init__.py did not.
lib: Any = ffi.dlopen(find_library("libmmedge.so"))

_ERRORS: dict[int, type[errors.MmedgeError]] = {
    lib.MME_INVALID_ARGUMENT: errors.InvalidArgument,
    lib.MME_INVALID_HANDLE: errors.InvalidArgument,
    lib.MME_BUSY: errors.InvalidArgument,
    lib.MME_NOT_READY: errors.InvalidArgument,
    lib.MME_BUNDLE_INVALID: errors.BundleError,
    lib.MME_ENGINE_UNAVAILABLE: errors.EngineUnavailable,
    lib.MME_ENGINE_FAILED: errors.EngineError,
    lib.MME_BAD_OUTPUT: errors.NotFinite,
    lib.MME_BAD_INPUT: errors.DataError,
}


def check(status: int) -> None:
    """Raise the error that `status` stands for, with the library's message."""
    if status != lib.MME_OK:
        raise _ERRORS.get(status, errors.MmedgeError)(text(lib.mme_last_error()))


def text(pointer: Any) -> str:
    """A C string of the library as str."""
    return bytes(ffi.string(pointer)).decode("utf-8", "replace")


def struct(name: str, **fields: Any) -> Any:
    """A C struct with its struct_size set."""
    value = ffi.new(f"{name} *", fields)
    value.struct_size = ffi.sizeof(value[0])
    return value


def holding(pointer: Any, *owners: Any) -> Any:
    """The same pointer, which keeps `owners` alive: what a C struct points into, or what owns the memory."""
    return ffi.gc(pointer, lambda _, owners=owners: None)


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """A path as C takes it."""
    return os.fsencode(path)


def find_onnxruntime() -> str:
    """The shared library of whichever onnxruntime package is installed, without importing it; "" if there is none."""
    return _find_in_package("onnxruntime", "capi/libonnxruntime.so*")


def find_tensorrt() -> str:
    """The same of the tensorrt package."""
    return _find_in_package("tensorrt_libs", "libnvinfer.so.*")


def _find_in_package(package: str, pattern: str) -> str:
    spec = PathFinder.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for candidate in sorted(Path(folder).glob(pattern)):
            return str(candidate)
    return ""
