from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmedge.training.recipe import Recipe

Make = Callable[..., Recipe]


@pytest.fixture
def recipe(recipe_values: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(recipe_values)


@pytest.fixture
def with_training(recipe_values: dict[str, Any]) -> Make:
    """The small recipe with other values under `training`."""

    def make(**training: Any) -> Recipe:
        return Recipe.model_validate(recipe_values | {"training": recipe_values["training"] | training})

    return make


@pytest.fixture
def values_without_chance(recipe_values: dict[str, Any]) -> dict[str, Any]:
    """The small recipe for sound alone, with no batch norm and no dropout: parts of a batch add up to the whole."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    chance = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    audio = recipe_values["model"]["modalities"]["audio"]
    audio = {"encoder": "ast", "config": sizes | chance, "preprocess": audio["preprocess"], "augment": audio["augment"]}
    model = recipe_values["model"] | {"dropout": 0.0, "modalities": {"audio": audio}}
    training = recipe_values["training"] | {"modality_dropout": 0.0, "steps": 6}
    return recipe_values | {"model": model, "training": training}
