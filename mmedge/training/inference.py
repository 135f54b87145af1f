"""A trained checkpoint as a function from decoded inputs to a label, for `mmedge.evaluation.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmedge.evaluation import Predict
from mmedge.models import FusedModel
from mmedge.runtime import Preprocessor


def predictor(model: FusedModel) -> Predict:
    """`model` in evaluation mode behind its configuration's preprocessing; what is left out is absent."""
    model.train(False)
    parts = model.config.modalities or {}
    preprocessors = {name: Preprocessor(part["preprocess"]) for name, part in parts.items()}
    zeros = {name: torch.zeros(preprocessor.shape) for name, preprocessor in preprocessors.items()}
    labels: list[str] = model.config.labels

    @torch.inference_mode()
    def predict(inputs: Mapping[str, Any]) -> str:
        tensors = {
            name: torch.from_numpy(preprocessor(inputs[name])) if name in inputs else zeros[name]
            for name, preprocessor in preprocessors.items()
        }
        batch = {name: tensor.unsqueeze(0).to(model.device) for name, tensor in tensors.items()}
        presence = torch.tensor([[name in inputs for name in preprocessors]], device=model.device)
        return labels[int(model(presence=presence, **batch).logits.argmax())]

    return predict
