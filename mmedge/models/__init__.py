"""Models: an encoder per modality, a fusion with a presence mask, a head."""

from __future__ import annotations

from mmedge.models.checkpoint import load_checkpoint, new_model
from mmedge.models.configuration import MmedgeConfig, modality_of, tensor_shape
from mmedge.models.modeling import FusedModel, FusedOutput

__all__ = ["FusedModel", "FusedOutput", "MmedgeConfig", "load_checkpoint", "modality_of", "new_model", "tensor_shape"]
