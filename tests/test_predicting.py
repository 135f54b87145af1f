from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mmedge.predicting import bundle_predictor
from mmedge.runtime import Audio

FRAME = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
CLIP = Audio(np.random.default_rng(1).normal(0, 0.1, 9000).astype(np.float32), 8000)


def test_a_predictors_threads_run_the_one_model_that_the_first_opened(digits_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(digits_bundle, tmp_path / "copy.mme"))
    predict, modalities, _ = bundle_predictor(bundle)
    assert modalities == ["image", "audio"]
    expected = predict({"image": FRAME, "audio": CLIP}).scores
    shutil.rmtree(bundle)
    together = threading.Barrier(4)

    def work(_: int) -> list[object]:
        together.wait()
        return [predict({"image": FRAME, "audio": CLIP}).scores for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [[expected] * 10] * 4
