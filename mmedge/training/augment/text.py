"""Random changes to a training text."""

from __future__ import annotations

import numpy as np

from mmedge.training.augment.options import TextAugment


def augment_text(text: str, augment: TextAugment, random: np.random.Generator) -> str:
    """`text`, with words between spaces left out at random; one always stays."""
    if not augment.word_dropout:
        return text
    words = text.split(" ")
    kept = random.random(len(words)) >= augment.word_dropout
    kept[random.integers(len(words))] = True
    return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)
