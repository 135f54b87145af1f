"""Which sample a training draw is: a function of the seed and the draw's number alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmedge.data.folder import Sample
from mmedge.runtime.errors import DataError

Row = Callable[[int], int]
"""The number of a draw -> the index of its sample."""


class Shuffles:
    """An endless row of shuffles of `count` things; `[n]` is the n-th. `key` sets one row apart from another."""

    def __init__(self, count: int, seed: int, *key: int) -> None:
        self._count, self._seed, self._key = count, seed, key
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __getitem__(self, position: int) -> int:
        shuffle, place = divmod(position, self._count)
        if self._last[0] != shuffle:
            self._last = shuffle, np.random.default_rng([self._seed, *self._key, shuffle]).permutation(self._count)
        return int(self._last[1][place])


def shuffled(samples: Sequence[Sample], seed: int) -> Row:
    """Every sample once per epoch."""
    order = Shuffles(len(samples), seed, 0)
    return lambda draw: order[draw]


def balanced(samples: Sequence[Sample], labels: Sequence[str], seed: int) -> Row:
    """Every label once per as many draws as there are labels, and every sample of a label once before any again. A
    sample of several labels is drawn for each of them, one of none for the absence of all.

    Raises:
        DataError: a label without a sample.
    """
    members = _members(samples)
    missing = sorted(set(labels) - members.keys())
    if missing:
        raise DataError(f"balanced sampling: the train split has no sample of {', '.join(missing)}; leave them out")
    groups = list(members.values())
    order = Shuffles(len(groups), seed, 0)
    within = [Shuffles(len(group), seed, 2, index) for index, group in enumerate(groups)]

    def row(draw: int) -> int:
        group = order[draw]
        return groups[group][within[group][draw // len(groups)]]

    return row


def by_label(samples: Sequence[Sample], seed: int, batch_size: int, samples_per_label: int) -> Row:
    """Batches of P labels with K = `samples_per_label` samples each (Hermans et al. 2017, "In defense of the triplet
    loss", 2), P = batch_size / K. The K are all different, but for a label of fewer, which repeats its own.

    Raises:
        DataError: fewer than P labels.
    """
    return _grouped(list(_members(samples).values()), "labels", seed, batch_size, samples_per_label)


def by_image(
    samples: Sequence[Sample],
    seed: int,
    batch_size: int,
    samples_per_image: int,
    mirrors: Callable[[Mapping[str, Any]], bool],
) -> Row:
    """Batches of P images with K = `samples_per_image` samples each, P = batch_size / K. The K are all different,
    but for an image of fewer, which repeats its own. `mirrors` says which columns allow a mirrored image; the K samples
    are all of one kind.

    Raises:
        DataError: fewer than P images, or a sample without one.
    """
    groups: dict[Any, list[int]] = {}
    for index, sample in enumerate(samples):
        if "image" not in sample.files:
            raise DataError(f"samples_per_image: the train split's line {sample.line} has no image; leave it out")
        groups.setdefault((sample.files["image"], mirrors(sample.columns)), []).append(index)
    return _grouped(list(groups.values()), "images", seed, batch_size, samples_per_image)


def _grouped(groups: Sequence[Sequence[int]], what: str, seed: int, batch_size: int, size: int) -> Row:
    most = batch_size // size
    if len(groups) < most:
        raise DataError(
            f"found {len(groups)} {what} in the train split; batches of {batch_size} with {size} samples of each need "
            f"{most}"
        )
    order = Shuffles(len(groups), seed, 0)
    within = [Shuffles(len(group), seed, 2, index) for index, group in enumerate(groups)]
    # In one shuffle of the groups, and of each one's samples; those left over wait for the next.
    batches = len(groups) // most
    runs = [max(len(group) // size, 1) for group in groups]

    def row(draw: int) -> int:
        batch, position = divmod(draw, batch_size)
        shuffle, part = divmod(batch, batches)
        place, number = divmod(position, size)
        group = order[shuffle * len(groups) + part * most + place]
        members = groups[group]
        again, run = divmod(shuffle, runs[group])
        return members[within[group][again * len(members) + run * size + number]]

    return row


def _members(samples: Sequence[Sample]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        for label in sample.labels or ("",):
            members.setdefault(label, []).append(index)
    return dict(sorted(members.items()))
