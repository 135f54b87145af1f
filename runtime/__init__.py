"""Run bundles: the Python binding over libmmedge's public C ABI. Imports nothing of mmedge's other rooms.

Names are imported on first use, so that `import mmedge.runtime` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmedge.runtime.gallery import Gallery, Match
    from mmedge.runtime.inputs import Audio, Image
    from mmedge.runtime.manifest import Manifest, read_manifest
    from mmedge.runtime.preprocessor import Preprocessor
    from mmedge.runtime.session import Region, Result, Session
    from mmedge.runtime.similarity import similarity_top_k

__all__ = [
    "Audio",
    "Gallery",
    "Image",
    "Manifest",
    "Match",
    "Preprocessor",
    "Region",
    "Result",
    "Session",
    "read_manifest",
    "similarity_top_k",
]

_HOMES = {
    "Audio": "inputs",
    "Gallery": "gallery",
    "Image": "inputs",
    "Manifest": "manifest",
    "Match": "gallery",
    "Preprocessor": "preprocessor",
    "Region": "session",
    "Result": "session",
    "Session": "session",
    "read_manifest": "manifest",
    "similarity_top_k": "similarity",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
