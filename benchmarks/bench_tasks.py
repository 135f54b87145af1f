"""What the recipes reach: answers about shapes, digits seen and heard, and speakers told apart.

Data and checkpoints are taken from where --data and --runs say, or made there: data sets named as their recipes, and
checkpoints `sort-of-clevr`, `sort-of-clevr-cnn-mlp`, `av-digits-VARIANT-SEED` and `speakers-SEED`. A checkpoint that is
there is taken as it is; what is made can be interrupted and goes on.

    python benchmarks/bench_tasks.py --task av-digits --json

Figures are fractions. `sort_of_clevr`: accuracy per kind of question and the mean IoU of the region; `av_digits`:
accuracy by variant, mean over seeds, at an image noise of .3 and 10 dB; `speakers`: equal error rate, mean over seeds.
`details` has each noise level, seed and speaker, 95 % intervals of the mean over people (Student's t, a person in all
the languages they speak being one sample), the baseline CNN+MLP, and Resemblyzer on the same pairs (GE2E, Wan et al.
2018, by the cosine; its weights learnt from thousands of people come with it, and its own preprocessing, which leaves
out silence).

`--split test` is there to be looked at once, with the recipes fixed. Of the speakers, its people had been run through
Resemblyzer once, at 13.0 % on other pairs, before the code fixed who is in which split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t as student

from mmedge.data import av_digits, sort_of_clevr, speakers
from mmedge.data.folder import read_split
from mmedge.evaluation import Predict, Predicted, SubsetScores, evaluate, read_pairs
from mmedge.models import FusedModel, load_checkpoint
from mmedge.models.fusion import FUSIONS
from mmedge.training.inference import predictor
from mmedge.training.recipe import Recipe, read_recipe
from mmedge.training.train import train

RECIPES = Path(__file__).parents[1] / "recipes"
LEVELS = {"clean": (0.0, 60.0), ".2, 10 dB": (0.2, 10.0), ".3, 10 dB": (0.3, 10.0), ".4, 10 dB": (0.4, 10.0)}
MAIN_LEVEL = ".3, 10 dB"


class Bench:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.data: Path = arguments.data
        self.runs: Path = arguments.runs
        self.split: str = arguments.split
        self.seeds: int = arguments.seeds
        self.quiet: bool = arguments.json

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def model(self, name: str, recipe: Callable[[], Recipe]) -> FusedModel:
        folder = self.runs / name
        if not (folder / "model.safetensors").exists():
            done = train(recipe(), folder, resume=any(folder.glob("checkpoints/checkpoint-*/trainer_state.json")))
            self.say(f"{name}: trained in {done.seconds / 60:.1f} minutes")
        return load_checkpoint(folder)

    def scores(self, model: FusedModel, data: Path, group_by: str) -> SubsetScores:
        """With all modalities of the model, on the split asked for."""
        names, labels = list(model.config.modalities or {}), model.config.labels
        samples = read_split(data, self.split, names, labels)
        options: dict[str, Any] = {"task": model.config.head, "group_by": group_by, "subsets": [tuple(names)]}
        return evaluate(predictor(model), samples, names, labels, **options).subsets[0]

    # ---- Sort-of-CLEVR -----------------------------------------------------------------------------------------------

    def sort_of_clevr(self) -> tuple[dict[str, Any], dict[str, Any]]:
        data = self.data / "sort-of-clevr"
        sort_of_clevr.build(data)
        recipe = read_recipe(RECIPES / "sort-of-clevr.yaml").model_copy(update={"data": data})
        found: dict[str, Any] = {}
        details: dict[str, Any] = {}
        for name, variant in (("sort-of-clevr", recipe), ("sort-of-clevr-cnn-mlp", cnn_mlp(recipe))):
            model = self.model(name, lambda variant=variant: variant)
            whole = self.scores(model, data, group_by="type")
            figures: dict[str, Any] = {
                kind: mean(
                    o.prediction.label == o.sample.label for o in whole.outcomes if o.sample.columns["kind"] == kind
                )
                for kind in ("relational", "non_relational")
            }
            if whole.region:
                figures["region_iou"] = whole.region.map_iou
            details[name] = {**figures, "types": whole.groups}
            found = found or figures
            self.say(
                f"{name}: " + "  ".join(f"{key} {value:.4f}" for key, value in {**figures, **whole.groups}.items())
            )
        return found, details

    # ---- AV-digits ---------------------------------------------------------------------------------------------------

    def av_digits(self) -> tuple[dict[str, Any], dict[str, Any]]:
        sets = {}
        for level, (noise, snr_db) in LEVELS.items():
            # The train split has no noise: one set has it whole.
            whole = level == MAIN_LEVEL
            sets[level] = self.data / ("av-digits" if whole else f"av-digits-{noise}-{snr_db}")
            av_digits.build(
                sets[level], image_noise=noise, audio_snr_db=snr_db, **({} if whole else {"clips_per_word": 1})
            )
        recipe = read_recipe(RECIPES / "av-digits.yaml").model_copy(update={"data": sets[MAIN_LEVEL]})
        details: dict[str, Any] = {}
        for name in ("image", "audio", *FUSIONS):
            runs = []
            for seed in range(self.seeds):
                model = self.model(f"av-digits-{name}-{seed}", lambda name=name, seed=seed: digits(recipe, name, seed))
                runs.append({level: self.scores(model, data, group_by="speaker") for level, data in sets.items()})
            details[name] = {level: self._level([run[level] for run in runs]) for level in LEVELS}
            row = "  ".join(f"{level}: {found['mean']:.4f}" for level, found in details[name].items())
            self.say(f"{name:16} {row}")
        return {name: levels[MAIN_LEVEL]["mean"] for name, levels in details.items()}, details

    def _level(self, runs: list[SubsetScores]) -> dict[str, Any]:
        by_speaker = {speaker: mean(run.groups[speaker] or 0.0 for run in runs) for speaker in runs[0].groups}
        return {
            "mean": mean(run.main.value or 0.0 for run in runs),
            "seeds": [run.main.value for run in runs],
            "speakers": by_speaker,
            "interval": interval(by_speaker),
        }

    # ---- Speakers ----------------------------------------------------------------------------------------------------

    def speakers(self) -> tuple[dict[str, Any], dict[str, Any]]:
        data = self.data / "speakers"
        speakers.build(data)
        recipe = read_recipe(RECIPES / "speakers.yaml").model_copy(update={"data": data})
        samples = read_split(data, self.split, ["audio"])
        pairs = read_pairs(data / self.split / "pairs.jsonl", samples)

        def eer(predict: Predict) -> float | None:
            return evaluate(predict, samples, ["audio"], [], task="embedding", pairs=pairs)["audio",].main.value

        found = []
        for seed in range(self.seeds):
            model = self.model(f"speakers-{seed}", lambda seed=seed: recipe.model_copy(update={"seed": seed}))
            found.append(eer(predictor(model)))
        installed = find_spec("resemblyzer") is not None
        theirs = eer(resemblyzer()) if installed else "not installed; `make bench` does"
        self.say(f"speakers: EER {mean(found):.4f}  of seeds {found}  Resemblyzer {theirs}")
        return {"eer": mean(found)}, {"seeds": found, "resemblyzer": theirs}


def resemblyzer() -> Predict:
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)

    def predict(inputs: Mapping[str, Any]) -> Predicted:
        samples, rate = inputs["audio"]
        return Predicted(embedding=encoder.embed_utterance(preprocess_wav(samples, source_sr=rate)))

    return predict


def interval(by_speaker: Mapping[str, float]) -> tuple[float, float]:
    """95 % of the mean over people, from figures by PERSON-LANGUAGE: x +- t s / sqrt(n), n - 1 degrees of freedom."""
    people: dict[str, list[float]] = {}
    for speaker, value in by_speaker.items():
        people.setdefault(speaker.rpartition("-")[0], []).append(value)
    values = [mean(voices) for voices in people.values()]
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def digits(recipe: Recipe, name: str, seed: int) -> Recipe:
    """One modality alone, or a fusion of both: the same widths, steps and augmentation."""
    values: dict[str, Any] = recipe.model_dump(mode="json") | {"seed": seed}
    modalities = values["model"]["modalities"]
    if name in modalities:
        values["model"]["modalities"] = {name: modalities[name]}
    else:
        values["model"]["fusion"] = name
    return Recipe.model_validate(values)


def cnn_mlp(recipe: Recipe) -> Recipe:
    """The paper's baseline with as many steps of as many questions: the image's and the question's vectors go through
    two layers, and no region is pointed at (Santoro et al. 2017, supplementary material D). It has a learning rate of
    its own.
    """
    values = recipe.model_dump(mode="json")
    values["model"] |= {"head": "classification", "fusion": "mlp", "fusion_dim": 256}
    values["model"]["modalities"]["image"]["strides"] = [2, 2, 2, 2]
    values["training"]["learning_rate"] = 3e-4
    return Recipe.model_validate(values)


TASKS = {"sort-of-clevr": Bench.sort_of_clevr, "av-digits": Bench.av_digits, "speakers": Bench.speakers}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=list(TASKS), action="append", help="by default all; may be repeated")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where data sets are, or are made")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints are, or are made")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--seeds", type=int, default=3, help="of AV-digits and speakers")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in training; small models gain nothing from more
    bench = Bench(arguments)
    report: dict[str, Any] = {"split": arguments.split, "details": {}}
    for task in arguments.task or TASKS:
        key = task.replace("-", "_")
        report[key], report["details"][key] = TASKS[task](bench)
    if arguments.json:
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
