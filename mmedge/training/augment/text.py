"""Random changes to a training text."""

from __future__ import annotations

import numpy as np

from mmedge.training.augment.options import TextAugment


def augment_text(text: str, augment: TextAugment, random: np.random.Generator) -> str:
    """`text`, with words left out at random and single spaces between those that stay; one always stays, if there is
    one.
    """
    words = text.split()
    if not augment.word_dropout or not words:
        return text
    kept = random.random(len(words)) >= augment.word_dropout
    kept[random.integers(len(words))] = True
    return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)
