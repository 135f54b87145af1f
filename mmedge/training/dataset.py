"""What the Trainer is fed: an endless, repeatable stream of augmented samples."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from mmedge.data.folder import METADATA, Sample, decode_file
from mmedge.evaluation import modality_subsets
from mmedge.runtime import Preprocessor
from mmedge.runtime.errors import MmedgeError
from mmedge.training.augment import augment_audio, augment_image, augment_text, mask_tensor
from mmedge.training.inference import covered_area
from mmedge.training.recipe import Recipe
from mmedge.training.sampling import Row, balanced, by_image, by_label, shuffled

_CACHE_BYTES = 256_000_000  # of decoded files, in each worker
_NO_MIRROR = {"flip_horizontal": 0.0, "flip_vertical": 0.0, "transpose": 0.0}
# A mask passes through the geometry of its image and nothing else: no borders of their own, and a filter that leaves in
# each cell the share that is covered.
_MASK = {
    "type": "image",
    "fit": "stretch",
    "channels": "grey",
    "mean": [0.0],
    "std": [1.0],
    "interpolation": "bilinear",
    "antialias": True,
}


class TrainingStream(Dataset[dict[str, Any]]):
    """`steps` batches of training samples: draw n is a function of the recipe's seed and n.

    Every draw has a random generator of its own, made from the seed and n alone: the stream is the same for any number
    of workers and processes, and a run that resumes at draw n goes on exactly as one that was never broken.

    An item: {modality: its tensor, None if the sample lacks it, "label": the class or identity, or float32 [labels]
    with ones for multi-label, "shown": the modalities that modality dropout leaves, at least one}, and, if
    `region_shape` is given, "region": float32 [*region_shape], the share of each cell that the mask covers, -1 where
    there is no mask. A modality that is dropped keeps its tensor: fusion masks it, and an encoder's batch norm goes on
    seeing real data.

    `preprocess` are the model's parameters by modality, in the order of the presence mask; a tokenizer they name lies
    in `directory`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Sequence[str],
        recipe: Recipe,
        preprocess: Mapping[str, Mapping[str, Any]],
        *,
        directory: Path | None = None,
        region_shape: tuple[int, int] | None = None,
    ) -> None:
        self._samples = samples
        self._labels = {label: index for index, label in enumerate(labels)}
        self._augment = {name: getattr(recipe.model.modalities, name).augment for name in preprocess}
        self._preprocessors = {name: Preprocessor(part, directory) for name, part in preprocess.items()}
        self._region: Preprocessor | None = None
        if region_shape is not None:
            rows, columns = region_shape
            self._region = Preprocessor({"width": columns, "height": rows, **_MASK})
        self._image = preprocess.get("image", {})
        self._region_shape = region_shape
        self._multi_label = recipe.model.multi_label
        self._seed, self._modality_dropout = recipe.seed, recipe.training.modality_dropout
        self._draws = recipe.training.steps * recipe.training.batch_size
        self._per_image = recipe.training.samples_per_image or 1
        self._row = _row(samples, labels, recipe)
        self._decode = _Cache()

    @property
    def zeros(self) -> dict[str, npt.NDArray[Any]]:
        """The tensor of an absent modality, in the order of the presence mask."""
        return {name: np.zeros(part.shape, part.dtype) for name, part in self._preprocessors.items()}

    def __len__(self) -> int:
        return self._draws

    def sample(self, draw: int) -> Sample:
        """What is drawn."""
        return self._samples[self._row(draw)]

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """An item, as the class describes it.

        Raises:
            MmedgeError: a file is gone or damaged since it was looked at, or no tensor can be made; it names the row.
        """
        sample = self.sample(draw)
        try:
            return self._item(draw, sample)
        except MmedgeError as error:
            raise type(error)(f"train/{METADATA}, line {sample.line}: {error}") from error

    def _item(self, draw: int, sample: Sample) -> dict[str, Any]:
        random = np.random.default_rng([self._seed, 1, draw])
        shown = sample.modalities
        if len(shown) > 1 and random.random() < self._modality_dropout:
            proper = modality_subsets(shown)[:-1]
            shown = proper[random.integers(len(proper))]
        inputs = sample.load(self._decode)
        mask = None if self._region is None else sample.mask(self._decode)
        item: dict[str, Any] = {"label": self._label(sample), "shown": shown}
        for name in self._preprocessors:
            if name not in inputs:
                item[name] = None
            elif name == "image":
                augment = self._augment[name]
                if not augment.mirrors(sample.columns):
                    augment = augment.model_copy(update=_NO_MIRROR)
                # The samples that share an image share what happens to it.
                shared = (
                    None if self._per_image == 1 else np.random.default_rng([self._seed, 3, draw // self._per_image])
                )
                pixels, mask = augment_image(inputs[name], augment, shared or random, mask)
                item[name] = self._preprocessors[name](pixels)
            else:
                item[name] = self._tensor(name, inputs[name], random)
        if self._region is not None:
            assert self._region_shape is not None
            if mask is None:
                item["region"] = np.full(self._region_shape, -1.0, np.float32)
            else:
                item["region"] = self._region(_seen(mask, self._image).astype(np.uint8) * np.uint8(255))[0]
        return item

    def _label(self, sample: Sample) -> Any:
        if not self._multi_label:
            return self._labels[sample.label]
        row = np.zeros(len(self._labels), np.float32)
        row[[self._labels[label] for label in sample.labels]] = 1.0
        return row

    def _tensor(self, name: str, data: Any, random: np.random.Generator) -> Any:
        augment, preprocessor = self._augment[name], self._preprocessors[name]
        if name == "text":
            return preprocessor(augment_text(data, augment, random))
        parameters = preprocessor.parameters
        window = parameters["samples"] / parameters["sample_rate"]
        tensor = preprocessor(augment_audio(data, window, augment, random))
        return mask_tensor(tensor, augment, random) if augment.mask_bands or augment.mask_frames else tensor


def _seen(mask: npt.NDArray[np.bool_], parameters: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """What the image's tensor covers of a mask [H, W], at the mask's own scale, False where that is no picture."""
    height, width = mask.shape
    left, top, across, down = covered_area(parameters, width, height)
    columns, rows = (np.arange(round(start), round(start + size)) for start, size in ((left, across), (top, down)))
    inside = ((rows >= 0) & (rows < height))[:, None] & (columns >= 0) & (columns < width)
    return np.asarray(mask[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))] & inside)


class _Cache:
    """Decoded files, the ones longest unused forgotten first; rows that share a file decode it once."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[str, Path], tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def __call__(self, kind: str, path: Path) -> Any:
        key = kind, path
        if key in self._files:
            self._files.move_to_end(key)
            return self._files[key][0]
        data = decode_file(kind, path)
        size = (data.samples if kind == "audio" else data).nbytes
        self._files[key] = data, size
        self._bytes += size
        while self._bytes > _CACHE_BYTES:
            _, (_, forgotten) = self._files.popitem(last=False)
            self._bytes -= forgotten
        return data


def _row(samples: Sequence[Sample], labels: Sequence[str], recipe: Recipe) -> Row:
    training = recipe.training
    if training.samples_per_label is not None:
        return by_label(samples, recipe.seed, training.batch_size, training.samples_per_label)
    if training.samples_per_image is not None:
        assert recipe.model.modalities.image is not None
        mirrors = recipe.model.modalities.image.augment.mirrors
        return by_image(samples, recipe.seed, training.batch_size, training.samples_per_image, mirrors)
    if training.sampling == "balanced":
        return balanced(samples, labels, recipe.seed)
    return shuffled(samples, recipe.seed)


def collate(
    items: Sequence[Mapping[str, Any]], zeros: Mapping[str, npt.NDArray[Any]], samples_per_image: int = 1
) -> dict[str, Any]:
    """A batch for `FusedModel`: [B, ...shape] per modality of `zeros`, which stand in where an item has none;
    "presence" bool [B, M]; "labels" int64 [B], or float32 [B, labels]; "region" float32 [B, rows, columns] if the items
    have it. Of every `samples_per_image` items, which show the same, the image is there once, which
    "samples_per_row" says.
    """
    batch: dict[str, Any] = {}
    for name, zero in zeros.items():
        rows = items[::samples_per_image] if name == "image" else items
        batch[name] = torch.from_numpy(np.stack([zero if item[name] is None else item[name] for item in rows]))
    if samples_per_image > 1:
        batch["samples_per_row"] = {"image": samples_per_image}
    batch["presence"] = torch.tensor([[name in item["shown"] for name in zeros] for item in items])
    batch["labels"] = torch.from_numpy(np.array([item["label"] for item in items]))
    if "region" in items[0]:
        batch["region"] = torch.from_numpy(np.stack([item["region"] for item in items]))
    return batch
