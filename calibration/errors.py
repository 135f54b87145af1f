"""The errors of a calibration that cannot be made or used."""

from __future__ import annotations

from mmedge.runtime.errors import MmedgeError


class CalibrationError(MmedgeError):
    """A tensor has no range, or a calibration was made of something else than it is used for."""


class BudgetExceeded(CalibrationError):
    """What is asked for loses more accuracy than is allowed."""

    exit_code = 1
