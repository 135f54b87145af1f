"""How much accuracy a bundle in fewer bits loses: what the budget of a calibration is held against."""

from __future__ import annotations

from statistics import mean

from mmedge.calibration.errors import CalibrationError
from mmedge.evaluation import Evaluation


def accuracy_drop(before: Evaluation, after: Evaluation) -> float:
    """How much worse the main metric is, in points of a hundred: with all modalities, or on average over the subsets,
    whichever is more. (A subset that can but guess goes up and down by more than any budget.)

    Raises:
        CalibrationError: the metric has no value with all modalities.
    """
    for main in (before.subsets[-1].main, after.subsets[-1].main):
        if main.value is None:
            raise CalibrationError(
                f"the budget is of {main.name}, which has no value on these samples with all modalities; "
                "evaluate on another split, with several samples of each label"
            )
    worse = []
    for old, new in zip(before.subsets, after.subsets, strict=True):
        if old.main.value is not None and new.main.value is not None:
            gain = new.main.value - old.main.value
            worse.append(100 * (-gain if old.main.larger_is_better else gain))
    return max(worse[-1], mean(worse))
