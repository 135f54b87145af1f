"""The end of the demo: serve the bundle, send it one real request, and print what was reached."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from mmedge.cli.ui import megabytes, print_next, print_table, progress_bar
from mmedge.data.folder import Sample, read_split
from mmedge.runtime import Session, read_manifest


def ask_server(bundle: Path, sample: Sample) -> dict[str, Any]:
    """Start `mmedge serve`, post the sample's two files, stop the server."""
    command = [sys.executable, "-m", "mmedge", "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = next(found.group() for line in server.stdout if (found := re.search(r"http://[\w.:]+", line)))
            address = f"{url}/v2/models/{bundle.stem}/predict"
            print(f"POST {address}")
            for modality, path in sample.files.items():
                print(f"  {modality}=@{path}")
            files = {modality: (path.name, path.read_bytes()) for modality, path in sample.files.items()}
            answer: dict[str, Any] = httpx.post(address, files=files, timeout=30).raise_for_status().json()
        finally:
            server.send_signal(signal.SIGTERM)
    return answer


def measure(bundle: Path, samples: list[Sample]) -> dict[str, np.ndarray[Any, Any]]:
    """Microseconds per stage of a run on every sample, after ten runs to warm up."""
    session = Session(bundle)
    with progress_bar() as progress:
        timings = []
        for done, sample in enumerate(samples[:10] + samples, start=1):
            timings.append(session.run(**sample.load()).timings)
            progress("latency", done, len(samples) + 10)
    return {stage: np.array([timing[stage] for timing in timings[10:]]) for stage in timings[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True, help="What mmedge evaluate --json printed.")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()

    manifest = read_manifest(arguments.bundle)
    samples = read_split(arguments.data, "validation", [entry.name for entry in manifest.inputs])
    first = samples[len(samples) // 2]
    print("One request to mmedge serve:\n")
    answer = ask_server(arguments.bundle, first)
    print(f"\n  answer: {answer['label']} ({answer['score']:.3f}); the truth is {first.label}\n")

    first_output = manifest.outputs[0].name
    parity = {
        "+".join(row["subset"]): row for row in manifest.evidence["parity"]["outputs"] if row["output"] == first_output
    }
    evaluation = json.loads(arguments.evaluation.read_text(encoding="utf-8"))
    print_table(
        "Development speakers, through the C runtime",
        ["modalities", "accuracy", "macro F1", "samples", "parity max abs"],
        [
            [
                name.replace("+", " + "),
                f"{row['accuracy']:.4f}",
                f"{row['macro_f1']:.4f}",
                str(row["samples"]),
                f"{parity[name]['max_abs']:.1e}",
            ]
            for name, row in evaluation.items()
        ],
    )
    timings = measure(arguments.bundle, samples[:500])
    print_table(
        "Latency of one run, one thread",
        ["stage", "p50 µs", "p99 µs"],
        [
            [stage, f"{np.percentile(spent, 50):.0f}", f"{np.percentile(spent, 99):.0f}"]
            for stage, spent in timings.items()
        ],
    )
    sizes = [(file.name, file.stat().st_size) for file in sorted(arguments.bundle.iterdir())]
    print_table("Size", ["file", "size"], [[name, megabytes(size)] for name, size in sizes])
    files = [word for modality, path in first.files.items() for word in (f"--{modality}", path)]
    print_next(
        (".", ".venv/bin/activate"),
        ("mmedge", "run", arguments.bundle, *files),
        ("mmedge", "inspect", arguments.bundle),
        ("mmedge", "serve", arguments.bundle),
    )


if __name__ == "__main__":
    main()
