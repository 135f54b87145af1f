"""Training recipes: a YAML file, checked whole before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmedge.runtime import Preprocessor
from mmedge.runtime.errors import InvalidArgument, RecipeError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageAugment(_Strict):
    """Random changes to a training image; each sample draws its own."""

    noise: Fraction = 0.0
    """Gaussian noise with a standard deviation drawn from 0 to this fraction of the full range."""
    noise_size: Positive | None = None
    """Cells of noise per side, enlarged to the image; None: one per pixel. For images that were enlarged
    themselves.
    """
    shift: NotNegative = 0
    """Moved by up to this many pixels in x and in y, edges repeated."""


class AudioAugment(_Strict):
    """Random changes to a training clip; each sample draws its own."""

    shift: Annotated[float, Field(ge=0)] = 0.0
    """Moved by up to this many seconds earlier or later, zeros filling in."""
    snr_db: tuple[float, float] | None = None
    """White noise at a level drawn from this range of dB below the level of the active part."""
    mask_bands: NotNegative = 0
    """Up to this many neighbouring mel bands set to the tensor's mean."""
    mask_frames: NotNegative = 0
    """Up to this many neighbouring frames set to the tensor's mean."""

    @field_validator("snr_db")
    @classmethod
    def _in_order(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"found {list(value)}; expected [lowest, highest]")
        return value


class _Modality(_Strict):
    encoder: str
    width: Positive
    preprocess: dict[str, Any]
    """Parameters of the tensor, as the runtime takes them; they go into the model's configuration and the
    bundle.
    """

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


class Modalities(_Strict):
    """The modalities of the model. The presence mask has them in the order image, audio."""

    image: ImageModality | None = None
    audio: AudioModality | None = None

    @model_validator(mode="after")
    def _at_least_one(self) -> Modalities:
        if not self.names:
            raise ValueError("names no modality; expected at least one of image, audio")
        return self

    @property
    def names(self) -> list[str]:
        """The modalities that are there."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]


class ModelRecipe(_Strict):
    """The shape of the model."""

    modalities: Modalities
    fusion: Literal["gated", "sum"] = "gated"
    fusion_dim: Positive = 128
    head: Literal["classification"] = "classification"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TrainingRecipe(_Strict):
    """The optimiser (AdamW, linear warm-up, then a cosine to zero) and what it is fed."""

    steps: Positive
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_steps: NotNegative = 30
    modality_dropout: Fraction = 0.0
    """Probability that a sample is shown with only some of its modalities, at least one."""
    every_subset: bool = False
    """The loss is the mean over every subset of the modalities shown: modality dropout without the chance.
    Each encoder then learns from every sample, and fusion from all of them.
    """
    threads: Positive = 1
    """CPU threads of a step. Sums depend on their order, so another number gives another model of the same quality."""
    checkpoint_every: Positive = 200
    """Steps between checkpoints to resume from."""


class Recipe(_Strict):
    """A whole training run."""

    data: Path
    """Folder with a `train` and a `validation` split; relative to the working directory."""
    output: Path
    """Where the model goes; relative to the working directory."""
    labels: tuple[str, ...] | None = None
    """The classes in the order of the logits; None: those of the train split, sorted."""
    seed: NotNegative = 0
    model: ModelRecipe
    training: TrainingRecipe

    @field_validator("labels")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (len(value) < 2 or len(set(value)) < len(value)):
            raise ValueError("expected at least two labels, each once")
        return value


def read_recipe(path: Path | str) -> Recipe:
    """The recipe in the YAML file `path`.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or holds unknown keys or impossible values; all
            of them, each
            with its line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        root, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    if root is None or not isinstance(values, dict):
        raise RecipeError(f"{path}: found no keys; expected a recipe with data, output, model and training")
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem, root) for problem in error.errors()]
    raise RecipeError("\n".join([f"{path}: the recipe cannot be used", *(f"  {problem}" for problem in problems)]))


def _describe(problem: Any, root: yaml.Node) -> str:
    where = [part for part in problem["loc"] if isinstance(part, (str, int))]
    line = _line(root, where)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        names = {name: path for path, name in _fields(Recipe)}
        near = difflib.get_close_matches(str(where[-1]), names, n=1)
        message = "unknown key" + (f"; did you mean {names[near[0]]}?" if near else "")
    elif problem["type"] == "missing":
        message = "missing"
    elif problem["type"] not in ("value_error", "assertion_error"):
        message = f"found {problem['input']!r}: {message}"
    return f"line {line}: {'.'.join(map(str, where))}: {message}"


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and name of every key a recipe may hold."""
    for name, field in model.model_fields.items():
        yield prefix + name, name
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _fields(kind, f"{prefix}{name}.")


def _line(node: yaml.Node, where: list[str | int]) -> int:
    """The line of the key at `where`, or of the deepest key above it that is there."""
    line = node.start_mark.line
    for part in where:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        else:
            found = None
        if found is None:
            break
        line, node = found[0].start_mark.line, found[1]
    return line + 1
