"""The parity gate: does the exported model compute what the trained one does, on real samples?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mmedge.runtime.errors import InvalidArgument, ParityError

_LEAST_SCALE = float(np.finfo(np.float32).tiny)  # relative to less than this means nothing

Outputs = Mapping[str, "np.ndarray[Any, Any]"]
Model = Callable[[Mapping[str, Any], tuple[str, ...]], Outputs]


@dataclass(frozen=True)
class OutputParity:
    """How far one output of the candidate is from the reference, with one subset of modalities present.

    max_abs: largest absolute difference of any value in any sample; null where a value was NaN or infinite.
    max_rel: largest of (largest absolute difference / largest absolute reference value) of a sample: relative
        to the output as a whole, so that a value near zero does not decide it; null as above.
    cosine_min: least cosine of the angle between the two flattened outputs of a sample; null as above.
    top1_agreement: share of samples whose largest value has the same index in both.
    non_finite: samples in which either side had a NaN or an infinity.
    worst_sample: the name of the sample with max_abs, or of the first that is not finite.
    """

    subset: tuple[str, ...]
    output: str
    samples: int
    max_abs: float | None
    max_rel: float | None
    cosine_min: float | None
    top1_agreement: float
    non_finite: int
    worst_sample: str
    passed: bool


@dataclass(frozen=True)
class ParityReport:
    """True where every output is finite and within `tolerance` (absolute) in every subset of modalities."""

    tolerance: float
    outputs: tuple[OutputParity, ...]

    def __bool__(self) -> bool:
        return bool(self.outputs) and all(entry.passed for entry in self.outputs)

    @property
    def max_abs(self) -> float | None:
        """The largest absolute difference of all; None where a value was NaN or infinite."""
        values = [entry.max_abs for entry in self.outputs]
        return None if None in values else max(value for value in values if value is not None)

    def raise_if_failed(self) -> None:
        """Raise ParityError, naming the worst sample, where the gate is shut."""
        failed = [entry for entry in self.outputs if not entry.passed]
        if failed:
            worst = max(failed, key=lambda entry: float("inf") if entry.max_abs is None else entry.max_abs)
            found = "is not finite" if worst.max_abs is None else f"differs by {worst.max_abs:.3g}"
            raise ParityError(
                f"sample {worst.worst_sample!r} with {' + '.join(worst.subset)}: output {worst.output!r}"
                f" {found}, the tolerance is {self.tolerance:g};"
                f" {len(failed)} of {len(self.outputs)} comparisons failed"
            )

    def to_dict(self) -> dict[str, Any]:
        """Everything in the report as strict JSON values."""
        return {
            "passed": bool(self),
            "tolerance": self.tolerance,
            "outputs": [asdict(o) for o in self.outputs],
        }


def compare(
    reference: Model,
    candidate: Model,
    samples: Iterable[tuple[str, Mapping[str, Any]]],
    modalities: Sequence[str],
    tolerance: float = 1e-4,
) -> ParityReport:
    """Run both models on every sample with every subset of the modalities it has, and compare their outputs.

    Args:
        reference, candidate: (sample, subset) -> outputs by name; only modalities in `subset` are present.
        samples: (name, sample) pairs; a sample maps modalities to inputs, and may lack some or hold None.
        modalities: all of them, in the order of the model.
        tolerance: largest absolute difference allowed of any value.

    Raises:
        InvalidArgument: there are no samples, or none that has all modalities of some subset.
        ParityError: the candidate's outputs differ from the reference's in name or shape.
    """
    subsets = [subset for n in range(1, len(modalities) + 1) for subset in combinations(modalities, n)]
    tallies: dict[tuple[tuple[str, ...], str], _Tally] = {}
    for name, sample in samples:
        for subset in subsets:
            if any(sample.get(modality) is None for modality in subset):
                continue
            expected, found = reference(sample, subset), candidate(sample, subset)
            _check_same_outputs(name, expected, found)
            for output, values in expected.items():
                tallies.setdefault((subset, output), _Tally()).add(name, values, found[output])
    for subset in subsets:
        if not any(seen == subset for seen, _ in tallies):
            raise InvalidArgument(f"no sample has {' + '.join(subset)}: parity needs at least one for every subset")
    return ParityReport(
        tolerance,
        tuple(tally.result(subset, output, tolerance) for (subset, output), tally in tallies.items()),
    )


def _check_same_outputs(sample: str, expected: Outputs, found: Outputs) -> None:
    shapes = {name: values.shape for name, values in expected.items()}
    found_shapes = {name: values.shape for name, values in found.items()}
    if shapes != found_shapes or not shapes or any(not values.size for values in expected.values()):
        raise ParityError(f"sample {sample!r}: the outputs are {found_shapes}, expected {shapes}")


class _Tally:
    """The running statistics of one output in one subset."""

    def __init__(self) -> None:
        self.samples = self.agreed = self.non_finite = 0
        self.max_abs = self.max_rel = -1.0
        self.cosine_min = 1.0
        self.worst = ""

    def add(self, name: str, expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> None:
        a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
        self.samples += 1
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            self.worst = self.worst if self.non_finite else name
            self.non_finite += 1
            return
        self.agreed += int(a.argmax() == b.argmax())
        error, scale = float(np.abs(a - b).max()), float(np.abs(a).max())
        self.max_rel = max(self.max_rel, error / max(scale, _LEAST_SCALE))
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        self.cosine_min = min(self.cosine_min, float(a @ b) / norms if norms else float(not error))
        if error > self.max_abs:
            self.max_abs = error
            self.worst = self.worst if self.non_finite else name

    def result(self, subset: tuple[str, ...], output: str, tolerance: float) -> OutputParity:
        finite = not self.non_finite
        return OutputParity(
            subset=subset,
            output=output,
            samples=self.samples,
            max_abs=self.max_abs if finite else None,
            max_rel=self.max_rel if finite else None,
            cosine_min=self.cosine_min if finite else None,
            top1_agreement=self.agreed / self.samples,
            non_finite=self.non_finite,
            worst_sample=self.worst,
            passed=finite and self.max_abs <= tolerance,
        )
