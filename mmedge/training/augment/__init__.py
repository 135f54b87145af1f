"""Random changes to training data, on what a camera, a microphone and a keyboard deliver; NumPy alone."""

from __future__ import annotations

from mmedge.training.augment.audio import augment_audio, mask_tensor
from mmedge.training.augment.image import augment_image
from mmedge.training.augment.options import AudioAugment, ImageAugment, TextAugment
from mmedge.training.augment.text import augment_text

__all__ = [
    "AudioAugment",
    "ImageAugment",
    "TextAugment",
    "augment_audio",
    "augment_image",
    "augment_text",
    "mask_tensor",
]
