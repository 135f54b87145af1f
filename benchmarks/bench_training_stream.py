"""What a training draw costs: decoding from the cache, augmentation, preprocessing, tokens and region, without a model.

Small made-up data: 75 x 75 pictures with an instance mask and a question, 20 rows each, and clips of one second. The
figure is this process's CPU time per draw over `--draws` draws, after as many to fill the cache of files; one core
makes 1e6 / it samples a second.

    python benchmarks/bench_training_stream.py --json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from mmedge.cli.ui import print_table
from mmedge.data.folder import read_split
from mmedge.training.build import write_tokenizer
from mmedge.training.dataset import TrainingStream, collate
from mmedge.training.recipe import Recipe
from mmedge.training.tokenizer import TOKENIZER_FILE

IMAGE = {"type": "image", "width": 75, "height": 75, "channels": "rgb", "fit": "stretch", "interpolation": "bilinear"}
IMAGE |= {"antialias": True, "mean": [0.5] * 3, "std": [0.25] * 3}
AUDIO = {"type": "log_mel", "sample_rate": 8000, "samples": 8000, "n_fft": 256, "win_length": 256, "hop_length": 80}
AUDIO |= {"n_mels": 40, "f_min": 100.0, "f_max": 3800.0, "mel_scale": "htk", "mel_norm": "none", "power": 2.0}
AUDIO |= {"center": True, "pad_mode": "reflect", "drop_last": False, "log": "db", "floor": 1e-10}
AUDIO |= {"dynamic_range_db": 40.0, "normalize": "clip"}
COLOUR = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}
MOVED = {"crop": [0.7, 1.0], "shift": 2, "flip_horizontal": 0.5}

WORDS = (
    "is",
    "the",
    "of",
    "what",
    "red",
    "green",
    "shape",
    "colour",
    "left",
    "right",
    "nearest",
    "object",
    "how",
    "many",
)

CASES: dict[str, dict[str, Any]] = {
    "image": {"image": {}},
    "image_augmented": {"image": {**MOVED, **COLOUR, "noise": 0.05}},
    "image_text_region": {"image": {}, "text": {}},
    "image_text_region_augmented": {"image": {**MOVED, **COLOUR}, "text": {"word_dropout": 0.1}},
    "audio": {"audio": {}},
    "audio_augmented": {"audio": {"shift": 0.1, "snr_db": [5, 25], "gain_db": [-6, 6], "mask_bands": 5}},
    "audio_speed": {"audio": {"speed": [0.9, 1.1]}},
}


def make_data(folder: Path) -> None:
    random = np.random.default_rng(0)
    (folder / "train").mkdir()
    rows = []
    for number in range(50):
        stem = folder / "train" / str(number)
        picture = np.full((75, 75, 3), 255, np.uint8)
        mask = np.zeros((75, 75), np.uint8)
        for instance in range(1, 7):
            top, left = random.integers(0, 65, 2)
            picture[top : top + 10, left : left + 10] = random.integers(0, 255, 3)
            mask[top : top + 10, left : left + 10] = instance
        Image.fromarray(picture).save(f"{stem}.png")
        Image.fromarray(mask).save(f"{stem}-mask.png")
        soundfile.write(f"{stem}.wav", random.normal(0, 0.1, 8000), 8000)
        for question in range(20):
            row = {"image_file_name": f"{number}.png", "mask_file_name": f"{number}-mask.png", "mask_values": [6]}
            row |= {"audio_file_name": f"{number}.wav", "text": " ".join(random.choice(WORDS, 9)) + "?"}
            rows.append(json.dumps(row | {"label": ("yes", "no")[question % 2]}))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def measure(folder: Path, augment: dict[str, Any], draws: int) -> float:
    """Microseconds of CPU time per draw, its share of the collation included."""
    parts = {
        "image": {"encoder": "cnn", "preprocess": IMAGE},
        "audio": {"encoder": "temporal_cnn", "preprocess": AUDIO},
        "text": {"encoder": "transformer", "preprocess": {"type": "text", "max_length": 24}},
    }
    modalities = {name: {**parts[name], "augment": values} for name, values in augment.items()}
    model = {"head": "vqa" if "text" in augment else "classification", "modalities": modalities}
    training = {"steps": 2 * draws, "batch_size": 64}
    recipe = Recipe.model_validate({"data": folder, "output": folder, "model": model, "training": training})
    samples = read_split(folder, "train", recipe.model.modalities.names)
    write_tokenizer(recipe, samples, folder)
    preprocess = {name: dict(part["preprocess"]) for name, part in modalities.items()}
    if "text" in preprocess:
        preprocess["text"]["tokenizer"] = TOKENIZER_FILE
    region = (10, 10) if "text" in augment else None
    stream = TrainingStream(samples, ("yes", "no"), recipe, preprocess, directory=folder, region_shape=region)
    zeros = stream.zeros
    for draw in range(draws):
        stream[draw]
    started = time.process_time()
    for first in range(draws, 2 * draws, 64):
        collate([stream[draw] for draw in range(first, min(first + 64, 2 * draws))], zeros)
    return (time.process_time() - started) / draws * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3000)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_data(Path(name))
        found = {f"{case}_us": measure(Path(name), augment, arguments.draws) for case, augment in CASES.items()}
    if arguments.json:
        print(json.dumps({key: round(value, 1) for key, value in found.items()}, indent=2))
    else:
        rows = [[key.removesuffix("_us"), f"{value:.0f}", f"{1e6 / value:.0f}"] for key, value in found.items()]
        print_table("Training draws", ["draw", "µs", "per second and core"], rows)


if __name__ == "__main__":
    main()
