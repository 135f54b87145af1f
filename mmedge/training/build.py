"""From a recipe and its data to a model that is ready to be trained."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmedge.data.folder import METADATA, Sample, read_split
from mmedge.models import FusedModel, MmedgeConfig, new_model
from mmedge.models.registry import encoder_options
from mmedge.runtime.errors import DataError, InvalidArgument, RecipeError
from mmedge.training.recipe import ModelRecipe, Recipe
from mmedge.training.tokenizer import TOKENIZER_FILE, Vocabulary, read_vocabulary, train_tokenizer


def read_data(recipe: Recipe) -> tuple[list[Sample], list[Sample], tuple[str, ...]]:
    """The train and the validation split, and the labels in order: the classes, or the identities of the train split.

    Raises:
        DataError: a split cannot be read or used. RecipeError: rows are to be mirrored by a column that none has.
    """
    names, model = recipe.model.modalities.names, recipe.model
    samples = read_split(recipe.data, "train", names, recipe.labels)
    labels = recipe.labels or tuple(sorted({label for sample in samples for label in sample.labels}))
    held_out = read_split(recipe.data, "validation", names, None if model.head == "embedding" else labels)
    for split, rows in (("train", samples), ("validation", held_out)):
        several = [row.line for row in rows if len(row.labels) != 1]
        if several and not model.multi_label:
            raise DataError(
                f"{recipe.data / split / METADATA}, line {several[0]}: found labels of a multi-label row; expected one "
                f"label, or model.multi_label: true ({len(several)} such rows)"
            )
    missing = sorted(set(labels) - {label for sample in samples for label in sample.labels})
    if missing:
        raise DataError(f"the train split has no sample of {', '.join(missing)}; expected some of every label")
    if len(labels) < 2:
        raise DataError(f"the train split has the one label {labels[0]!r}; expected at least two")
    _check_columns(recipe, samples)
    return samples, held_out, labels


def _check_columns(recipe: Recipe, samples: Sequence[Sample]) -> None:
    image = recipe.model.modalities.image
    columns = sorted({name for sample in samples for name in sample.columns})
    for name in (image and image.augment.mirror_where) or {}:
        if name not in columns:
            raise RecipeError(
                f"model.modalities.image.augment.mirror_where: found {name!r}, which no row has; expected of the train "
                f"split's columns: {', '.join(columns) or 'there are none'}"
            )


def write_tokenizer(recipe: Recipe, samples: Sequence[Sample], folder: Path) -> None:
    """Leave the recipe's tokenizer in `folder`, or one trained on the texts of `samples`; nothing without text.

    Raises:
        RecipeError: the file cannot be used. DataError: no text to train one on.
    """
    text = recipe.model.modalities.text
    if text is None:
        return
    path = folder / TOKENIZER_FILE
    tokenizer = text.preprocess.get("tokenizer")
    if tokenizer is not None:
        shutil.copyfile(tokenizer, path)
    else:
        train_tokenizer((sample.text for sample in samples if sample.text is not None), text.vocab_size, path)


def build_model(recipe: Recipe, labels: Sequence[str], folder: Path) -> FusedModel:
    """A new model of the recipe, for the tokenizer in `folder`.

    Raises:
        RecipeError: parts that do not fit each other, weights that cannot be had, a tokenizer that cannot be used.
    """
    vocabulary = None if recipe.model.modalities.text is None else read_vocabulary(folder / TOKENIZER_FILE)
    identities = recipe.model.head == "embedding"
    try:
        config = _config(recipe.model, () if identities else labels, vocabulary)
        model = new_model(config)
    except InvalidArgument as error:
        raise RecipeError(f"model: {error}") from error
    if vocabulary is not None:
        _check_vocabulary(model, vocabulary)
    set_up(model, recipe)
    return model


def set_up(model: FusedModel, recipe: Recipe) -> None:
    """Tell a model what of the recipe's training is its own matter.

    Raises:
        RecipeError: gradient checkpointing with encoders that have none.
    """
    model.label_smoothing = recipe.training.label_smoothing
    if recipe.training.gradient_checkpointing:
        try:
            model.activation_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            used = ", ".join(part["encoder"] for part in model.config.modalities.values())
            raise RecipeError(
                f"training.gradient_checkpointing: none of {used} can; expected an encoder of the transformers "
                "library, or the key left out"
            ) from error


def _config(model: ModelRecipe, labels: Sequence[str], vocabulary: Vocabulary | None) -> MmedgeConfig:
    values = model.model_dump(mode="json")
    modalities = {name: part for name, part in values.pop("modalities").items() if part is not None}
    for part in modalities.values():
        del part["augment"]
        if part["pretrained"] is None:
            del part["pretrained"]
    if vocabulary is not None:
        modalities["text"] = _text(modalities["text"], vocabulary)
    return MmedgeConfig(modalities=modalities, id2label=dict(enumerate(labels)), **values)


def _text(part: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """The tokenizer's place and size, as the encoder wants to be told; published weights come with a size."""
    part = {**part, "preprocess": {**part["preprocess"], "tokenizer": TOKENIZER_FILE}}
    del part["vocab_size"]
    sizes = {"vocab_size": vocabulary.size, "pad_token_id": vocabulary.pad_id}
    if "vocab_size" in encoder_options(part["encoder"]):
        return {**part, **sizes}
    if "pretrained" in part:
        return part
    return {**part, "config": {**sizes, **part.get("config", {})}}


def _check_vocabulary(model: FusedModel, vocabulary: Vocabulary) -> None:
    published = getattr(model.encoders["text"], "model", None)
    if published is None:
        return
    size, pad_id = published.config.vocab_size, published.config.pad_token_id
    if vocabulary.size > size or vocabulary.pad_id != pad_id:
        raise RecipeError(
            f"model.modalities.text: the tokenizer has {vocabulary.size} tokens and pads with {vocabulary.pad_id}, the "
            f"encoder {size} and {pad_id}; expected the tokenizer.json that belongs to the weights"
        )
