"""Metrics of embeddings: verification (are two samples of one label?) and retrieval (which are nearest?)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

Metric = Literal["cosine", "euclidean"]
Embeddings = npt.NDArray[np.float32]

RANKS = (1, 5, 10)
_MOST_ROWS = 2000  # all pairs of these are 2 million
_CHUNK = 256


class Pairs(NamedTuple):
    """Two rows each: int64 [n] of the first and the second, whether their labels agree, and how similar they are."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    same: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verification:
    """The equal error rate of telling pairs of one label from pairs of two by their similarity.

    `threshold`: pairs at least so similar are accepted; a cosine, or minus a Euclidean distance. Where `eer` is None,
    `undefined` says why.
    """

    eer: float | None
    threshold: float | None
    pairs: int
    same: int
    undefined: str | None


@dataclass(frozen=True)
class Retrieval:
    """`recall[k]`: the share of `queries` with a relevant row among the k nearest; None without queries."""

    recall: dict[int, float | None]
    queries: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, "recall@k" by k."""
        return {**{f"recall@{k}": share for k, share in self.recall.items()}, "queries": self.queries}


@dataclass(frozen=True)
class EmbeddingReport:
    """Verification and retrieval among `samples` embeddings."""

    verification: Verification
    retrieval: Retrieval
    samples: int

    @property
    def summary(self) -> dict[str, float | None]:
        """The figures that sum it up by name, the main metric first."""
        recall = {f"recall@{k}": share for k, share in self.retrieval.recall.items()}
        return {"EER": self.verification.eer, "threshold": self.verification.threshold, **recall}

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {
            "samples": self.samples,
            "verification": asdict(self.verification),
            "retrieval": self.retrieval.to_dict(),
        }


def similarity(queries: Embeddings, gallery: Embeddings, metric: Metric) -> npt.NDArray[np.float64]:
    """[queries, gallery]: cosines, or minus Euclidean distances; a vector of zeros has the cosine 0."""
    a, b = queries.astype(np.float64), gallery.astype(np.float64)
    if metric == "euclidean":
        lengths = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
        squares = lengths - 2 * (a @ b.T)
        # What rounding leaves of equal rows would grow in the root.
        return np.asarray(-np.sqrt(np.where(squares > 1e-13 * lengths, squares, 0)))
    tiny = np.finfo(np.float64).tiny
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), tiny) for x in (a, b)]
    return np.asarray(unit[0] @ unit[1].T)


def all_pairs(rows: int) -> npt.NDArray[np.int64]:
    """Every pair [n, 2] of as many rows; of more than 2,000, of 2,000 drawn with a fixed seed."""
    chosen = np.arange(rows)
    if rows > _MOST_ROWS:
        chosen = np.sort(np.random.default_rng(0).choice(rows, _MOST_ROWS, replace=False))
    first, second = np.triu_indices(len(chosen), 1)
    return np.stack([chosen[first], chosen[second]], axis=1)


def score_pairs(embeddings: Embeddings, labels: Sequence[str], pairs: npt.NDArray[np.int64], metric: Metric) -> Pairs:
    """Similarities of `pairs` [n, 2], rows of `embeddings` [rows, dimension] and of `labels`."""
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    first, second = pairs[:, 0], pairs[:, 1]
    numbers = _numbers(labels)
    scores = np.empty(len(pairs))
    rows, starts = np.unique(first, return_index=True)
    for begin in range(0, len(rows), _CHUNK):
        end = starts[begin + _CHUNK] if begin + _CHUNK < len(rows) else len(pairs)
        part = slice(starts[begin], end)
        queries, query = np.unique(first[part], return_inverse=True)
        gallery, found = np.unique(second[part], return_inverse=True)
        scores[part] = similarity(embeddings[queries], embeddings[gallery], metric)[query, found]
    return Pairs(first, second, numbers[first] == numbers[second], scores)


def verification(pairs: Pairs) -> Verification:
    """The equal error rate: where the ROC, taken linear between its points, has as many false accepts among pairs of
    two labels as false rejects among pairs of one (Martin et al., "The DET curve in assessment of detection task
    performance", Eurospeech 1997). The threshold is interpolated likewise.
    """
    same = int(pairs.same.sum())
    counts = {"pairs": len(pairs.same), "same": same}
    if same in (0, len(pairs.same)):
        kind = "of one label" if same == 0 else "of two labels"
        return Verification(None, None, **counts, undefined=f"no pair is {kind}")
    # Points in line with their neighbours matter to no share, but each has a threshold of its own.
    false_accepts, true_accepts, thresholds = roc_curve(pairs.same, pairs.scores, drop_intermediate=False)
    difference = (1 - true_accepts) - false_accepts  # falls from 1 to -1
    after = int(np.argmax(difference <= 0))
    before = after - 1
    share = difference[before] / (difference[before] - difference[after])
    if before == 0:
        thresholds[0] = thresholds[1]  # it is infinite: nothing is accepted
    eer, threshold = (x[before] + share * (x[after] - x[before]) for x in (false_accepts, thresholds))
    return Verification(float(eer), float(threshold), **counts, undefined=None)


def retrieval(embeddings: Embeddings, labels: Sequence[str], metric: Metric) -> Retrieval:
    """Each row against all others, rows of its label relevant: Recall@K of Oh Song et al., "Deep Metric Learning via
    Lifted Structured Feature Embedding", 2016, section 5. Rows whose label no other has are no queries. Where rows are
    equally near, relevant ones come last, so that a collapsed model does not look good.
    """
    numbers = _numbers(labels)
    ranks = []
    for start, scores in _chunks(embeddings, embeddings, metric):
        rows = np.arange(len(scores))
        relevant = numbers[start : start + len(scores), None] == numbers
        relevant[rows, start + rows] = False
        scores[rows, start + rows] = -np.inf  # a row is not its own neighbour
        ranks.append(_ranks(scores, relevant)[relevant.any(axis=1)])
    return _recall(np.concatenate(ranks))


def cross_retrieval(queries: Embeddings, gallery: Embeddings, labels: Sequence[str], metric: Metric) -> Retrieval:
    """Each row of `queries` against all of `gallery`, two embeddings of the same rows, whose labels are `labels`: rows
    of its label are relevant, itself among them; ties as in `retrieval`.
    """
    numbers = _numbers(labels)
    ranks = []
    for start, scores in _chunks(queries, gallery, metric):
        relevant = numbers[start : start + len(scores), None] == numbers
        ranks.append(_ranks(scores, relevant))
    return _recall(np.concatenate(ranks))


def _numbers(labels: Sequence[str]) -> npt.NDArray[np.int64]:
    number = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return np.array([number[label] for label in labels], np.int64)


def _chunks(queries: Embeddings, gallery: Embeddings, metric: Metric) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    for start in range(0, len(queries), _CHUNK):
        yield start, similarity(queries[start : start + _CHUNK], gallery, metric)


def _ranks(scores: npt.NDArray[np.float64], relevant: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """From 1: where each query's nearest relevant row stands."""
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    equal = best - 1e-9 * np.abs(best)  # BLAS gives equal rows scores that differ in their last bits
    return np.asarray(1 + ((scores >= equal) & ~relevant).sum(axis=1))


def _recall(ranks: npt.NDArray[np.int64]) -> Retrieval:
    return Retrieval({k: float((ranks <= k).mean()) if len(ranks) else None for k in RANKS}, len(ranks))
