"""The error of a graph that cannot be exported."""

from __future__ import annotations

from mmedge.runtime.errors import MmedgeError


class ExportError(MmedgeError):
    """A module cannot be turned into a graph that its target runs and that computes the same values."""
