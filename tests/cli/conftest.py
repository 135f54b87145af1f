from __future__ import annotations

from pathlib import Path

import make_bundles
import pytest


@pytest.fixture
def one_input_embedding(tmp_path: Path) -> Path:
    """Of one frame of 2 x 2: its levels."""
    from onnx import helper

    image = {**make_bundles.LEVELS, "width": 2, "height": 2}
    nodes = [helper.make_node("Flatten", ["image"], ["embedding"])]
    model = make_bundles.hand_made(nodes, {"image": [1, 2, 2]}, {"embedding": [4]}, {})
    parts = {
        "task": "embedding",
        "metric": "euclidean",
        "inputs": [("image", "image", [1, 2, 2], image)],
        "outputs": [("embedding", "embedding", [4])],
        "labels": [],
    }
    make_bundles.write_hand_made(tmp_path / "levels.mme", model, parts)
    return tmp_path / "levels.mme"
