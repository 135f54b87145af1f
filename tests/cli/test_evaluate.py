"""mmedge evaluate, on a real bundle and folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_bundles
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from PIL import Image

from mmedge.cli import cli


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    folder = root / "validation"
    folder.mkdir()
    random = np.random.default_rng(5)
    rows = []
    for number in range(12):
        Image.fromarray(random.integers(0, 256, (20, 30), dtype=np.uint8)).save(folder / f"{number}.png")
        soundfile.write(folder / f"{number}.wav", random.normal(0, 0.1, 8000), 8000)
        row = {"image_file_name": f"{number}.png", "label": make_bundles.LABELS[number % 3], "half": f"h{number % 2}"}
        rows.append(json.dumps(row | ({"audio_file_name": f"{number}.wav"} if number else {})))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return root


def test_a_bundle_is_scored_per_subset_and_by_group(digits_bundle: Path, digits: Path) -> None:
    done = invoke(digits_bundle, digits, "--group-by", "half", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: row["samples"] for name, row in found.items()} == {"image": 12, "audio": 11, "image+audio": 11}
    for row in found.values():
        assert np.trace(row["confusion"]) == pytest.approx(row["accuracy"] * row["samples"])
        assert row["main"]["value"] == row["accuracy"]
        assert set(row["groups"]) == {"h0", "h1"}
        assert row["classes"][5]["roc_auc"] is None
        assert row["classes"][5]["roc_auc_undefined"] == "no sample is of this class"
        assert 0 <= row["macro_roc_auc"] <= 1
    table = invoke(digits_bundle, digits, "--group-by", "half").stdout
    for text in ("By group: accuracy", "ROC AUC", "undefined", f"mmedge serve {digits_bundle}"):
        assert text in table


def test_a_report_is_written_beside_the_table(digits_bundle: Path, digits: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = invoke(digits_bundle, digits, "--report", page)
    assert done.exit_code == 0, done.stderr
    assert str(page) in done.stdout
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert str(digits) in html
    assert "Surest errors" in html


def test_a_report_that_cannot_be_written_is_refused_before_the_work(digits_bundle: Path, tmp_path: Path) -> None:
    done = invoke(digits_bundle, tmp_path / "no data", "--report", tmp_path / "none" / "report.html")
    assert done.exit_code == 2
    assert "no such folder" in done.stderr
    for page, message in (("/proc/report.html", "/proc cannot be written to"), (tmp_path, "name the file to write")):
        done = invoke(digits_bundle, tmp_path / "no data", "--report", page)
        assert done.exit_code == 2
        assert message in done.stderr


def test_bad_pairs_end_with_2(one_input_embedding: Path, digits: Path, tmp_path: Path) -> None:
    done = invoke(one_input_embedding, digits, "--pairs", tmp_path / "none.jsonl")
    assert done.exit_code == 2
    assert "cannot read" in done.stderr
    assert "none.jsonl" in done.stderr


def test_pairs_are_refused_for_a_model_that_does_not_embed(digits_bundle: Path, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"first": 1, "second": 2}\n')
    done = invoke(digits_bundle, digits, "--pairs", tmp_path / "pairs.jsonl")
    assert done.exit_code == 2
    assert "is for classification, and only embeddings are verified by pairs" in done.stderr


def test_without_scikit_learn_or_jinja_it_says_what_to_install_and_torch_is_not_needed(
    digits_bundle: Path, digits: Path, tmp_path: Path
) -> None:
    code = """
import sys
missing = set(sys.argv.pop(1).split(","))
class Missing:
    def find_spec(name, path=None, target=None):
        if name in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing)
from mmedge.cli import main
main()
"""
    command = [sys.executable, "-c", code]
    arguments = ["evaluate", str(digits_bundle), str(digits), "--report", str(tmp_path / "report.html")]
    for missing, exit_code in (("torch,transformers", 0), ("torch,sklearn", 2), ("torch,jinja2", 2)):
        done = subprocess.run([*command, missing, *arguments], capture_output=True, text=True)
        assert done.returncode == exit_code, done.stderr
        assert ('pip install "mmedge[evaluate]"' in done.stderr) == (exit_code == 2)
        assert "Traceback" not in done.stderr
