"""Small configurations of every encoder, fusion and head, for the tests that combine them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make_bundles
import numpy as np
import torch
from PIL import Image

from mmedge.models import tensor_shape

VOCABULARY = 40
IMAGE = {**make_bundles.IMAGE, "channels": "rgb", "mean": [0.5] * 3, "std": [0.25] * 3}
AUDIO = {**make_bundles.LOG_MEL, "samples": 4000, "n_fft": 128, "win_length": 128, "n_mels": 16}
WAVEFORM = {"type": "waveform", "sample_rate": 8000, "samples": 2000, "normalize": "clip"}
TEXT = {"type": "text", "tokenizer": "tokenizer.json", "max_length": 12}

_LAYERS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
_RESNET = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"}
_WAV2VEC2 = _LAYERS | {
    "conv_dim": [8, 8],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 8],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}

# name of the encoder -> modality and its part of a configuration.
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn": ("image", {"width": 4, "preprocess": IMAGE}),
    "resnet": ("image", {"config": _RESNET, "preprocess": IMAGE}),
    "mobilenet_v2": ("image", {"config": {"depth_multiplier": 0.35}, "preprocess": IMAGE}),
    "vit": ("image", {"config": _LAYERS | {"patch_size": 8}, "preprocess": IMAGE}),
    "temporal_cnn": ("audio", {"width": 4, "preprocess": AUDIO}),
    "ast": ("audio", {"config": _LAYERS, "preprocess": AUDIO}),
    "wav2vec2": ("audio", {"config": _WAV2VEC2, "preprocess": WAVEFORM}),
    "transformer": ("text", {"width": 16, "vocab_size": VOCABULARY, "preprocess": TEXT}),
    "bert": ("text", {"config": _LAYERS | {"vocab_size": VOCABULARY}, "preprocess": TEXT}),
    "xlm-roberta": ("text", {"config": _LAYERS | {"vocab_size": VOCABULARY}, "preprocess": TEXT}),
}

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}


def draw_square(file: Path, colour: str, left: int, instance: int) -> None:
    """A coloured square on grey, 24 pixels a side, and beside it as NAME-mask.png where it is."""
    pixels, mask = np.full((24, 24, 3), 128, np.uint8), np.zeros((24, 24), np.uint8)
    pixels[8:16, left : left + 8], mask[8:16, left : left + 8] = COLOURS[colour], instance
    Image.fromarray(pixels).save(file)
    Image.fromarray(mask).save(file.with_name(f"{file.stem}-mask.png"))


def modality(encoder: str) -> dict[str, dict[str, Any]]:
    """The modality that `encoder` is of, as a configuration's `modalities` has it."""
    name, part = ENCODERS[encoder]
    return {name: {"encoder": encoder, **part}}


def random_batch(modalities: dict[str, Any], batch: int) -> dict[str, torch.Tensor]:
    """Noise, or random token ids, of the shape that each modality's encoder takes."""
    return {
        name: torch.randint(3, VOCABULARY, (batch, *tensor_shape(part["preprocess"])), dtype=torch.int32)
        if name == "text"
        else torch.randn(batch, *tensor_shape(part["preprocess"]))
        for name, part in modalities.items()
    }
