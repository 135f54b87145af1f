"""mmedge: models that see, hear and read, on edge devices.

`mmedge.Session` runs a bundle; it needs neither torch nor transformers. Names are imported on first use.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Or ONNX Runtime would report to its makers; libmmedge sees to it where it is used without Python.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from mmedge.runtime import Audio, Gallery, Image, Preprocessor, Result, Session
    from mmedge.runtime.errors import MmedgeError

__all__ = ["Audio", "Gallery", "Image", "MmedgeError", "Preprocessor", "Result", "Session", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mmedge")
    if name == "MmedgeError":
        from mmedge.runtime.errors import MmedgeError

        return MmedgeError
    if name in __all__:
        import mmedge.runtime

        return getattr(mmedge.runtime, name)
    raise AttributeError(f"module 'mmedge' has no attribute {name!r}")
