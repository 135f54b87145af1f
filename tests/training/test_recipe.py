from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_bundles
import pytest

from mmedge.data.folder import Sample
from mmedge.models.registry import build_encoder
from mmedge.runtime.errors import InvalidArgument, RecipeError
from mmedge.training.build import build_model, write_tokenizer
from mmedge.training.recipe import Recipe, changed, read_recipe

Write = Callable[[Any], Path]
ROOT = Path(__file__).parents[2]


def test_the_recipes_that_ship_are_valid() -> None:
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert read_recipe(path).model.modalities.names


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_key(
    write_recipe: Write, recipe_values: dict[str, Any]
) -> None:
    recipe_values["training"]["lerning_rate"] = 0.1
    path = write_recipe(recipe_values)
    line = 1 + [text.strip() for text in path.read_text().splitlines()].index("lerning_rate: 0.1")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert f"line {line}: training.lerning_rate: unknown key; did you mean training.learning_rate?" in str(caught.value)


def test_all_faults_are_listed_at_once(write_recipe: Write, recipe_values: dict[str, Any]) -> None:
    recipe_values["model"]["fusion"] = "gates"
    recipe_values["model"]["modalities"]["image"]["augment"]["noize"] = 1
    recipe_values["model"]["modalities"]["audio"]["augment"]["snr_db"] = [20, 10]
    recipe_values["training"]["steps"] = 0
    del recipe_values["data"]
    recipe_values["labels"] = ["one", "one"]
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(recipe_values))
    message = str(caught.value)
    for text in (
        "model.fusion: found 'gates'",
        "model.modalities.image.augment.noize: unknown key; did you mean model.modalities.image.augment.noise?",
        "model.modalities.audio.augment.snr_db: found [20.0, 10.0]; expected [lowest, highest]",
        "training.steps: found 0",
        "data: missing",
        "labels: expected at least two labels, each once",
    ):
        assert text in message


def test_a_key_that_is_there_twice_is_named_with_the_line_of_the_second(
    write_recipe: Write, recipe_values: dict[str, Any]
) -> None:
    text = write_recipe(recipe_values).read_text()
    again = text + "  steps: 5\nseed: &all\n- {a: 1, a: 2}\n- *all\nseed: 3\n"
    end = len(text.splitlines())
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(again))
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        f"line {end + 1}: training.steps: found a second time; expected each key once",
        f"line {end + 3}: seed.a: found a second time; expected each key once",
        f"line {end + 5}: seed: found a second time; expected each key once",
    ]


def test_preprocessing_is_checked_by_the_runtime(write_recipe: Write, recipe_values: dict[str, Any]) -> None:
    recipe_values["model"]["modalities"]["image"]["preprocess"]["widht"] = 32
    with pytest.raises(RecipeError, match=r"line \d+: model.modalities.image.preprocess: .*widht"):
        read_recipe(write_recipe(recipe_values))


def test_a_recipe_without_modalities_is_refused(write_recipe: Write, recipe_values: dict[str, Any]) -> None:
    recipe_values["model"]["modalities"] = {}
    with pytest.raises(RecipeError, match="names no modality"):
        read_recipe(write_recipe(recipe_values))


@pytest.mark.parametrize("text", ["", "- a list", "data: [unclosed", "just a text"])
def test_what_is_no_recipe_at_all_is_refused(write_recipe: Write, text: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        read_recipe(write_recipe(text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.yaml"):
        read_recipe(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.patience": 3}, "training: patience counts evaluations; expected evaluate_every"),
        ({"training.accumulate_steps": 3}, "training: found batch_size 8 in accumulate_steps 3"),
        ({"training.samples_per_label": 2}, "training.samples_per_label is for head embedding"),
        ({"model.head": "embedding"}, "labels name classes"),
        ({"model.head": "vqa", "model.multi_label": True}, "model.multi_label with head vqa"),
        ({"training.ema": 1.0}, "training.ema: found 1.0"),
        ({"seed": 2**32}, "seed: found 4294967296: Input should be less than 4294967296"),
        ({"model.modalities.image.augment": {"crop": [0.0, 1.0]}}, "image.augment.crop: found [0.0, 1.0]"),
        ({"model.modalities.audio.augment": {"speed": [1.2, 0.8]}}, "audio.augment.speed: found [1.2, 0.8]"),
        ({"model.modalities.audio.augment": {"shift": math.inf}}, "audio.augment.shift: found inf"),
        ({"model.modalities.audio.augment": {"snr_db": [math.nan, 5.0]}}, "audio.augment.snr_db.0: found nan"),
        ({"training.learning_rate": math.inf}, "training.learning_rate: found inf"),
        (
            {"model.modalities.text": {"encoder": "transformer", "preprocess": {"type": "text"}}},
            "text.preprocess: found",
        ),
        ({"model.modalities.image.encoder": "cmn"}, "unknown encoder 'cmn': did you mean 'cnn'?"),
        ({"model.modalities.image.layers": 3}, "image.layers: unknown key; encoder cnn has width, strides"),
    ],
)
def test_keys_that_do_not_fit_each_other_are_named(
    write_recipe: Write, recipe_values: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    for key, value in changes.items():
        *parents, last = key.split(".")
        part = recipe_values
        for parent in parents:
            part = part[parent]
        part[last] = value
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(recipe_values))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"samples_per_label": 2}, "samples_per_label"), ({"samples_per_image": 2}, "samples_per_image")],
)
def test_keys_of_sections_that_do_not_fit_each_other_are_named_with_the_line_of_the_key(
    write_recipe: Write, recipe_values: dict[str, Any], changes: dict[str, Any], key: str
) -> None:
    recipe_values["training"] |= changes
    del recipe_values["model"]["modalities"]["image"]
    path = write_recipe(recipe_values)
    line = 1 + [text.strip() for text in path.read_text().splitlines()].index(f"{key}: 2")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    (problem,) = str(caught.value).splitlines()[1:]
    assert problem.startswith(f"  line {line}: training.{key} ")


@pytest.mark.parametrize(
    ("space", "where", "problem"),
    [
        ({"low": 0.5, "high": 0.1}, "", "found 0.5 to 0.1; expected low < high, above 0 if log"),
        ({"low": "a", "high": 1}, ".low", "found 'a'; expected a number"),
        ({"low": 1, "high": 2, "log": "so"}, ".log", "found 'so'; expected true or false"),
        ({"low": 1}, ".high", "missing"),
        ({"low": 1, "high": 2, "lgo": True}, ".lgo", "unknown key"),
        ([1, [2]], ".1", "found [2]; expected a number, a string, true or false"),
        ([], "", "found []; expected a range, {low, high}, or a list of at least one choice"),
        (5, "", "found 5; expected a range, {low, high}, or a list of at least one choice"),
    ],
)
def test_a_search_space_that_is_none_is_one_problem_in_the_words_of_a_recipe(
    write_recipe: Write, recipe_values: dict[str, Any], space: Any, where: str, problem: str
) -> None:
    recipe_values["tune"] = {"training.learning_rate": space}
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(recipe_values))
    (line,) = str(caught.value).splitlines()[1:]
    assert re.fullmatch(rf"  line \d+: tune\.training\.learning_rate{where}: {re.escape(problem)}", line)


def test_an_option_of_an_encoder_that_is_misspelt_is_named_with_its_line_and_the_nearest(
    write_recipe: Write, recipe_values: dict[str, Any]
) -> None:
    image = recipe_values["model"]["modalities"]["image"]
    image["widht"] = image.pop("width")
    path = write_recipe(recipe_values)
    line = 1 + [text.strip() for text in path.read_text().splitlines()].index("widht: 4")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert f"line {line}: model.modalities.image.widht: unknown key; did you mean width?" in str(caught.value)


TEXT = {"encoder": "transformer", "width": 16, "preprocess": {"type": "text", "max_length": 12}}
VIT = {"encoder": "vit", "preprocess": {**make_bundles.IMAGE, "width": 16, "height": 16}}
BERT = {"encoder": "bert", "preprocess": TEXT["preprocess"]}


@pytest.mark.parametrize(
    ("name", "part", "key", "message"),
    [
        *(
            (name, {"width": width}, "width", f"found width {width!r}; expected a whole number above 0")
            for name in ("image", "audio", "text")
            for width in (0, -1, -4, 1.5, 4.5, "abc", True, None)
        ),
        ("image", {"strides": [True]}, "strides", "found strides [True]; expected whole numbers above 0"),
        ("image", {"strides": 2}, "strides", "found strides 2; expected whole numbers above 0"),
        ("audio", {"pooling": "none"}, "pooling", "found pooling 'none'; expected 'flatten' or 'statistics'"),
        ("text", {"dropout": 1.5}, "dropout", "found dropout 1.5; expected a probability, at least 0 and below 1"),
        ("text", {"heads": 0}, "heads", "found heads 0; expected a whole number above 0"),
        ("text", {"layers": -1}, "layers", "found layers -1; expected a whole number above 0"),
        ("text", {"heads": 3}, "text", "found width 16 with 3 heads; expected a multiple of the heads"),
        ("image", VIT | {"config": {"hidden_size": 7}}, "config", "transformers refuses this configuration of vit"),
        ("image", VIT | {"config": {"num_attention_heads": 0}}, "config", "transformers refuses this configuration"),
        ("image", VIT | {"config": {"patch_size": 64}}, "config", "transformers refuses this configuration of vit"),
        (
            "text",
            BERT | {"config": {"hidden_act": "gule"}},
            "config",
            "transformers refuses this configuration of bert",
        ),
        ("text", BERT | {"config": 5}, "config", "found config 5; expected keys and values"),
        ("text", BERT | {"config": {}, "freeze": "no"}, "freeze", "found freeze 'no'; expected true or false"),
    ],
)
def test_an_impossible_encoder_is_found_when_the_recipe_is_read_with_its_line(
    write_recipe: Write, recipe_values: dict[str, Any], name: str, part: dict[str, Any], key: str, message: str
) -> None:
    modalities = recipe_values["model"]["modalities"]
    if "encoder" in part:
        modalities[name] = part
    else:
        modalities[name] = {**(TEXT if name == "text" else modalities[name]), **part}
    path = write_recipe(recipe_values)
    lines = [text.strip().partition(":")[0] for text in path.read_text().splitlines()]
    line = 1 + lines.index(key, lines.index(name))
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    where = f"model.modalities.{name}" + ("" if key == name else f".{key}")
    assert f"  line {line}: {where}: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "part", "wrong", "nearest"),
    [
        ("image", VIT | {"config": {"hiden_size": 192}}, "hiden_size", "hidden_size"),
        ("text", BERT | {"config": {"num_layers": 1}}, "num_layers", "num_hidden_layers"),
        ("image", VIT | {"pretrained": "a/model", "config": {"image_sise": 32}}, "image_sise", "image_size"),
    ],
)
def test_a_misspelt_key_of_a_configuration_of_transformers_is_named_with_its_line_and_the_nearest(
    write_recipe: Write, recipe_values: dict[str, Any], name: str, part: dict[str, Any], wrong: str, nearest: str
) -> None:
    recipe_values["model"]["modalities"][name] = part
    path = write_recipe(recipe_values)
    lines = [text.strip().partition(":")[0] for text in path.read_text().splitlines()]
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    where = f"line {1 + lines.index(wrong)}: model.modalities.{name}.config.{wrong}"
    assert f"{where}: unknown key; did you mean {nearest}?" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "interleaved"}, "found layout 'interleaved'; an encoder is trained on planar float32 tensors"),
        ({"dtype": "float16"}, "found dtype 'float16'; an encoder is trained on planar float32 tensors"),
        ({"dtype": "uint8", "mean": [0.0], "std": [1 / 255]}, "found dtype 'uint8'; an encoder is trained on"),
    ],
)
def test_a_tensor_of_an_image_that_no_encoder_is_trained_on_is_refused(
    write_recipe: Write, recipe_values: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    image = recipe_values["model"]["modalities"]["image"]
    image["preprocess"] |= changes
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(recipe_values))
    assert f"model.modalities.image.preprocess: {message}" in str(caught.value)
    with pytest.raises(InvalidArgument, match=message):
        build_encoder({"encoder": "cnn", "width": 4, "preprocess": image["preprocess"]})


def test_heads_that_do_not_share_the_features_of_a_fusion_are_found_when_the_recipe_is_read(
    write_recipe: Write, recipe_values: dict[str, Any]
) -> None:
    recipe_values["model"] |= {"fusion": "cross_attention", "fusion_dim": 16, "fusion_heads": 3}
    with pytest.raises(RecipeError, match=r"line \d+: model: found fusion_dim 16 with fusion_heads 3; expected a mult"):
        read_recipe(write_recipe(recipe_values))


@pytest.mark.parametrize(
    ("key", "space", "message"),
    [
        ("model.modalities.text.width", [16, 18], "found width 18 with 4 heads"),
        ("model.modalities.text.width", {"low": 16, "high": 20}, "with 17: model.modalities.text: found width 17"),
        ("model.modalities.text.width", {"low": 16, "high": 4096}, "with 17: model.modalities.text: found width 17"),
        ("model.modalities.text.width", {"low": 4.0, "high": 8.0}, "found width 4.0; expected a whole number above 0"),
        ("model.modalities.text.dropout", {"low": 0.0, "high": 1.0}, "with 1.0: model.modalities.text.dropout: found"),
        ("model.modalities.text.heads", {"low": 1, "high": 4}, "found width 16 with 3 heads"),
        ("model.fusion_heads", {"low": 1, "high": 4}, "with 3: model: found fusion_dim 16 with fusion_heads 3"),
        ("training.steps", {"low": 1.0, "high": 9.0}, "Input should be a valid integer"),
    ],
)
def test_a_search_space_with_a_value_that_is_impossible_is_found_when_the_recipe_is_read(
    write_recipe: Write, recipe_values: dict[str, Any], key: str, space: Any, message: str
) -> None:
    recipe_values["model"]["fusion"] = "cross_attention"
    recipe_values["model"]["modalities"]["text"] = TEXT
    recipe_values["tune"] = {"training.learning_rate": {"low": 1e-5, "high": 0.1, "log": True}, key: space}
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(recipe_values))
    assert f": tune.{key}: " in str(caught.value)
    assert message in str(caught.value)
    assert "learning_rate" not in str(caught.value)


def test_an_impossible_option_of_an_encoder_is_a_recipes_error(recipe_values: dict[str, Any], tmp_path: Path) -> None:
    recipe_values["model"]["modalities"]["audio"]["pooling"] = "none"
    with pytest.raises(RecipeError, match="model: found pooling 'none'"):
        build_model(Recipe.model_validate(recipe_values), ("high", "low"), tmp_path)


def test_a_tokenizer_of_null_is_one_left_out(recipe_values: dict[str, Any], tmp_path: Path) -> None:
    preprocess = {"type": "text", "max_length": 12, "tokenizer": None}
    recipe_values["model"]["modalities"] = {"text": {"encoder": "transformer", "width": 8, "preprocess": preprocess}}
    sample = Sample({}, "a red square", ("text",), ("high",), None, None, {}, 1)
    recipe = Recipe.model_validate(recipe_values)
    write_tokenizer(recipe, [sample], tmp_path)
    model = build_model(recipe, ("high", "low"), tmp_path)
    assert model.config.modalities["text"]["preprocess"]["tokenizer"] == "tokenizer.json"


def test_changed_values_are_what_the_file_would_say(write_recipe: Write, recipe_values: dict[str, Any]) -> None:
    recipe_values["tune"] = {"training.learning_rate": [0.1]}
    recipe = read_recipe(write_recipe(recipe_values))
    values = changed(recipe, {"training.learning_rate": 0.1, "model.modalities.image.augment.noise": 0.0})
    expected = json.loads(json.dumps(recipe_values))
    del expected["tune"]
    expected["training"]["learning_rate"] = 0.1
    expected["model"]["modalities"]["image"]["augment"]["noise"] = 0.0
    assert json.loads(json.dumps(values)) == expected
