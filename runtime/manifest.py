"""The manifest of a bundle, schema version 1: what libmmedge reads, described for Python.

Preprocessing parameters are kept as the plain objects they are: libmmedge alone says which are valid.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmedge.runtime.errors import BundleError
from mmedge.runtime.native import check, lib, path_bytes


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Part):
    """One modality: the graph's input of this name, [batch, *shape], and how raw data becomes it."""

    name: str
    modality: Literal["image", "audio"]
    dtype: Literal["float32", "float16", "uint8", "int8"] = "float32"
    shape: list[int]
    preprocess: dict[str, Any]


class Output(_Part):
    """One output of the graph, [batch, *shape]."""

    name: str
    kind: Literal["logits"]
    dtype: Literal["float32"] = "float32"
    shape: list[int]


class Graph(_Part):
    """One ONNX graph and the limits it keeps to."""

    path: str
    precision: Literal["fp32"]
    target: str
    opset: int
    ir_version: int


class File(_Part):
    """What a file of the bundle must be."""

    size: int
    sha256: str


class Manifest(_Part):
    """Everything a bundle says of itself."""

    schema_version: Literal[1] = 1
    name: str
    task: Literal["classification"]
    inputs: list[Input] = Field(min_length=1)
    presence: str
    """Name of the graph's bool input [batch, inputs], in the order of `inputs`: which are there."""
    outputs: list[Output] = Field(min_length=1)
    labels: list[str] = Field(min_length=1)
    graphs: list[Graph] = Field(min_length=1)
    files: dict[str, File]
    evidence: dict[str, Any] = {}
    """What was shown of this bundle: "parity" and "accuracy", as their reports say it."""
    provenance: dict[str, Any] = {}
    """Versions it was made with, and of what checkpoint."""


def read_manifest(bundle: str | os.PathLike[str]) -> Manifest:
    """Check a bundle (hashes, schema, paths) and read its manifest. Loads no engine.

    Raises:
        BundleError: it is missing, damaged, of a newer schema, or reaches outside itself.
    """
    check(lib.mme_bundle_check(path_bytes(bundle)))
    try:
        return Manifest.model_validate_json(Path(bundle, "manifest.json").read_bytes())
    except ValidationError as error:
        raise BundleError(f"{bundle}: manifest.json is malformed: {error}; export the bundle again") from error
