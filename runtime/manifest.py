"""The manifest of a bundle, schema version 1: what libmmedge reads, described for Python.

Preprocessing parameters are kept as the plain objects they are: libmmedge alone says which are valid.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmedge.runtime.errors import BundleError
from mmedge.runtime.native import check, lib, path_bytes


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Part):
    """One modality: the graph's input of this name, [batch, *shape], and how raw data becomes it."""

    name: str
    modality: Literal["image", "audio", "text"]
    dtype: Literal["float32", "float16", "uint8", "int8", "int32"] = "float32"
    shape: list[int]
    preprocess: dict[str, Any]


class Output(_Part):
    """One output of the graph, [batch, *shape]."""

    name: str
    kind: Literal["logits", "embedding", "relevance", "modality_weights"]
    dtype: Literal["float32"] = "float32"
    shape: list[int]


class Graph(_Part):
    """One ONNX graph, what it computes in, and the limits it keeps to."""

    path: str
    precision: Literal["fp32", "fp16", "int8"]
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
    task: Literal["classification", "embedding", "vqa"]
    multi_label: bool = False
    """Of a classification: its classes do not exclude each other."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Probability from which a multi-label class applies."""
    region_threshold: float = Field(default=0.5, ge=0, le=1)
    """Relevance from which a cell belongs to the region of an answer."""
    metric: Literal["cosine", "euclidean"] | None = None
    """What compares the embeddings."""
    inputs: list[Input] = Field(min_length=1)
    presence: str
    """Name of the graph's bool input [batch, inputs], in the order of `inputs`: which are there."""
    outputs: list[Output] = Field(min_length=1)
    labels: list[str]
    graphs: list[Graph] = Field(min_length=1)
    files: dict[str, File]
    evidence: dict[str, Any] = {}
    """What was shown of this bundle: "parity" and "accuracy", as their reports say it."""
    provenance: dict[str, Any] = {}
    """Versions it was made with, and of what checkpoint."""

    def output(self, kind: str) -> Output | None:
        """The output of this kind; there are no two."""
        return next((output for output in self.outputs if output.kind == kind), None)

    @model_validator(mode="after")
    def _check_task(self) -> Manifest:
        """What libmmedge checks too: each task has its outputs and settings, and no others."""
        kinds = {"classification": ["logits"], "embedding": ["embedding"], "vqa": ["logits", "relevance"]}[self.task]
        shapes: dict[str, list[int | None]] = {
            "logits": [len(self.labels)],
            "embedding": [None],
            "relevance": [None, None],
        }
        shapes["modality_weights"] = [len(self.inputs)]
        if sorted(output.kind for output in self.outputs if output.kind != "modality_weights") != kinds:
            raise ValueError(f"task {self.task!r} has outputs of the kinds {', '.join(kinds)}")
        if len({output.kind for output in self.outputs}) != len(self.outputs):
            raise ValueError("two outputs are of one kind")
        for output in self.outputs:
            expected = shapes[output.kind]
            if len(output.shape) != len(expected) or any(
                wanted not in (None, found) for found, wanted in zip(output.shape, expected, strict=True)
            ):
                raise ValueError(f"output {output.name!r} has shape {output.shape}; expected {expected}, None: any")
        if (self.metric is not None) != (self.task == "embedding"):
            raise ValueError(f"task {self.task!r} with metric {self.metric!r}; exactly an embedding has one")
        if self.multi_label and self.task != "classification":
            raise ValueError("multi_label is set; only a classification has it")
        if self.task != "embedding" and not self.labels:
            raise ValueError(f"task {self.task!r} has no labels")
        if self.task == "vqa" and [entry.modality for entry in self.inputs].count("image") != 1:
            raise ValueError("task 'vqa' has one image input")
        return self


def check_is_folder(bundle: str | os.PathLike[str]) -> None:
    """Raise BundleError where a file is at the place of a bundle; what else is wrong with one, libmmedge says."""
    if os.path.isfile(bundle):
        raise BundleError(f"{os.fspath(bundle)} is a file; expected a bundle, a folder written by mmedge export")


def read_manifest(bundle: str | os.PathLike[str]) -> Manifest:
    """Check a bundle (hashes, schema, paths) and read its manifest. Loads no engine.

    Raises:
        BundleError: it is missing, damaged, of a newer schema, or reaches outside itself.
    """
    check_is_folder(bundle)
    check(lib.mme_bundle_check(path_bytes(bundle)))
    return parse_manifest(Path(bundle, "manifest.json").read_bytes(), bundle)


def parse_manifest(content: str | bytes, bundle: str | os.PathLike[str]) -> Manifest:
    """What a bundle's manifest.json holds.

    Raises:
        BundleError: it is malformed.
    """
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(f"{bundle}: manifest.json is malformed: {error}; export the bundle again") from error
