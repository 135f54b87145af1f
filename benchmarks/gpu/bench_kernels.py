"""The CUDA kernels beside PyTorch on the same card, and beside a copy of the bytes that they must move.

Inputs that a model's next call would find in the cache stay there (weights, clips just recorded); frames come from four
sets in turn, more than the cache holds. Every figure is the median of 30 runs turn about, by CUDA's events. `us`,
`compile_us` (torch.compile) and `copy_us` are of calls captured in a CUDA graph, so that starting them costs the host
nothing; `eager_us` is of calls as PyTorch issues them. `fraction_of_copy`: of the speed of a copy that reads and writes
as many bytes in all. Each result is compared with PyTorch's before it is timed.

    python benchmarks/gpu/bench_kernels.py --json
"""

from __future__ import annotations

import argparse
import json

import cases
import torch
from rich.console import Console
from rich.table import Table

KERNELS = {
    "image_to_tensor": cases.image_to_tensor,
    "log_mel": cases.log_mel,
    "gated_fusion": cases.gated_fusion,
    "similarity_top_k": cases.similarity_top_k,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", action="append", choices=list(KERNELS), help="All if not given.")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("Nothing is timed: the installed PyTorch has no CUDA device.")
        return
    with torch.inference_mode():
        rows = [row for name in arguments.kernel or KERNELS for row in KERNELS[name]()]
    card = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
    if arguments.json:
        print(json.dumps(card | {"rows": rows}, indent=2))
        return
    table = Table(title=f"{card['card']}, PyTorch {card['torch']}")
    for title in ("", "µs", "MB", "of a copy", "vs. eager", "vs. compile"):
        table.add_column(title, justify="right" if title else "left")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['us']:.1f}",
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['fraction_of_copy']:.0%}",
            f"{row['vs_eager']:.1f}x",
            f"{row['vs_compile']:.1f}x",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
