"""A bundle as a function from decoded inputs to a prediction, for `mmedge.evaluation.evaluate`."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmedge.evaluation import Predict, Prediction
from mmedge.runtime import Session
from mmedge.runtime.errors import InvalidArgument
from mmedge.runtime.manifest import read_manifest


def bundle_predictor(bundle: Path) -> tuple[Predict, list[str], dict[str, Any]]:
    """The function, the modalities, and the options of `evaluate` that the manifest tells.

    The function may be called from several threads: the first call opens the model, and each thread gets a session of
    its own on that one model. The options ask for as many threads as there are processors.

    Raises:
        BundleError: there is no such bundle.
        InvalidArgument: two of its inputs are of one modality, of which a row of data holds one.
    """
    manifest = read_manifest(bundle)
    names: dict[str, str] = {entry.modality: entry.name for entry in manifest.inputs}
    if len(names) < len(manifest.inputs):
        inputs = ", ".join(f"{entry.name} ({entry.modality})" for entry in manifest.inputs)
        raise InvalidArgument(f"{manifest.name} has the inputs {inputs}; a row of data holds one of each modality")
    own, opening = threading.local(), threading.Lock()
    opened: list[Session] = []

    def predict(inputs: Mapping[str, Any]) -> Prediction:
        if not hasattr(own, "session"):
            with opening:
                if not opened:
                    opened.append(Session(bundle))
                own.session = opened[0].another()
        found: Prediction = own.session.run(**{names[modality]: value for modality, value in inputs.items()})
        return found

    options = {
        "task": manifest.task,
        "multi_label": manifest.multi_label,
        "metric": manifest.metric or "cosine",
        "threads": len(os.sched_getaffinity(0)),
    }
    return predict, list(names), options
