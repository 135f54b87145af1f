from __future__ import annotations

from collections import Counter

import pytest

from mmedge.data.folder import Sample
from mmedge.runtime.errors import DataError
from mmedge.training.sampling import balanced, by_image, by_label, shuffled


def rows(**counts: int) -> list[Sample]:
    """Samples with so many of each label."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [labelled(label) for label in labels]


def labelled(*labels: str) -> Sample:
    return Sample(
        files={}, text="", modalities=("text",), labels=labels, mask_file=None, mask_values=None, columns={}, line=1
    )


def test_shuffled_draws_every_sample_once_per_epoch() -> None:
    row = shuffled(rows(a=7, b=3), seed=0)
    epochs = [[row(draw) for draw in range(epoch * 10, epoch * 10 + 10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_balanced_draws_give_each_class_the_same_share_and_use_every_rare_sample() -> None:
    samples = rows(common=900, less=90, rare=10)
    row = balanced(samples, ["common", "less", "rare"], seed=3)
    drawn = [row(draw) for draw in range(3000)]
    per_class = Counter(samples[index].label for index in drawn)
    assert all(abs(count - 1000) <= 100 for count in per_class.values())
    assert {index for index in drawn if samples[index].label == "rare"} == set(range(990, 1000))
    assert len(set(drawn)) > 500
    assert [row(draw) for draw in (2999, 0, 17)] == [drawn[2999], drawn[0], drawn[17]]


def test_balanced_names_the_classes_that_the_split_lacks() -> None:
    with pytest.raises(DataError, match=r"no sample of dusk, mist"):
        balanced(rows(a=3), ["a", "mist", "dusk"], seed=0)


def test_balanced_draws_a_sample_of_several_labels_for_each_and_one_of_none_too() -> None:
    samples = [labelled("a", "b"), labelled("b"), labelled()]
    row = balanced(samples, ["a", "b"], seed=0)
    drawn = Counter(row(draw) for draw in range(600))
    assert drawn == {0: 200 + 100, 1: 100, 2: 200}


def test_groups_are_labels_with_as_many_samples_each() -> None:
    samples = rows(a=4, b=9, c=2, d=5, e=1, f=6, g=8)
    row = by_label(samples, seed=0, batch_size=12, samples_per_label=4)
    met: Counter[str] = Counter()
    for batch in range(70):
        drawn = [row(draw) for draw in range(batch * 12, batch * 12 + 12)]
        labels = [samples[index].label for index in drawn]
        assert labels == [label for label in labels[::4] for _ in range(4)]
        assert len(set(labels)) == 3
        met.update(labels[::4])
        for start in range(0, 12, 4):
            available = min(4, sum(sample.label == labels[start] for sample in samples))
            assert len(set(drawn[start : start + 4])) == available
    assert all(count == pytest.approx(30, abs=8) for count in met.values())
    assert {row(draw) for draw in range(70 * 12)} == set(range(len(samples)))


def test_a_row_without_an_image_cannot_be_grouped_by_image() -> None:
    with pytest.raises(DataError, match=r"line \d+ has no image"):
        by_image(rows(a=4), seed=0, batch_size=4, samples_per_image=2, mirrors=lambda columns: True)


def test_groups_need_enough_labels() -> None:
    with pytest.raises(DataError, match="found 2 labels"):
        by_label(rows(a=4, b=4), seed=0, batch_size=12, samples_per_label=4)
