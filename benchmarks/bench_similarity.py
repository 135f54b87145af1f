"""Nearest rows of a gallery: mme_similarity_top_k against numpy and, for dot products, faiss.

The ten best of 10,000 x 384 and 100,000 x 128 rows, one query at a time, one thread each, taking turns in one process.
numpy multiplies the gallery by the query (a gallery of float16 or int8 is made float32 first, as numpy has to; row
lengths, which a cosine needs, are known to it beforehand and to mmedge not) and partitions the scores. faiss is
IndexFlatIP over float32, where it is installed. A figure is the median of this thread's CPU time over the rounds;
`gigabytes_per_second` is of the gallery's bytes. MMEDGE_MAX_ISA=avx2 measures mmedge as on a processor without AVX-512.

    python benchmarks/bench_similarity.py --json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from mmedge.runtime.native import check, ffi, lib

SHAPES = [(10_000, 384), (100_000, 128)]
TYPES = {"float32": lib.MME_FLOAT32, "float16": lib.MME_FLOAT16, "int8": lib.MME_INT8}
METRICS = {"cosine": lib.MME_COSINE, "dot": lib.MME_DOT, "euclidean": lib.MME_EUCLIDEAN}
BEST = 10

Search = Callable[[], npt.NDArray[np.int64]]


def with_mmedge(gallery: npt.NDArray[Any], query: npt.NDArray[np.float32], metric: str) -> Search:
    rows, scores, found = np.empty(BEST, np.int64), np.empty(BEST, np.float32), ffi.new("size_t *")
    fields = {"struct_size": ffi.sizeof("mme_search"), "metric": METRICS[metric], "rows": len(gallery)}
    fields |= {"data_type": TYPES[gallery.dtype.name], "dimension": gallery.shape[1]}
    search = ffi.new("mme_search *", fields | {"gallery": ffi.cast("void *", gallery.ctypes.data)})
    pointers = [ffi.cast("float *", query.ctypes.data), BEST]
    pointers += [ffi.cast("int64_t *", rows.ctypes.data), ffi.cast("float *", scores.ctypes.data), found]

    def run() -> npt.NDArray[np.int64]:
        check(lib.mme_similarity_top_k(search, *pointers))
        return rows

    return run


def with_numpy(gallery: npt.NDArray[Any], query: npt.NDArray[np.float32], metric: str) -> Search:
    squares = np.einsum("ij,ij->i", gallery, gallery, dtype=np.float32)
    lengths = np.sqrt(squares)

    def run() -> npt.NDArray[np.int64]:
        scores = gallery.astype(np.float32, copy=False) @ query
        if metric == "cosine":
            scores /= lengths
        elif metric == "euclidean":
            scores = 2 * scores - squares
        best = np.argpartition(-scores, BEST)[:BEST]
        return best[np.argsort(-scores[best])]

    return run


def with_faiss(gallery: npt.NDArray[Any], query: npt.NDArray[np.float32]) -> Search | None:
    try:
        import faiss
    except ImportError:
        return None
    threadpool_limits(1)
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return lambda: np.asarray(index.search(query[None], BEST)[1][0])


def measure(rows: int, dimension: int, dtype: str, metric: str, rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, dimension))
    gallery = (values * 40).clip(-128, 127).astype(dtype) if dtype == "int8" else values.astype(dtype)
    query = rng.normal(size=dimension).astype(np.float32) * (40 if dtype == "int8" else 1)
    searches = {"mmedge": with_mmedge(gallery, query, metric), "numpy": with_numpy(gallery, query, metric)}
    if (dtype, metric) == ("float32", "dot") and (peer := with_faiss(gallery, query)):
        searches["faiss"] = peer
    times: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(rounds):
        for name, search in searches.items():
            start = time.thread_time_ns()
            found = search()
            times[name].append((time.thread_time_ns() - start) / 1000)
            np.testing.assert_array_equal(found, searches["mmedge"]())
    figures = {f"{name}_us": median(taken) for name, taken in times.items()}
    ours = figures["mmedge_us"]
    figures |= {f"ratio_{name}": median(taken) / ours for name, taken in times.items() if name != "mmedge"}
    return figures | {"gigabytes_per_second": gallery.nbytes / ours / 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    threadpool_limits(1)
    results = {
        f"{rows}x{dimension}_{dtype}_{metric}": measure(rows, dimension, dtype, metric, arguments.rounds)
        for rows, dimension in SHAPES
        for dtype in TYPES
        for metric in METRICS
    }
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    columns = ["mmedge_us", "numpy_us", "faiss_us", "ratio_numpy", "ratio_faiss", "gigabytes_per_second"]
    table = Table("gallery", *columns, title=f"The {BEST} nearest rows, one thread")
    for name, figures in results.items():
        table.add_row(name, *(f"{figures[key]:.4g}" if key in figures else "" for key in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
