"""calibration.json: the range of every tensor, and what they were measured on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from mmedge.calibration.errors import CalibrationError
from mmedge.calibration.graph import structure_hash, weights_hash
from mmedge.runtime.manifest import Manifest

CALIBRATION_FILE = "calibration.json"
_VERSION = 1


@dataclass(frozen=True)
class Origin:
    """What ranges depend on: SHA-256 of the graph without its weights, of the weights, of the preprocessing with the
    files it names, and of the samples; and the method.
    """

    graph: str
    weights: str
    preprocessing: str
    data: str
    method: str

    @classmethod
    def of(cls, model: onnx.ModelProto, manifest: Manifest, data: str, method: str) -> Origin:
        """Of a graph in its bundle; `data` is the hash of the samples."""
        inputs = [entry.model_dump() for entry in manifest.inputs]
        named = {name: manifest.files[name].sha256 for name in sorted(manifest.files) if _names(inputs, name)}
        preprocessing = json.dumps([inputs, named], sort_keys=True)
        return cls(
            structure_hash(model), weights_hash(model), hashlib.sha256(preprocessing.encode()).hexdigest(), data, method
        )

    def check_same(self, wanted: Origin, what: str, remedy: str = "calibrate again") -> None:
        """Raise CalibrationError, naming each field that differs from `wanted`; `what` is the stale thing's name."""
        found, expected = asdict(self), asdict(wanted)
        differing = [
            f"{field} (it has {_short(found[field])}, expected {_short(expected[field])})"
            for field in expected
            if found[field] != expected[field]
        ]
        if differing:
            raise CalibrationError(f"{what} was made from other: {', '.join(differing)}; {remedy}")


@dataclass(frozen=True)
class TensorRange:
    """range: the magnitude that 8 bits are spread up to; minimum, maximum: what was seen; nans: values left out."""

    range: float
    minimum: float
    maximum: float
    nans: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.range) and self.range >= 0):
            raise ValueError(f"found a range of {self.range}; expected a number of at least 0")


@dataclass(frozen=True)
class Calibration:
    """The ranges of a graph's tensors, from so many samples, each with so many subsets of its modalities."""

    origin: Origin
    samples: int
    rows: int
    tensors: Mapping[str, TensorRange]

    @property
    def ranges(self) -> dict[str, float]:
        """The largest magnitude by tensor, as emitters take it."""
        return {name: entry.range for name, entry in self.tensors.items()}

    @property
    def nans(self) -> dict[str, int]:
        """How many values were NaN, of the tensors where any was."""
        return {name: entry.nans for name, entry in self.tensors.items() if entry.nans}

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=2) + "\n"


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        CalibrationError: it cannot be read, or is of another version.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("version") != _VERSION:
            raise CalibrationError(f"{path} is of another version; expected {_VERSION}: calibrate again")
        found["origin"] = Origin(**found["origin"])
        found["tensors"] = {name: TensorRange(**entry) for name, entry in found["tensors"].items()}
        return Calibration(**found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(f"{path} is no calibration that can be read ({error}); calibrate again") from error


def told_nans(nans: Mapping[str, int]) -> str:
    """Tensors with the number of their values that were NaN."""
    return ", ".join(f"{name} ({count})" for name, count in nans.items())


def _names(inputs: Sequence[Mapping[str, Any]], file: str) -> bool:
    return any(file in entry["preprocess"].values() for entry in inputs)


def _short(value: str) -> str:
    return value[:12]
