"""What fusion gains on AV-digits, over single-modality models of equal budget and over plain summing.

Trains image-only, audio-only, gated ("fused") and summing ("ungated") models from the same recipe, with the
same steps, widths and augmentation, once per seed, and scores each on the development speakers of the
validation split. The test split is not read.

    python benchmarks/bench_fusion_gain.py --data data/av-digits --json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from mmedge.data.folder import read_split
from mmedge.evaluation import evaluate
from mmedge.models import load_checkpoint
from mmedge.training.inference import predictor
from mmedge.training.recipe import Recipe, read_recipe
from mmedge.training.train import train

VARIANTS = ("image", "audio", "fused", "ungated")


class Run(NamedTuple):
    accuracy: float  # with every modality the model has
    speakers: dict[str, float]
    seconds: float  # of training


def variant(recipe: Recipe, name: str, seed: int) -> Recipe:
    values: dict[str, Any] = recipe.model_dump(mode="json") | {"seed": seed}
    modalities = values["model"]["modalities"]
    if name in modalities:
        values["model"]["modalities"] = {name: modalities[name]}
    elif name == "ungated":
        values["model"]["fusion"] = "sum"
    return Recipe.model_validate(values)


def run(recipe: Recipe, name: str, seed: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        result = train(variant(recipe, name, seed), folder)
        model = load_checkpoint(folder)
    modalities = list(model.config.modalities or {})
    samples = read_split(recipe.data, "validation", modalities, model.config.labels)
    scores = evaluate(predictor(model), samples, modalities, model.config.labels, group_by="speaker")
    whole = scores[tuple(modalities)]
    return Run(whole.report.accuracy, whole.groups, result.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parents[1] / "recipes" / "av-digits.yaml"
    parser.add_argument("--recipe", type=Path, default=default)
    parser.add_argument("--data", type=Path, help="the data set; by default the recipe's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe)
    if arguments.data:
        recipe = recipe.model_copy(update={"data": arguments.data})

    runs: dict[str, list[Run]] = {name: [] for name in VARIANTS}
    for seed in range(arguments.seeds):
        for name in VARIANTS:
            done = run(recipe, name, seed)
            runs[name].append(done)
            if not arguments.json:
                print(f"seed {seed}  {name:8} {done.accuracy:.4f}  {done.seconds:.0f} s", flush=True)

    accuracy = {name: mean(done.accuracy for done in runs[name]) for name in VARIANTS}
    gain = 100 * (accuracy["fused"] - max(accuracy["image"], accuracy["audio"]))
    speakers = {
        name: {speaker: mean(done.speakers[speaker] for done in runs[name]) for speaker in runs[name][0].speakers}
        for name in VARIANTS
    }
    if arguments.json:
        report = {
            **accuracy,
            "gain_points": gain,
            "per_speaker": speakers,
            "per_seed": {name: [done.accuracy for done in runs[name]] for name in VARIANTS},
            "seconds": {name: mean(done.seconds for done in runs[name]) for name in VARIANTS},
            "seeds": arguments.seeds,
            "steps": recipe.training.steps,
        }
        print(json.dumps(report, indent=2))
        return
    for name in VARIANTS:
        spread = "  ".join(f"{speaker} {score:.3f}" for speaker, score in speakers[name].items())
        print(f"{name:8} {accuracy[name]:.4f}   {spread}")
    print(f"gain over the best single modality: {gain:.1f} points")


if __name__ == "__main__":
    main()
