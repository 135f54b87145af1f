from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmedge.runtime.errors import RecipeError
from mmedge.training.recipe import read_recipe

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
