"""The errors mmedge raises: one class per kind of fault, each with the exit code the command line ends with.

A message says what was found, what was expected and what to do.
"""

from __future__ import annotations


class MmedgeError(Exception):
    """Base of every error mmedge raises on purpose."""

    exit_code = 2


class InvalidArgument(MmedgeError):
    """A value handed to a call cannot be used: wrong type, shape, range or order of calls."""


class BundleError(MmedgeError):
    """A bundle is missing, damaged, of a newer schema, or reaches outside its own directory."""


class EngineError(MmedgeError):
    """The inference engine is missing, too old, or failed to load or run a graph."""


class EngineUnavailable(EngineError):
    """What a model is to run on is not here: an engine's library, a driver, a GPU, or an engine built for it."""


class NotFinite(EngineError):
    """A model gave NaN or an infinity."""


class DataError(MmedgeError):
    """A data set or a media file cannot be read as declared."""


class RecipeError(MmedgeError):
    """A training recipe holds an unknown key or an impossible value."""


class CheckpointError(MmedgeError):
    """A training checkpoint is missing or cannot be loaded."""


class ParityError(MmedgeError):
    """The exported bundle does not reproduce the model within tolerance."""

    exit_code = 1


class TrainingError(MmedgeError):
    """A training run cannot go on: its loss, gradient or weights are no finite numbers."""
