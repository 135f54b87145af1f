"""Training recipes: a YAML file, checked whole before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmedge.runtime import Preprocessor
from mmedge.runtime.errors import InvalidArgument, RecipeError
from mmedge.training.augment import AudioAugment, ImageAugment, TextAugment
from mmedge.training.augment.options import BelowOne, Fraction, NotNegative, Positive, Strict
from mmedge.training.encoder_check import encoder_problems
from mmedge.training.recipe_lines import line_of, repeated_keys
from mmedge.training.spaces import Range, Scalar, Space, expected_of_space, values_tried

RECIPE_FILE = "recipe.json"  # beside the weights: what the model was trained on, and how


class _Modality(BaseModel):
    # The encoder's own options are known to the encoder.
    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    encoder: str
    """Name of the encoder; its own options (`width`, `layers`, ...) stand beside it, see models.md."""
    pretrained: str | None = None
    """Published weights to start from: a local folder or a hub id, for encoders of the transformers library."""
    preprocess: dict[str, Any]
    """Parameters of the tensor, as the runtime takes them; see preprocessing.md."""

    @field_validator("preprocess")
    @classmethod
    def _known_to_the_runtime(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            Preprocessor(value)
        except InvalidArgument as error:
            raise ValueError(str(error).removeprefix("preprocess: ")) from error
        return value


class ImageModality(_Modality):
    """How images are encoded."""

    augment: ImageAugment = ImageAugment()


class AudioModality(_Modality):
    """How audio is encoded."""

    augment: AudioAugment = AudioAugment()

    @model_validator(mode="after")
    def _bands_to_mask(self) -> AudioModality:
        if self.preprocess.get("type") == "waveform" and (self.augment.mask_bands or self.augment.mask_frames):
            raise ValueError(
                "augment.mask_bands and mask_frames are for spectra; expected them left out for a waveform"
            )
        return self


class TextModality(_Modality):
    """How text is encoded."""

    vocab_size: Positive = 4096
    """Most tokens of the tokenizer that is trained on the train split, where `preprocess` names none."""
    augment: TextAugment = TextAugment()

    @field_validator("preprocess")
    @classmethod
    def _known_to_the_runtime(cls, value: dict[str, Any]) -> dict[str, Any]:
        # The runtime checks the rest when there is a tokenizer.
        if set(value) - {"tokenizer"} != {"type", "max_length"} or value["type"] != "text":
            raise ValueError(f"found {value}; expected type: text, max_length and, for one of your own, tokenizer")
        if not isinstance(value["max_length"], int) or value["max_length"] < 1:
            raise ValueError(f"found max_length {value['max_length']!r}; expected tokens, at least 1")
        tokenizer = value.get("tokenizer")
        if tokenizer is not None and not Path(tokenizer).is_file():
            raise ValueError(f"found no file {tokenizer}; expected a tokenizer.json of HF's tokenizers")
        return value


class Modalities(Strict):
    """The modalities of the model. The presence mask has them in the order image, audio, text."""

    image: ImageModality | None = None
    """How images are encoded."""
    audio: AudioModality | None = None
    """How audio is encoded."""
    text: TextModality | None = None
    """How text is encoded."""

    @model_validator(mode="after")
    def _at_least_one(self) -> Modalities:
        if not self.names:
            raise ValueError("names no modality; expected at least one of image, audio, text")
        return self

    @property
    def names(self) -> list[str]:
        """The modalities that are there."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]


class ModelRecipe(Strict):
    """The shape of the model."""

    modalities: Modalities
    """What the model takes, and how each is encoded."""
    fusion: Literal["concat", "sum", "product", "gated", "mlp", "cross_attention"] = "gated"
    """How the modalities become one embedding."""
    fusion_dim: Positive = 128
    """Features of that embedding."""
    fusion_layers: Positive = 2
    """Layers of `cross_attention`."""
    fusion_heads: Positive = 4
    """Heads of `cross_attention`."""
    head: Literal["classification", "embedding", "vqa"] = "classification"
    """What is made of the embedding: a class, an embedding to compare, or an answer with the region it rests on."""
    multi_label: bool = False
    """A sample may have any number of classes; for `classification`."""
    embedding_dim: Positive = 128
    """Features of the output of `embedding`."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """How outputs of `embedding` are compared."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of the contrastive loss of `embedding`."""
    region_scale: Positive = 1
    """Of `vqa`: cells of the relevance map per cell of the image encoder's grid, along each side."""
    region_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of `vqa`: weight of the region's loss beside the answer's."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability, inside fusion and head."""

    @model_validator(mode="after")
    def _equal_heads(self) -> ModelRecipe:
        if self.fusion == "cross_attention" and self.fusion_dim % self.fusion_heads:
            raise ValueError(
                f"found fusion_dim {self.fusion_dim} with fusion_heads {self.fusion_heads}; expected a multiple of the "
                "heads"
            )
        return self


class TrainingRecipe(Strict):
    """The optimiser, AdamW, and what it is fed."""

    steps: Positive
    """Steps of the optimiser."""
    batch_size: Positive = 64
    """Samples per step, over all processes."""
    accumulate_steps: Positive = 1
    """Parts that a step's batch is computed in, for less memory."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """The highest, after the warm-up."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up: to zero along a cosine or a line, or not at all."""
    warmup_steps: NotNegative = 30
    """Steps in which the learning rate rises from zero, in a line."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of weight matrices and kernels; biases and the scales of norms have none."""
    gradient_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient, scaled down to it where it is larger; 0: no limit."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of the arithmetic inside a step; the weights stay fp32. fp16 needs a GPU."""
    gradient_checkpointing: bool = False
    """Encoders of the transformers library compute their layers again instead of keeping them, for less memory."""
    label_smoothing: BelowOne = 0.0
    """Share of the target that is spread evenly over all classes."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated and saved."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """`balanced`: every class equally often, rare samples repeated."""
    samples_per_label: Positive | None = None
    """Batches of batch_size / K labels with this many samples K each, for `embedding`."""
    samples_per_image: Positive | None = None
    """Batches of batch_size / K images with this many samples K each; an image is encoded once for them."""
    modality_dropout: Fraction = 0.0
    """Probability that a sample is shown with only some of its modalities, at least one."""
    every_subset: bool = False
    """The loss is the mean over every subset of the modalities shown: modality dropout without the chance."""
    evaluate_every: Positive | None = None
    """Steps between evaluations on the validation split; the best model by its main metric is the one saved."""
    patience: Positive | None = None
    """Stop after this many evaluations in a row without a better one."""
    checkpoint_every: Positive = 200
    """Steps between checkpoints to resume from."""
    threads: Positive = 1
    """CPU threads of a step. Sums depend on their order: another number gives another model of the same quality."""

    @model_validator(mode="after")
    def _fit_each_other(self) -> TrainingRecipe:
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                f"found batch_size {self.batch_size} in accumulate_steps {self.accumulate_steps}; expected equal parts"
            )
        groups = {key: getattr(self, key) for key in ("samples_per_label", "samples_per_image")}
        for key, size in groups.items():
            if size is None:
                continue
            if self.batch_size // self.accumulate_steps % size:
                raise ValueError(
                    f"found batch_size {self.batch_size} in accumulate_steps {self.accumulate_steps}; expected "
                    f"each part a multiple of {key} {size}"
                )
            if self.sampling != "shuffled":
                raise ValueError(f"{key} draws in groups already; expected no sampling beside it")
        if None not in groups.values():
            raise ValueError("found samples_per_label and samples_per_image; expected one of them")
        if self.patience is not None and self.evaluate_every is None:
            raise ValueError("patience counts evaluations; expected evaluate_every beside it")
        return self


class Recipe(Strict):
    """A whole training run."""

    data: Path
    """Folder with a `train` and a `validation` split; relative to the working directory."""
    output: Path
    """Where the model goes; relative to the working directory."""
    labels: tuple[str, ...] | None = None
    """The classes in the order of the logits; null: those of the train split, sorted."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the first weights, the order of the samples and their augmentation."""
    model: ModelRecipe
    """The shape of the model."""
    training: TrainingRecipe
    """The optimiser and what it is fed."""
    tune: dict[str, Space] = Field(default={})
    """The search space of `mmedge tune`: a key such as training.learning_rate -> a range or a list of choices."""

    @field_validator("labels")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (len(value) < 2 or len(set(value)) < len(value)):
            raise ValueError("expected at least two labels, each once")
        return value

    @model_validator(mode="after")
    def _fit_each_other(self) -> Recipe:
        model, training = self.model, self.training
        if model.multi_label and model.head != "classification":
            raise ValueError(f"model.multi_label with head {model.head}; expected head classification")
        if model.head == "vqa" and model.modalities.image is None:
            raise ValueError("model.head vqa points at a place in an image; expected model.modalities.image")
        if training.samples_per_image is not None and model.modalities.image is None:
            raise ValueError("training.samples_per_image groups by image; expected model.modalities.image")
        if model.head == "embedding":
            for key in ("label_smoothing", "sampling"):
                if getattr(training, key) != type(training).model_fields[key].default:
                    raise ValueError(f"training.{key} is for classes; expected it left out with head embedding")
            if self.labels is not None:
                raise ValueError("labels name classes; expected them left out with head embedding")
        elif training.samples_per_label is not None:
            raise ValueError(
                "training.samples_per_label is for head embedding; expected sampling: balanced for classes"
            )
        return self


def read_recipe(path: Path | str) -> Recipe:
    """The recipe in the YAML file `path`.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or holds unknown keys or impossible values; all of them, each
            with its line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        root, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    if root is None or not isinstance(values, dict):
        raise RecipeError(f"{path}: found no keys; expected a recipe with data, output, model and training")
    if repeated := list(repeated_keys(root)):
        problems = [f"  line {line}: {key}: found a second time; expected each key once" for line, key in repeated]
        raise RecipeError("\n".join([f"{path}: the recipe cannot be used", *problems]))
    found = _check(values)
    if isinstance(found, Recipe):
        recipe, found = found, [problem for key in found.tune for problem in _tune_problems(found, key)]
        if not found:
            return recipe
    problems = [f"  line {line_of(root, where)}: {_say(where, problem)}" for where, problem in found]
    raise RecipeError("\n".join([f"{path}: the recipe cannot be used", *problems]))


def changed(recipe: Recipe, values: Mapping[str, Scalar]) -> dict[str, Any]:
    """What the recipe says, as YAML would give it, with other values at dotted keys and no search space."""
    whole: dict[str, Any] = recipe.model_dump(mode="json", exclude_unset=True)
    whole.pop("tune", None)
    for key, value in values.items():
        *parents, last = key.split(".")
        part = whole
        for parent in parents:
            part[parent] = part = part[parent] if isinstance(part.get(parent), dict) else {}
        part[last] = value
    return whole


Problem = tuple[list[str | int], str]
"""Where in the recipe, and what."""


def _check(values: Mapping[str, Any]) -> Recipe | list[Problem]:
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        found = [_describe(problem) for problem in error.errors()]
        return [problem for index, problem in enumerate(found) if problem not in found[:index]]
    problems: list[Problem] = []
    for name in recipe.model.modalities.names:
        part = getattr(recipe.model.modalities, name)
        for keys, problem in encoder_problems(part.model_dump(mode="json"), list(type(part).model_fields)):
            problems.append((["model", "modalities", name, *keys], problem))
    return problems or recipe


def _tune_problems(recipe: Recipe, key: str) -> Iterator[Problem]:
    """Each bound or choice must make a recipe."""
    space = recipe.tune[key]
    if key == "tune" or key.startswith(("tune.", "data", "output")):
        yield ["tune", key], "not a key to search; expected one of model or training"
        return
    for value in values_tried(space):
        found = _check(changed(recipe, {key: value}))
        if not isinstance(found, Recipe):
            problem = "; ".join(_say(where, problem) for where, problem in found)
            yield ["tune", key], f"with {value}: {problem}" if isinstance(space, Range) else problem
            return


def _say(where: list[str | int], problem: str) -> str:
    name = ".".join(map(str, where))
    return problem if problem.startswith(f"{name} ") else f"{name}: {problem}"


def _describe(problem: Any) -> Problem:
    where = [part for part in problem["loc"] if isinstance(part, (str, int))]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        names = {name: path for path, name in _fields(Recipe)}
        near = difflib.get_close_matches(str(where[-1]), names, n=1)
        message = "unknown key" + (f"; did you mean {names[near[0]]}?" if near else "")
    elif problem["type"] == "missing":
        message = "missing"
    elif problem["type"] not in ("value_error", "assertion_error"):
        message = f"found {problem['input']!r}: {message}"
        if where[:1] == ["tune"] and len(where) > 2:
            message = f"found {problem['input']!r}; expected {expected_of_space(where[2:])}"
    if not where:  # a rule between sections, which begins with the key
        where = [*message.split()[0].split(".")]
    elif where[0] == "tune":  # without the kind of space, and that of a number
        where = [*where[:2], *where[3:4]]
    return where, message


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and name of every key a recipe may hold."""
    for name, field in model.model_fields.items():
        yield prefix + name, name
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _fields(kind, f"{prefix}{name}.")
