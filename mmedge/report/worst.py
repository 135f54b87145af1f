"""The samples a model got most wrong, chosen per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmedge.evaluation import Evaluation, Outcome, SubsetScores, scored_pairs
from mmedge.report.media import Media, load_media

_MOST = 24  # samples of a list
_MOST_PAIRS = 10  # of a list: twice as many samples
_MOST_COLUMNS, _MOST_CHARACTERS = 8, 120


@dataclass(frozen=True)
class Card:
    """One sample, or a pair, and what is to be said of it."""

    media: tuple[Media, ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Gallery:
    """Cards under a heading, worst first."""

    title: str
    cards: tuple[Card, ...]


def worst(evaluation: Evaluation) -> list[Gallery]:
    """Lists of the worst samples with as many modalities as there are; none where nothing is wrong.

    Raises:
        DataError: a file is gone or damaged.
    """
    subset = evaluation.subsets[-1]
    if evaluation.task.name == "embedding":
        found = _pairs(evaluation, subset)
    elif evaluation.task.multi_label:
        found = [_labels(subset)]
    else:
        regions = evaluation.task.name == "vqa" and "image" in subset.modalities
        found = [_answers(subset, regions), *([_regions(subset)] if regions else [])]
    return [gallery for gallery in found if gallery.cards]


def _answers(subset: SubsetScores, regions: bool) -> Gallery:
    def confidence(outcome: Outcome) -> float:
        return outcome.prediction.scores.get(str(outcome.prediction.label), 0.0)

    wrong = [outcome for outcome in subset.outcomes if outcome.prediction.label != outcome.sample.label]
    chosen = sorted(wrong, key=confidence, reverse=True)[:_MOST]
    return Gallery(
        "Surest errors", tuple(_card(outcome, [str(outcome.prediction.label)], regions) for outcome in chosen)
    )


def _regions(subset: SubsetScores) -> Gallery:
    """Those with the right answer: the wrong ones are in the other list."""
    seen = [(outcome.region[0], outcome) for outcome in subset.outcomes if outcome.region]
    right = [(iou, outcome) for iou, outcome in seen if outcome.prediction.label == outcome.sample.label]
    chosen = sorted(right, key=lambda row: row[0])[: _MOST // 2]
    return Gallery(
        "Right answers, worst regions",
        tuple(_card(outcome, [str(outcome.prediction.label)], True) for _, outcome in chosen),
    )


def _labels(subset: SubsetScores) -> Gallery:
    def margin(outcome: Outcome) -> float:
        wrong = set(outcome.prediction.labels or ()) ^ set(outcome.sample.labels)
        scores = outcome.prediction.scores
        return max((abs(scores.get(label, 0.0) - (label in outcome.sample.labels)) for label in wrong), default=-1.0)

    chosen = sorted((outcome for outcome in subset.outcomes if margin(outcome) >= 0), key=margin, reverse=True)
    return Gallery(
        "Surest errors", tuple(_card(outcome, outcome.prediction.labels or (), False) for outcome in chosen[:_MOST])
    )


def _pairs(evaluation: Evaluation, subset: SubsetScores) -> list[Gallery]:
    pairs = scored_pairs(evaluation.task, subset.outcomes)
    galleries = []
    for title, wanted, sign in (("Most alike, of two labels", False, -1), ("Least alike, of one label", True, 1)):
        rows = np.flatnonzero(pairs.same == wanted)
        cards = []
        for row in rows[np.argsort(sign * pairs.scores[rows], kind="stable")][:_MOST_PAIRS]:
            both = [subset.outcomes[pairs.first[row]].sample, subset.outcomes[pairs.second[row]].sample]
            lines = " and ".join(str(sample.line) for sample in both)
            facts = (
                ("truth", _joined([sample.label for sample in both])),
                ("similarity", f"{pairs.scores[row]:.4f}"),
                ("lines", lines),
            )
            cards.append(Card(tuple(load_media(sample) for sample in both), facts))
        galleries.append(Gallery(title, tuple(cards)))
    return galleries


def _card(outcome: Outcome, found: Sequence[str], with_region: bool) -> Card:
    sample, prediction = outcome.sample, outcome.prediction
    facts = [("truth", _with_scores(sample.labels, outcome)), ("found", _with_scores(found, outcome))]
    if outcome.region:
        of_map, of_box = outcome.region
        facts.append(("IoU", f"map {of_map:.2f}" + (f", box {of_box:.2f}" if of_box is not None else "")))
    columns = [(name, str(value)[:_MOST_CHARACTERS]) for name, value in sample.columns.items()]
    facts += [*columns[:_MOST_COLUMNS], ("line", str(sample.line))]
    region = prediction.region if with_region else None
    return Card((load_media(sample, region, masked=with_region),), tuple(facts))


def _with_scores(labels: Sequence[str], outcome: Outcome) -> str:
    scores = outcome.prediction.scores
    return _joined([f"{label} ({scores[label]:.3f})" if label in scores else label for label in labels])


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
