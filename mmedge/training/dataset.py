"""What the Trainer is fed: an endless, repeatable stream of augmented samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmedge.data.folder import Sample
from mmedge.evaluation import modality_subsets
from mmedge.runtime import Preprocessor
from mmedge.training.augment import augment_audio, augment_image, mask_tensor
from mmedge.training.recipe import AudioAugment, ImageAugment, Modalities


class TrainingStream(Dataset[dict[str, Any]]):
    """`draws` training samples: draw n is sample n of an endless row of shuffles of `samples`.

    Every draw has a random generator of its own, made from `seed` and n alone: the stream is the same for
    any number of workers, and a run that resumes at draw n goes on exactly as one that was never broken.

    An item: {modality: float32 tensor, None if the sample lacks it, "label": int, "shown": the modalities
    that modality dropout leaves, at least one}. A modality that is dropped keeps its tensor: fusion masks it,
    and an encoder's batch norm goes on seeing real data.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Sequence[str],
        modalities: Modalities,
        *,
        draws: int,
        seed: int,
        modality_dropout: float,
    ) -> None:
        self._samples = samples
        self._labels = {label: index for index, label in enumerate(labels)}
        self._modalities = {name: getattr(modalities, name) for name in modalities.names}
        self._preprocessors = {name: Preprocessor(part.preprocess) for name, part in self._modalities.items()}
        self._draws, self._seed, self._modality_dropout = draws, seed, modality_dropout
        self._shuffle: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each modality's tensor, in the order of the presence mask."""
        return {name: preprocessor.shape for name, preprocessor in self._preprocessors.items()}

    def __len__(self) -> int:
        return self._draws

    def __getitem__(self, draw: int) -> dict[str, Any]:
        epoch, position = divmod(draw, len(self._samples))
        if self._shuffle[0] != epoch:
            order = np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._samples))
            self._shuffle = epoch, order
        sample = self._samples[self._shuffle[1][position]]
        random = np.random.default_rng([self._seed, 1, draw])

        shown = tuple(sample.files)
        if len(shown) > 1 and random.random() < self._modality_dropout:
            proper = modality_subsets(shown)[:-1]
            shown = proper[random.integers(len(proper))]
        inputs = sample.load()
        item: dict[str, Any] = {"label": self._labels[sample.label], "shown": shown}
        for name in self._modalities:
            item[name] = torch.from_numpy(self._tensor(name, inputs[name], random)) if name in inputs else None
        return item

    def _tensor(self, name: str, data: Any, random: np.random.Generator) -> Any:
        augment, preprocessor = self._modalities[name].augment, self._preprocessors[name]
        if isinstance(augment, ImageAugment):
            return preprocessor(augment_image(data, augment, random))
        assert isinstance(augment, AudioAugment)
        parameters = preprocessor.parameters
        window = parameters["samples"] / parameters["sample_rate"]
        return mask_tensor(preprocessor(augment_audio(data, window, augment, random)), augment, random)


def collate(items: Sequence[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A batch for `FusedModel`: float32 [B, ...shape] per modality of `shapes`, zeros where an item has
    none; "presence" bool [B, M]; "labels" int64 [B].
    """
    batch = {
        name: torch.stack([torch.zeros(shape) if item[name] is None else item[name] for item in items])
        for name, shape in shapes.items()
    }
    batch["presence"] = torch.tensor([[name in item["shown"] for name in shapes] for item in items])
    batch["labels"] = torch.tensor([item["label"] for item in items])
    return batch
