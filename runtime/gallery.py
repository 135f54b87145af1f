"""Named embeddings: who or what was enrolled, searched by name and kept in a file."""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple

import numpy as np

from mmedge.runtime.arrays import as_array
from mmedge.runtime.errors import DataError, InvalidArgument
from mmedge.runtime.native import check, ffi, lib, path_bytes, struct, text
from mmedge.runtime.session import Session
from mmedge.runtime.similarity import METRICS


class Match(NamedTuple):
    """A name, and the score of its best embedding: the larger the nearer, or a euclidean distance."""

    name: str
    score: float


class Gallery:
    """Embeddings under names; a name may have several. One thread at a time; calls release the GIL.

    Args:
        dimension: numbers in an embedding.
        metric: what compares them.
        model: `Session.graph_sha256` of the model they will be of; "": not said.

    Raises:
        InvalidArgument: another metric, or a dimension that is not 1 to 65536.
    """

    def __init__(
        self, dimension: int, metric: Literal["cosine", "dot", "euclidean"] = "cosine", model: str = ""
    ) -> None:
        if metric not in METRICS:
            raise InvalidArgument(f"metric is {metric!r}; expected {', '.join(METRICS)}")
        if dimension < 1:
            raise InvalidArgument(f"dimension is {dimension}; expected at least 1")
        made = ffi.new("mme_gallery **")
        check(lib.mme_gallery_create(dimension, METRICS[metric], model.encode(), made))
        self._take(made[0])

    @classmethod
    def for_session(cls, session: Session) -> Gallery:
        """An empty gallery for the embeddings of a session's model, compared as it says.

        Raises:
            InvalidArgument: the model makes no embeddings.
        """
        output, metric = session.manifest.output("embedding"), session.manifest.metric
        if output is None or metric is None:
            raise InvalidArgument(
                f"the model {session.manifest.name!r} is of task {session.manifest.task!r}; a gallery holds embeddings,"
                " which a model of task 'embedding' makes"
            )
        return cls(output.shape[0], metric, session.graph_sha256)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Gallery:
        """Read a file that `save` wrote.

        Raises:
            DataError: it is missing, damaged, or of a newer version.
        """
        if os.path.isdir(path):
            raise DataError(f"{os.fspath(path)} is a folder; expected a file that was saved")
        made = ffi.new("mme_gallery **")
        check(lib.mme_gallery_load(path_bytes(path), made))
        gallery = cls.__new__(cls)
        gallery._take(made[0])
        return gallery

    def _take(self, handle: Any) -> None:
        self._handle = ffi.gc(handle, lib.mme_gallery_destroy)
        info = self._info()
        self.dimension: int = info.dimension
        self.metric = next(name for name, value in METRICS.items() if value == info.metric)
        self.model = text(info.model)

    def _info(self) -> Any:
        info = struct("mme_gallery_info")
        check(lib.mme_gallery_get_info(self._handle, info))
        return info

    def __len__(self) -> int:
        """Embeddings in it."""
        return int(self._info().count)

    def check_session(self, session: Session) -> None:
        """Make sure that a session's embeddings can be compared with these.

        Raises:
            InvalidArgument: they are of another model, size or metric.
        """
        expected = Gallery.for_session(session)
        for what in ("dimension", "metric", "model"):
            found, wanted = getattr(self, what), getattr(expected, what)
            if found not in (wanted, ""):
                raise InvalidArgument(
                    f"the gallery is of {what} {found}, the model {session.manifest.name!r} of {wanted}: embeddings of"
                    " two models cannot be compared; enroll anew with this one"
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, in whole or not at all: an older file there stays until the new one is complete.

        Raises:
            InvalidArgument: nothing can be written there.
        """
        check(lib.mme_gallery_save(self._handle, path_bytes(path)))

    def enroll(self, name: str, embedding: Any) -> None:
        """Add a copy of an embedding, contiguous float32 [dimension], under a name of 1 to 1024 bytes in UTF-8.

        Raises:
            InvalidArgument: a name or an embedding that is none.
            DataError: NaN or infinity in the embedding.
        """
        values = self._values(embedding)
        check(lib.mme_gallery_enroll(self._handle, _encoded(name), values, len(values)))

    def remove(self, name: str) -> None:
        """Remove every embedding of a name.

        Raises:
            InvalidArgument: nothing is enrolled under it.
        """
        check(lib.mme_gallery_remove(self._handle, _encoded(name)))

    def search(self, embedding: Any, k: int = 5) -> list[Match]:
        """The k names nearest to an embedding, best first, equal scores by the order of enrolment.

        Raises:
            InvalidArgument: the embedding is none, or k is below 1.
            DataError: NaN or infinity in the embedding.
        """
        values = self._values(embedding)
        if k < 1:
            raise InvalidArgument(f"k is {k}; expected at least 1")
        most = max(1, min(k, len(self)))
        matches, found = ffi.new("mme_match[]", most), ffi.new("size_t *")
        matches[0].struct_size = ffi.sizeof("mme_match")
        check(lib.mme_gallery_search(self._handle, values, len(values), most, matches, found))
        return [Match(text(match.name), match.score) for match in ffi.unpack(matches, found[0])]

    def _values(self, embedding: Any) -> Any:
        array = as_array(embedding)
        if array.dtype != np.float32 or array.ndim != 1 or not array.flags.c_contiguous:
            raise InvalidArgument(
                f"found an embedding of {array.dtype} {list(array.shape)} with strides {array.strides}; expected"
                f" contiguous float32 [{self.dimension}]"
            )
        return ffi.from_buffer("float[]", array)


def _encoded(name: str) -> bytes:
    if "\0" in name:
        raise InvalidArgument(f"the name {name!r} holds a NUL; expected text without one")
    return name.encode("utf-8", "surrogatepass")  # the library says what is wrong with it
