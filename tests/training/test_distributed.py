"""Several processes, started as torchrun starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from mmedge.calibration.table import read_calibration
from mmedge.training.qat import QuantizationAware, qat_recipe
from mmedge.training.recipe import Recipe, read_recipe
from mmedge.training.train import train

Write = Callable[[Any], Path]


def test_two_processes_take_the_steps_of_one(
    values_without_chance: dict[str, Any], write_recipe: Write, tmp_path: Path
) -> None:
    values = values_without_chance
    values["training"] |= {"evaluate_every": 3, "accumulate_steps": 2}
    alone = train(Recipe.model_validate(values), tmp_path / "one")
    values["output"] = str(tmp_path / "two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "mmedge", "train", str(write_recipe(values)), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)  # by the first process alone
    assert printed["output"] == values["output"]
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    np.testing.assert_allclose(metrics["losses"], alone.losses, rtol=1e-4)
    assert [entry["step"] for entry in metrics["evaluations"]] == [3, 6]
    assert printed["validation"] == metrics["validation"]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, values_of_one in one.items():
        np.testing.assert_allclose(two[name].numpy(), values_of_one.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


def test_two_processes_fine_tune_for_int8_as_one(
    values_without_chance: dict[str, Any], write_recipe: Write, tmp_path: Path
) -> None:
    values, start = values_without_chance, tmp_path / "start"
    train(Recipe.model_validate(values), start)
    recipe = write_recipe(values)
    alone = train(qat_recipe(start, read_recipe(recipe)), tmp_path / "one", qat=QuantizationAware(start))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "mmedge", "train", str(recipe), "--qat", str(start), "-o", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    # Sums of another order may round to another step.
    np.testing.assert_allclose(metrics["losses"], alone.losses, rtol=1e-2)
    one, two = (read_calibration(tmp_path / name / "calibration.json") for name in ("one", "two"))
    assert one.tensors == two.tensors
