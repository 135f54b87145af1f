"""Nearest neighbours among embeddings."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmedge.runtime.arrays import as_array, row_stride
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.native import check, ffi, lib, struct

METRICS = {"cosine": lib.MME_COSINE, "dot": lib.MME_DOT, "euclidean": lib.MME_EUCLIDEAN}
_GALLERIES = {
    np.dtype(np.float32): lib.MME_FLOAT32,
    np.dtype(np.float16): lib.MME_FLOAT16,
    np.dtype(np.int8): lib.MME_INT8,
}


def similarity_top_k(
    gallery: Any,
    query: Any,
    k: int,
    metric: Literal["cosine", "dot", "euclidean"] = "cosine",
    scale: float = 1.0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The rows of a gallery nearest to a query: indices int64 [n] and scores float32 [n], n = min(k, rows).

    Best first, equal scores by row: the largest cosine or dot product, or the smallest euclidean distance. Any thread;
    releases the GIL.

    Args:
        gallery: float32, float16 or int8 [rows, dimension]; rows may be strided. Read in place, like the query.
        query: float32 [dimension].
        scale: what an int8 gallery's values are multiplied by; other types ignore it.

    Raises:
        InvalidArgument: another type, shape, layout or metric, or k below 1.
        DataError: the query holds NaN or infinity.
    """
    rows, wanted = as_array(gallery), as_array(query)
    if metric not in METRICS:
        raise InvalidArgument(f"metric is {metric!r}; expected {', '.join(METRICS)}")
    if rows.dtype not in _GALLERIES or rows.ndim != 2:
        raise InvalidArgument(
            f"found a gallery of {rows.dtype} {list(rows.shape)}; expected {', '.join(map(str, _GALLERIES))} "
            "[rows, dimension]"
        )
    if wanted.dtype != np.float32 or wanted.shape != rows.shape[1:] or not wanted.flags.c_contiguous:
        raise InvalidArgument(
            f"found a query of {wanted.dtype} {list(wanted.shape)} with strides {wanted.strides}; expected contiguous "
            f"float32 [{rows.shape[1]}], as the gallery's rows"
        )
    if k < 1:
        raise InvalidArgument(f"k is {k}; expected at least 1")
    most = min(k, len(rows))
    indices, scores = np.empty(most, np.int64), np.empty(most, np.float32)
    if most == 0:
        return indices, scores
    search = struct(
        "mme_search",
        metric=METRICS[metric],
        data_type=_GALLERIES[rows.dtype],
        gallery=ffi.cast("void *", rows.ctypes.data),
        rows=len(rows),
        dimension=rows.shape[1],
        row_stride=row_stride(rows, "a gallery"),
        scale=scale,
    )
    found = ffi.new("size_t *")
    check(
        lib.mme_similarity_top_k(
            search,
            ffi.from_buffer("float[]", wanted),
            most,
            ffi.from_buffer("int64_t[]", indices),
            ffi.from_buffer("float[]", scores),
            found,
        )
    )
    return indices[: found[0]], scores[: found[0]]
