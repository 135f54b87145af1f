"""What each encoder costs: parameters, millions of multiply-adds, and milliseconds in ONNX Runtime with one thread.

Weights are random: the cost does not depend on them. Each encoder is exported as a classifier of ten classes through
the same exporter as `mmedge export`; "max abs" is how far the graph is from torch.

    python benchmarks/bench_encoders.py --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmedge.cli.ui import print_table
from mmedge.export.graph import export_graph, to_bytes
from mmedge.export.targets import find_target
from mmedge.models import FusedModel, MmedgeConfig, tensor_shape

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
TEXT = {"type": "text", "tokenizer": "tokenizer.json", "max_length": 32}
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
    "xlm-roberta (base)": {"encoder": "xlm-roberta", "config": {"vocab_size": 250002}, "preprocess": TEXT},
}


def measure(part: dict[str, Any]) -> dict[str, Any]:
    kind = "image" if part["preprocess"]["type"] == "image" else "other"
    labels = {index: str(index) for index in range(10)}
    torch.manual_seed(0)
    model = FusedModel(MmedgeConfig(modalities={kind: part}, fusion="sum", fusion_dim=64, id2label=labels)).eval()
    shape = tensor_shape(part["preprocess"])
    text = part["preprocess"]["type"] == "text"
    x = torch.randint(3, 4000, (1, *shape), dtype=torch.int32) if text else torch.randn(1, *shape)
    encoder = model.encoders[kind]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(x)
    example = {kind: x, "presence": torch.ones(1, 1, dtype=torch.bool)}
    graph = to_bytes(export_graph(model, example, target=find_target("onnxruntime"), output_names=["logits"]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in example.items()}
    (found,) = session.run(None, feeds)
    with torch.no_grad():
        expected = model(**example).logits.numpy()
    times = []
    until = time.perf_counter() + 3
    while len(times) < 5 or (time.perf_counter() < until and len(times) < 500):
        begin = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - begin)
    return {
        "input": list(shape),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "mmacs": counter.get_total_flops() / 2e6,
        "ms": 1e3 * statistics.median(times),
        "max_abs": float(np.abs(found - expected).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in arguments.cases or CASES:
        found[name] = measure(CASES[name])
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print_table(
        "Encoders, FP32, one thread",
        ["encoder", "input", "parameters", "MMAC", "ms", "max abs"],
        [
            [
                name,
                "x".join(map(str, row["input"])),
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['mmacs']:.1f}",
                f"{row['ms']:.2f}",
                f"{row['max_abs']:.1e}",
            ]
            for name, row in found.items()
        ],
    )


if __name__ == "__main__":
    main()
