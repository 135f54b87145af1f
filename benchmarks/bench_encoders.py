"""What each encoder costs: parameters, millions of multiply-adds, and milliseconds in ONNX Runtime with one thread, in
FP32 and in INT8.

Weights are random: the cost does not depend on them. Each encoder becomes a classifier of ten classes that goes through
the parity gate of `mmedge export`; "max abs" is how far the bundle was from torch there. INT8 is the choice of layers
that `mmedge calibrate` makes where accuracy allows any; "faster" is the ratio of medians of runs turn about, 1 where
that choice is FP32.

    python benchmarks/bench_encoders.py --markdown    # the table of docs/models.md
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmedge.calibration.collect import Collector
from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.layers import find_tables, quantizable, tensors_to_range
from mmedge.calibration.search import measure_speedup, microseconds, search_layers
from mmedge.calibration.table import Origin
from mmedge.cli.ui import print_table
from mmedge.export.bundle import export_bundle
from mmedge.export.targets import find_target
from mmedge.exporting import bundle_inputs, bundle_task
from mmedge.models import FusedModel, MmedgeConfig, modality_of, tensor_shape
from mmedge.runtime import Audio
from mmedge.training.tokenizer import TOKENIZER_FILE, train_tokenizer

SMALL_IMAGE = {
    "type": "image",
    "width": 32,
    "height": 32,
    "channels": "grey",
    "fit": "stretch",
    "interpolation": "bilinear",
    "antialias": True,
    "mean": [0.5],
    "std": [0.25],
}
IMAGE = SMALL_IMAGE | {"width": 224, "height": 224, "channels": "rgb", "mean": [0.5] * 3, "std": [0.25] * 3}
LOG_MEL = {
    "type": "log_mel",
    "sample_rate": 16000,
    "samples": 16000,
    "n_fft": 400,
    "win_length": 400,
    "hop_length": 160,
    "n_mels": 40,
    "f_min": 20.0,
    "f_max": 7600.0,
    "mel_scale": "htk",
    "mel_norm": "none",
    "power": 2.0,
    "center": True,
    "pad_mode": "reflect",
    "drop_last": False,
    "log": "db",
    "floor": 1e-10,
    "dynamic_range_db": 80.0,
    "normalize": "clip",
}
WAVEFORM = {"type": "waveform", "sample_rate": 16000, "samples": 16000, "normalize": "clip"}
TEXT = {"type": "text", "tokenizer": TOKENIZER_FILE, "max_length": 32}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}

# What a user would start with: our own small ones, and the published shapes of the others.
CASES: dict[str, dict[str, Any]] = {
    "cnn": {"encoder": "cnn", "width": 16, "preprocess": SMALL_IMAGE},
    "resnet (18)": {
        "encoder": "resnet",
        "config": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
        "preprocess": IMAGE,
    },
    "resnet (50)": {"encoder": "resnet", "config": {}, "preprocess": IMAGE},
    "mobilenet_v2": {"encoder": "mobilenet_v2", "config": {}, "preprocess": IMAGE},
    "vit (tiny)": {
        "encoder": "vit",
        "config": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
        "preprocess": IMAGE,
    },
    "vit (base)": {"encoder": "vit", "config": {}, "preprocess": IMAGE},
    "temporal_cnn": {"encoder": "temporal_cnn", "width": 48, "preprocess": LOG_MEL},
    "ast (base)": {"encoder": "ast", "config": {}, "preprocess": LOG_MEL | {"n_mels": 128, "n_fft": 512}},
    "wav2vec2 (base)": {"encoder": "wav2vec2", "config": {}, "preprocess": WAVEFORM},
    "transformer": {"encoder": "transformer", "width": 64, "vocab_size": 4096, "preprocess": TEXT},
    "bert (MiniLM-L6)": {"encoder": "bert", "config": MINILM, "preprocess": TEXT},
    "bert (base)": {"encoder": "bert", "config": {}, "preprocess": TEXT},
    "xlm-roberta (base)": {
        "encoder": "xlm-roberta",
        "config": {"vocab_size": 250002, "pad_token_id": 0},
        "preprocess": TEXT,
    },
}

WORDS = "one model that sees and hears and reads"


def measure(name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    part = CASES[name]
    kind, shape = modality_of(part["preprocess"]), tensor_shape(part["preprocess"])
    labels = {index: str(index) for index in range(10)}
    model = FusedModel(MmedgeConfig(modalities={kind: part}, fusion="sum", fusion_dim=64, id2label=labels)).eval()
    x = torch.randint(3, 4000, (1, *shape), dtype=torch.int32) if kind == "text" else torch.randn(1, *shape)
    encoder = model.encoders[kind]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(x)
    inputs = [(str(number), {kind: raw(kind, number)}) for number in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer([WORDS], 100, Path(folder) / TOKENIZER_FILE)
        made = export_bundle(
            model,
            Path(folder) / "encoder.mme",
            inputs=bundle_inputs(model.config),
            task=bundle_task(model),
            target=find_target("onnxruntime"),
            samples=inputs,
            score=lambda bundle: {},
            provenance={},
            directory=Path(folder),
        )
        graph = onnx.load(made.path / "model.onnx")
        collector = Collector(graph, made.manifest, made.path, tensors_to_range(graph))
        origin = Origin.of(graph, made.manifest, "noise", "mse")
        ranges = collector.collect([(name, partial(dict, values)) for name, values in inputs], origin).ranges
    feeds = {kind: x.numpy(), "presence": np.ones((1, 1), np.bool_)}
    layers = quantizable(graph)

    def emit(chosen: Sequence[str]) -> onnx.ModelProto:
        return emit_cpu(graph, ranges, chosen) if chosen else graph

    search = search_layers(
        layers,
        dict.fromkeys(layers, 0.0),
        budget=0.0,
        drop=lambda chosen: 0.0,
        speedup=lambda chosen, than: measure_speedup(emit(than), emit(chosen), feeds),
        for_size=find_tables(graph),
    )
    chosen = search.chosen.layers
    fp32_us, int8_us = microseconds(graph, emit(chosen), feeds)
    return {
        "input": list(shape),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "mmacs": counter.get_total_flops() / 2e6,
        "ms": fp32_us / 1e3,
        "int8_ms": int8_us / 1e3,
        "speedup": fp32_us / int8_us if chosen else 1.0,
        "layers_int8": len(chosen),
        "layers": len(layers),
        "max_abs": made.parity.max_abs,
    }


def raw(kind: str, seed: int) -> Any:
    """A frame or a second of noise, or some words."""
    random = np.random.default_rng(seed)
    if kind == "text":
        return " ".join(random.choice(WORDS.split(), 24))
    if kind == "image":
        return random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return Audio(random.normal(0, 0.1, 16000).astype(np.float32), 16000)


def cpu_name() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    # A process for each: in the memory that large models leave behind, others take up to twice as long.
    found = {}
    for name in arguments.cases or CASES:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            found[name] = process.submit(measure, name).result()
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    title = f"{cpu_name()}, one thread, ONNX Runtime {onnxruntime.__version__}"
    columns = ["encoder", "input", "parameters", "MMAC", "ms", "INT8 ms", "faster", "INT8 layers", "max abs"]
    rows = [
        [
            name,
            "x".join(map(str, row["input"])),
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['mmacs']:.1f}",
            f"{row['ms']:.2f}",
            f"{row['int8_ms']:.2f}",
            f"{row['speedup']:.2f}x",
            f"{row['layers_int8']} of {row['layers']}",
            f"{row['max_abs']:.1e}",
        ]
        for name, row in found.items()
    ]
    if arguments.markdown:
        print(f"{title}:\n")
        for cells in (columns, ["---", *["---:"] * (len(columns) - 1)], *rows):
            print(f"| {' | '.join(cells)} |")
    else:
        print_table(title, columns, rows)


if __name__ == "__main__":
    main()
