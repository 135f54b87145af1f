"""Export through the parity gate: graph, manifest and evidence become a bundle, or nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmedge.export.engines import check_parse
from mmedge.export.graph import OPSET, export_graph, to_bytes
from mmedge.export.parity import ParityReport, compare
from mmedge.export.targets import Target
from mmedge.export.writing import check_destination, staged, write_bundle
from mmedge.runtime import Preprocessor, Session
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.manifest import Graph, Input, Manifest, Output

PRESENCE = "presence"

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int32": torch.int32}


@dataclass(frozen=True)
class Task:
    """What a module is for. name: "classification", "embedding" or "vqa"; outputs: names of its outputs, each the kind
    it is of too; labels: its classes or answers; settings: what else a manifest says of the task.
    """

    name: Literal["classification", "embedding", "vqa"]
    outputs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportedBundle:
    """A bundle that passed the gate: where it is, what it says of itself, and how close it is to the model."""

    path: Path
    manifest: Manifest
    parity: ParityReport


def export_bundle(
    module: torch.nn.Module,
    destination: Path,
    *,
    inputs: Sequence[Input],
    task: Task,
    target: Target,
    samples: Sequence[tuple[str, Mapping[str, Any]]],
    score: Callable[[Path], dict[str, Any]],
    provenance: Mapping[str, Any],
    directory: Path | None = None,
    tolerance: float = 1e-4,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> ExportedBundle:
    """Export a module, compare it with its graph in libmmedge on real samples, and write the bundle.

    Args:
        module: called with one tensor [B, ...] by name per input and `presence` bool [B, M]; returns a mapping with
            every one of the task's outputs, float32 [B, ...].
        destination: NAME.mme; it appears only once everything has passed.
        samples: (name, raw inputs by name) pairs for the parity gate: every subset of the inputs is compared,
            preprocessing included.
        score: measures the accuracy of a bundle, the one here before it has evidence; kept as that.
        provenance: what the bundle is made from; versions are added.
        directory: where the files that preprocessing names, such as a tokenizer, lie; they go into the bundle.
        tolerance: largest absolute difference of any value of an output.
        progress: called with the stage's name, how much is done, of how much.

    Raises:
        InvalidArgument: the tolerance is no number from 0 on, or the destination is no place for a bundle.
        ParityError: the bundle differs from the module; nothing is written.
        ExportError: the module cannot be exported for the target, or its parser refuses the graph.
        BundleError: the destination exists and may not be replaced.
    """
    if not 0 <= tolerance < inf:
        raise InvalidArgument(f"found a tolerance of {tolerance} for the parity gate; expected a number from 0 on")
    check_destination(destination, overwrite)
    progress("graph", 0, 1)
    manifest, files = assemble(
        module,
        destination.name.removesuffix(".mme"),
        inputs=inputs,
        task=task,
        target=target,
        provenance=provenance,
        directory=directory,
    )
    if target.name == "tensorrt-rtx":
        check_parse(files["model.onnx"]).raise_if_failed()
    progress("graph", 1, 1)
    with staged(destination, overwrite) as folder:
        write_bundle(folder, manifest, files)
        session = Session(folder)
        parity = compare(
            _reference(module, inputs, task.outputs, directory),
            lambda sample, subset: session.run(**{name: sample[name] for name in subset}).outputs,
            _counted(samples, progress),
            [entry.name for entry in inputs],
            tolerance,
        )
        parity.raise_if_failed()
        evidence = {"parity": parity.to_dict(), "accuracy": score(folder)}
        manifest = write_bundle(folder, manifest.model_copy(update={"evidence": evidence}), files)
    return ExportedBundle(destination, manifest, parity)


def assemble(
    module: torch.nn.Module,
    name: str,
    *,
    inputs: Sequence[Input],
    task: Task,
    target: Target,
    provenance: Mapping[str, str],
    directory: Path | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """What a bundle of a module consists of, before anything is compared: its manifest, without evidence, and its
    files. Arguments and errors as `export_bundle`.
    """
    example = {**_absent(inputs), PRESENCE: torch.ones(1, len(inputs), dtype=torch.bool)}
    model = export_graph(module, example, target=target, output_names=task.outputs, metadata={"task": task.name})
    graph = Graph(path="model.onnx", precision="fp32", target=target.name, opset=OPSET, ir_version=model.ir_version)
    manifest = Manifest(
        name=name,
        task=task.name,
        inputs=list(inputs),
        presence=PRESENCE,
        outputs=_outputs(module, example, task),
        labels=list(task.labels),
        **task.settings,
        graphs=[graph],
        files={},
        provenance={
            **provenance,
            "mmedge": version("mmedge"),
            "torch": torch.__version__,
            "onnx": version("onnx"),
        },
    )
    return manifest, {"model.onnx": to_bytes(model), **_named_files(inputs, directory)}


def _absent(inputs: Sequence[Input]) -> dict[str, Tensor]:
    return {entry.name: torch.zeros(1, *entry.shape, dtype=_DTYPES[entry.dtype]) for entry in inputs}


def _named_files(inputs: Sequence[Input], directory: Path | None) -> dict[str, bytes]:
    """The files that preprocessing names, by name."""
    names = {entry.preprocess["tokenizer"] for entry in inputs if "tokenizer" in entry.preprocess}
    if names and directory is None:
        raise InvalidArgument(f"preprocessing needs {', '.join(sorted(names))}; say in which directory")
    return {name: (Path(directory or ".") / name).read_bytes() for name in sorted(names)}


def _outputs(module: torch.nn.Module, example: Mapping[str, Tensor], task: Task) -> list[Output]:
    with torch.no_grad():
        found = module(**example)
    return [
        Output.model_validate({"name": name, "kind": name, "shape": list(found[name].shape[1:])})
        for name in task.outputs
    ]


def _reference(
    module: torch.nn.Module, inputs: Sequence[Input], outputs: Sequence[str], directory: Path | None
) -> Callable[..., dict[str, Any]]:
    preprocessors = {entry.name: Preprocessor(entry.preprocess, directory) for entry in inputs}

    def run(sample: Mapping[str, Any], subset: tuple[str, ...]) -> dict[str, np.ndarray[Any, Any]]:
        tensors = _absent(inputs)
        for name in subset:
            tensors[name] = torch.from_numpy(preprocessors[name](sample[name]))[None]
        presence = torch.tensor([[entry.name in subset for entry in inputs]])
        with torch.no_grad():
            found = module(presence=presence, **tensors)
        return {name: found[name][0].numpy() for name in outputs}

    return run


def _counted(samples: Sequence[Any], progress: Callable[[str, int, int], None]) -> Iterator[Any]:
    for index, sample in enumerate(samples):
        progress("parity", index, len(samples))
        yield sample
    progress("parity", len(samples), len(samples))
