"""Export through the parity gate: graph, manifest and evidence become a bundle, or nothing is written."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmedge.export.graph import OPSET, export_graph, to_bytes
from mmedge.export.parity import ParityReport, compare
from mmedge.export.targets import Target
from mmedge.export.tensorrt_rtx import check_parse
from mmedge.runtime import Preprocessor, Session
from mmedge.runtime.errors import BundleError, InvalidArgument
from mmedge.runtime.manifest import File, Graph, Input, Manifest, Output

PRESENCE = "presence"
LOGITS = "logits"


@dataclass(frozen=True)
class ExportedBundle:
    """A bundle that passed the gate: where it is, what it says of itself, and how close it is to the model."""

    path: Path
    manifest: Manifest
    parity: ParityReport

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.stat().st_size for file in self.path.iterdir())


def export_bundle(
    module: torch.nn.Module,
    destination: Path,
    *,
    inputs: Sequence[Input],
    labels: Sequence[str],
    target: Target,
    samples: Sequence[tuple[str, Mapping[str, Any]]],
    score: Callable[[Session], dict[str, Any]],
    provenance: Mapping[str, Any],
    tolerance: float = 1e-4,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> ExportedBundle:
    """Export a classifier, compare it with `module` in libmmedge on real samples, and write the bundle.

    Args:
        module: called with one tensor [B, ...] by name per input and `presence` bool [B, M]; returns an object
            whose `logits` is [B, labels].
        destination: NAME.mme; it appears only once everything has passed.
        samples: (name, raw inputs by name) pairs for the parity gate: every subset of the inputs is compared,
            preprocessing included.
        score: measures the bundle's accuracy through its session; kept as evidence.
        provenance: what the bundle is made from; versions are added.
        tolerance: largest absolute difference of any logit.
        progress: called with the stage's name, how much is done, of how much.

    Raises:
        ParityError: the bundle differs from the module; nothing is written.
        ExportError: the module cannot be exported for the target, or its parser refuses the graph.
        BundleError: the destination exists and may not be replaced.
    """
    _check_destination(destination, overwrite)
    progress("graph", 0, 1)
    example = {entry.name: torch.zeros(1, *entry.shape) for entry in inputs}
    example[PRESENCE] = torch.ones(1, len(inputs), dtype=torch.bool)
    model = export_graph(module, example, target=target, output_names=[LOGITS], metadata={"task": "classification"})
    files = {"model.onnx": to_bytes(model)}
    if target.name == "tensorrt-rtx":
        check_parse(files["model.onnx"]).raise_if_failed()
    progress("graph", 1, 1)
    manifest = Manifest(
        name=destination.name.removesuffix(".mme"),
        task="classification",
        inputs=list(inputs),
        presence=PRESENCE,
        outputs=[Output(name=LOGITS, kind="logits", shape=[len(labels)])],
        labels=list(labels),
        graphs=[
            Graph(
                path="model.onnx",
                precision="fp32",
                target=target.name,
                opset=OPSET,
                ir_version=model.ir_version,
            )
        ],
        files={},
        provenance={
            **provenance,
            "mmedge": version("mmedge"),
            "torch": torch.__version__,
            "onnx": version("onnx"),
        },
    )
    with _staged(destination) as folder:
        write_bundle(folder, manifest, files)
        session = Session(folder)
        parity = compare(
            _reference(module, inputs),
            lambda sample, subset: session.run(**{name: sample[name] for name in subset}).outputs,
            _counted(samples, progress),
            [entry.name for entry in inputs],
            tolerance,
        )
        parity.raise_if_failed()
        evidence = {"parity": parity.to_dict(), "accuracy": score(session)}
        manifest = write_bundle(folder, manifest.model_copy(update={"evidence": evidence}), files)
    return ExportedBundle(destination, manifest, parity)


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write `files`, then a manifest that holds their hashes, then the manifest's own digest, into `folder`."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    hashes = {
        name: File(size=len(content), sha256=hashlib.sha256(content).hexdigest()) for name, content in files.items()
    }
    manifest = manifest.model_copy(update={"files": hashes})
    text = (manifest.model_dump_json(indent=2) + "\n").encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
    return manifest


def _check_destination(destination: Path, overwrite: bool) -> None:
    if destination.suffix != ".mme":
        raise InvalidArgument(f"{destination}: expected a name that ends in .mme")
    if not destination.parent.is_dir():
        raise InvalidArgument(f"{destination.parent}: no such directory; create it first")
    if destination.exists() and not overwrite:
        raise BundleError(f"{destination} exists, and a bundle is never changed; choose another name or --overwrite")
    if destination.exists() and not (destination / "manifest.json").is_file():
        raise BundleError(f"{destination} exists and is no bundle; it will not be overwritten")


@contextmanager
def _staged(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` that takes its place if the body succeeds, and is removed if it does not."""
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    folder = staging / "new"
    folder.mkdir()
    try:
        yield folder
        if destination.exists():
            os.rename(destination, staging / "old")
        os.rename(folder, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _reference(module: torch.nn.Module, inputs: Sequence[Input]) -> Callable[..., dict[str, Any]]:
    preprocessors = {entry.name: Preprocessor(entry.preprocess) for entry in inputs}

    def run(sample: Mapping[str, Any], subset: tuple[str, ...]) -> dict[str, np.ndarray[Any, Any]]:
        tensors = {entry.name: torch.zeros(1, *entry.shape) for entry in inputs}
        for name in subset:
            tensors[name] = torch.from_numpy(preprocessors[name](sample[name]))[None]
        presence = torch.tensor([[entry.name in subset for entry in inputs]])
        with torch.no_grad():
            logits: np.ndarray[Any, Any] = module(presence=presence, **tensors).logits[0].numpy()
        return {LOGITS: logits}

    return run


def _counted(samples: Sequence[Any], progress: Callable[[str, int, int], None]) -> Iterator[Any]:
    for index, sample in enumerate(samples):
        progress("parity", index, len(samples))
        yield sample
    progress("parity", len(samples), len(samples))
