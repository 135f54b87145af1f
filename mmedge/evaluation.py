"""Score a model on every subset of its modalities, whatever runs it: a checkpoint in torch or a bundle in
the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from mmedge.data.folder import Sample
from mmedge.metrics import Report, classification_report
from mmedge.runtime.errors import DataError

Predict = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class SubsetScores:
    """Scores with only `modalities` given. `groups`: accuracy by value of the column asked for."""

    modalities: tuple[str, ...]
    report: Report
    groups: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Scores per subset of modalities, single ones first, all of them last."""

    subsets: tuple[SubsetScores, ...]

    def __getitem__(self, modalities: tuple[str, ...]) -> SubsetScores:
        """The scores of one subset; KeyError if no sample had all of its modalities."""
        for subset in self.subsets:
            if set(subset.modalities) == set(modalities):
                return subset
        raise KeyError(modalities)

    def to_dict(self) -> dict[str, Any]:
        """JSON types: subset, its modalities joined by "+", -> report and groups."""
        return {
            "+".join(subset.modalities): {**subset.report.to_dict(), "groups": subset.groups} for subset in self.subsets
        }


def modality_subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset, small ones first, each in the order of `modalities`."""
    return [subset for size in range(1, len(modalities) + 1) for subset in combinations(modalities, size)]


def evaluate(
    predict: Predict,
    samples: Sequence[Sample],
    modalities: Sequence[str],
    labels: Sequence[str],
    *,
    group_by: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run `predict` on every sample under every non-empty subset of `modalities`, and score the labels it
    returns.

    `predict` gets decoded inputs by modality (see `Sample.load`), those outside the subset left out. A
    sample takes part in the subsets whose modalities it has. `group_by` names a column to give accuracies
    by; `progress(done, total)` is called per sample.

    Raises:
        DataError: a file cannot be decoded, or no sample has any of the modalities.
    """
    results: dict[tuple[str, ...], list[tuple[Sample, str]]] = {}
    for done, sample in enumerate(samples, start=1):
        inputs = sample.load()
        for subset in modality_subsets(modalities):
            if inputs.keys() >= set(subset):
                label = predict({modality: inputs[modality] for modality in subset})
                results.setdefault(subset, []).append((sample, label))
        if progress:
            progress(done, len(samples))
    if not results:
        raise DataError(f"none of the {len(samples)} samples has {' or '.join(modalities)}; nothing to evaluate")
    ordered = (subset for subset in modality_subsets(modalities) if subset in results)
    return Evaluation(tuple(_score(subset, results[subset], labels, group_by) for subset in ordered))


def _score(
    subset: tuple[str, ...],
    results: Sequence[tuple[Sample, str]],
    labels: Sequence[str],
    group_by: str | None,
) -> SubsetScores:
    truth = [sample.label for sample, _ in results]
    report = classification_report(truth, [label for _, label in results], labels)
    hits: dict[str, list[bool]] = {}
    if group_by is not None:
        for sample, label in results:
            hits.setdefault(str(sample.columns.get(group_by)), []).append(label == sample.label)
    return SubsetScores(subset, report, {group: sum(found) / len(found) for group, found in sorted(hits.items())})
