"""Models: an encoder per modality, a fusion with a presence mask, a head."""

from __future__ import annotations

from mmedge.models.configuration import MmedgeConfig, tensor_shape
from mmedge.models.modeling import FusedModel, FusedOutput, load_checkpoint

__all__ = ["FusedModel", "FusedOutput", "MmedgeConfig", "load_checkpoint", "tensor_shape"]
