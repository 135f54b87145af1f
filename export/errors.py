"""The errors of a graph that cannot be exported, and of an engine that cannot be built."""

from __future__ import annotations

from mmedge.runtime.errors import EngineError, MmedgeError


class ExportError(MmedgeError):
    """A module cannot be turned into a graph that its target runs and that computes the same values."""


class UnsupportedLayer(ExportError):
    """The parser of a builder refuses a node of the graph."""


class BuilderMissing(EngineError):
    """TensorRT or TensorRT-RTX is not installed, or its libraries cannot be loaded."""


class GpuMissing(EngineError):
    """A builder needs a GPU, and there is none, or no driver for it."""


class BuildOutOfMemory(EngineError):
    """A build needs more memory than there is, or than it may take."""
