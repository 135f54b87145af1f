"""docs/models.md names everything there is, and what it shows works."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import families
import make_bundles
import pytest
import yaml
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

from mmedge.models import FusedModel, MmedgeConfig
from mmedge.models.fusion import FUSIONS
from mmedge.models.modeling import HEADS
from mmedge.models.pretrained import ARCHITECTURES, Architecture, _grid
from mmedge.models.registry import ENCODERS, _pretrained, encoder_options
from mmedge.training.build import build_model, write_tokenizer
from mmedge.training.recipe import Recipe
from mmedge.training.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/models.md").read_text()


def first_cells(heading: str) -> list[str]:
    """The first cell of each row of the tables of a section."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| ([^|]+?) \|", section, flags=re.MULTILINE)


def test_every_encoder_fusion_and_head_is_described() -> None:
    for heading, names in (("Encoders", ENCODERS), ("Fusions", FUSIONS), ("Heads", HEADS)):
        described = {cell.split()[0].strip("`") for cell in first_cells(heading) if cell.startswith("`")}
        assert described == set(names)


def test_every_option_of_an_encoder_is_named_beside_it() -> None:
    for name in ENCODERS:
        (row,) = re.findall(rf"^\| `{name}` \| [^|]+ \| ([^|]+) \|", PAGE, flags=re.MULTILINE)
        # Those of a vocabulary follow from the tokenizer.
        assert re.findall(r"`(\w+)`", row) == [
            option for option in encoder_options(name) if option not in ("vocab_size", "pad_token_id")
        ]


def test_the_table_has_the_rows_of_the_benchmark() -> None:
    spec = importlib.util.spec_from_file_location("bench_encoders", ROOT / "benchmarks/bench_encoders.py")
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    cells = first_cells("Encoders")
    assert cells[-len(bench.CASES) :] == list(bench.CASES)
    assert {case["encoder"] for case in bench.CASES.values()} == set(ENCODERS)


def test_published_weights_are_taken_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "weights/minilm"
    resnet = ResNetModel(ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8, layer_type="basic"))
    resnet.save_pretrained(tmp_path / "weights/resnet-18")
    BertModel(BertConfig(**families.ENCODERS["bert"][1]["config"])).save_pretrained(text)
    train_tokenizer(["a word", "and more"], 40, text / "tokenizer.json")

    (example,) = re.findall(r"^```yaml\n(image:.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    values = {"modalities": yaml.safe_load(example)}
    recipe = Recipe.model_validate({"data": ".", "output": ".", "model": values, "training": {"steps": 1}})
    write_tokenizer(recipe, [], tmp_path)
    model = build_model(recipe, ["no", "yes"], tmp_path)
    trained = {
        name.split(".")[1] for name, weight in model.encoders.named_parameters("encoders") if weight.requires_grad
    }
    assert trained == {"text"}


def test_a_family_more_goes_through_the_parity_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entries,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    tables = {"ARCHITECTURES": ARCHITECTURES, "ENCODERS": ENCODERS}
    for table in tables.values():
        monkeypatch.setitem(table, "convnext", None)  # gone after the test
    exec(entries, {**tables, "Architecture": Architecture, "_grid": _grid, "_pretrained": _pretrained})
    small = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    part = {"encoder": "convnext", "config": small, "preprocess": families.IMAGE}
    model = FusedModel(MmedgeConfig(modalities={"image": part}, fusion_dim=8, id2label={0: "no", 1: "yes"}))
    samples = [(name, {"image": inputs["image"]}) for name, inputs in make_bundles.raw_samples(2)]
    make_bundles.write(model.eval(), tmp_path / "convnext.mme", samples=samples)
