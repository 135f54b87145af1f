"""Equal error rates of telling speakers apart, beside Resemblyzer's on the same pairs.

mmedge's are those of the checkpoint or bundle in --model or, without one, of recipes/speakers.yaml trained here once
per seed; it hears synthetic voices alone. Resemblyzer (GE2E, Wan et al. 2018; its 1.4 M weights come with it) learnt
from thousands of people, and has its own preprocessing, which leaves out silence. Both compare by the cosine.

`test` is read when it is asked for: look at it once, with the recipe fixed. Its people had been run through Resemblyzer
once, at 13.0 % on other pairs, before the code fixed who is in which split.

    python benchmarks/bench_speakers.py --data data/speakers --json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

from mmedge.cli.ui import print_table
from mmedge.data.folder import read_split
from mmedge.evaluation import Predict, Predicted, evaluate, read_pairs
from mmedge.models import load_checkpoint
from mmedge.runtime import Session
from mmedge.training.inference import predictor
from mmedge.training.recipe import Recipe, read_recipe
from mmedge.training.train import train

MISSING = "not installed; pip install --no-deps resemblyzer webrtcvad-wheels"


def load(model: Path) -> Predict:
    if model.suffix != ".mme":
        return predictor(load_checkpoint(model))
    session = Session(model)
    return lambda inputs: session.run(**inputs)


def trained(recipe: Recipe, seed: int) -> Predict:
    with tempfile.TemporaryDirectory() as folder:
        train(recipe.model_copy(update={"seed": seed}), folder)
        return load(Path(folder))


def resemblyzer() -> Predict:
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)

    def predict(inputs: Mapping[str, Any]) -> Predicted:
        samples, rate = inputs["audio"]
        return Predicted(embedding=encoder.embed_utterance(preprocess_wav(samples, source_sr=rate)))

    return predict


def equal_error_rate(predict: Predict, data: Path, split: str) -> float:
    samples = read_split(data, split, ["audio"])
    pairs = read_pairs(data / split / "pairs.jsonl", samples)
    scores = evaluate(predict, samples, ["audio"], [], task="embedding", pairs=pairs)["audio",].main.value
    assert scores is not None
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parents[1] / "recipes" / "speakers.yaml"
    parser.add_argument("--model", type=Path, help="a checkpoint or a bundle, instead of the recipe's")
    parser.add_argument("--recipe", type=Path, default=default)
    parser.add_argument("--data", type=Path, help="the data set; by default the recipe's")
    parser.add_argument("--splits", nargs="+", default=["validation"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe)
    if arguments.data:
        recipe = recipe.model_copy(update={"data": arguments.data})

    if arguments.model:
        models = {str(arguments.model): load(arguments.model)}
    else:
        models = {f"seed {seed}": trained(recipe, seed) for seed in range(arguments.seeds)}
    peer = resemblyzer() if find_spec("resemblyzer") else None
    report: dict[str, dict[str, Any]] = {}
    for split in arguments.splits:
        found = {name: equal_error_rate(predict, recipe.data, split) for name, predict in models.items()}
        theirs = equal_error_rate(peer, recipe.data, split) if peer else MISSING
        report[split] = {"mmedge": mean(found.values()), "per_model": found, "resemblyzer": theirs}
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    rows = []
    for split, row in report.items():
        figures = [*row["per_model"].values(), row["mmedge"], row["resemblyzer"]]
        rows.append([split, *(eer if isinstance(eer, str) else f"{eer:.4f}" for eer in figures)])
    print_table("Equal error rate", ["split", *models, "mean", "resemblyzer"], rows)


if __name__ == "__main__":
    main()
