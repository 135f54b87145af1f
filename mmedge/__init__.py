"""mmedge: models that see, hear and read, on edge devices.

`mmedge.Session` runs a bundle; it needs neither torch nor transformers. Names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
