"""A trained checkpoint as a function from decoded inputs to a prediction, for `mmedge.evaluation.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmedge.evaluation import Predict, Predicted
from mmedge.metrics import Box
from mmedge.models import FusedModel, FusedOutput
from mmedge.runtime import Image, Preprocessor
from mmedge.runtime.errors import NotFinite


@dataclass(frozen=True)
class RelevanceMap:
    """A checkpoint's region: the map alone, since only the runtime draws the box around it."""

    map: npt.NDArray[np.float32]
    map_box: Box
    threshold: float = 0.5
    box: None = None


def predictor(model: FusedModel, directory: Path | None = None) -> Predict:
    """`model` in evaluation mode behind its configuration's preprocessing; what is left out is absent. `directory` is
    where the files that the preprocessing names lie; the checkpoint's by default.

    It raises NotFinite where the model answers NaN or an infinity.
    """
    model.train(False)
    directory = directory or Path(model.config.name_or_path or ".")
    parts = model.config.modalities or {}
    preprocessors = {name: Preprocessor(part["preprocess"], directory) for name, part in parts.items()}
    zeros = {name: torch.from_numpy(np.zeros(part.shape, part.dtype)) for name, part in preprocessors.items()}

    @torch.inference_mode()
    def predict(inputs: Mapping[str, Any]) -> Predicted:
        tensors = {
            name: torch.from_numpy(preprocessor(inputs[name])) if name in inputs else zeros[name]
            for name, preprocessor in preprocessors.items()
        }
        batch = {name: tensor.unsqueeze(0).to(model.device) for name, tensor in tensors.items()}
        presence = torch.tensor([[name in inputs for name in preprocessors]], device=model.device)
        output = model(presence=presence, **batch)
        answer = output.logits if output.embedding is None else output.embedding
        if not torch.isfinite(answer).all():
            raise NotFinite(
                f"with {' + '.join(inputs)} the model answers NaN or infinities, though its weights are finite; train "
                "with a lower learning_rate or a gradient_clip"
            )
        if output.embedding is not None:
            return Predicted(embedding=output.embedding[0].cpu().numpy())
        return _classified(model, output, _region(preprocessors, inputs, output))

    return predict


def _classified(model: FusedModel, output: FusedOutput, region: RelevanceMap | None) -> Predicted:
    assert output.logits is not None
    logits = output.logits[0].float()
    probabilities = (torch.sigmoid(logits) if model.config.multi_label else torch.softmax(logits, dim=0)).tolist()
    scores = dict(zip(model.config.labels, probabilities, strict=True))
    ranked = sorted(scores, key=lambda label: -scores[label])
    applying = tuple(label for label in ranked if scores[label] >= 0.5) if model.config.multi_label else ()
    return Predicted(label=ranked[0], scores=scores, labels=applying, region=region)


def _region(
    preprocessors: Mapping[str, Preprocessor], inputs: Mapping[str, Any], output: FusedOutput
) -> RelevanceMap | None:
    image = next((name for name in inputs if preprocessors[name].modality == "image"), None)
    if output.relevance is None or image is None:
        return None
    frame = inputs[image] if isinstance(inputs[image], Image) else Image(inputs[image])
    area = covered_area(preprocessors[image].parameters, frame.width, frame.height)
    return RelevanceMap(output.relevance[0].cpu().numpy(), area)


def covered_area(parameters: Mapping[str, Any], width: int, height: int) -> Box:
    """What the tensor of an image's preprocessing covers of an upright frame of this size: left edge, upper edge, width
    and height, in its pixels.
    """
    columns, rows = parameters["width"], parameters["height"]
    if parameters["fit"] == "stretch":
        return 0.0, 0.0, float(width), float(height)
    if parameters["fit"] == "crop":
        scale = parameters.get("crop_fraction", 1.0) * min(width / columns, height / rows)
        used = scale * columns, scale * rows
        return (width - used[0]) / 2, (height - used[1]) / 2, *used
    grow = min(columns / width, rows / height)
    inside = max(1, int(width * grow + 0.5)), max(1, int(height * grow + 0.5))
    margins = (columns - inside[0]) // 2, (rows - inside[1]) // 2
    cell = width / inside[0], height / inside[1]
    return -margins[0] * cell[0], -margins[1] * cell[1], columns * cell[0], rows * cell[1]
