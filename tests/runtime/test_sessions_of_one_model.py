from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from mmedge.runtime import Audio, Session
from mmedge.runtime.errors import InvalidArgument

FRAME = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
CLIP = Audio(np.random.default_rng(1).normal(0, 0.1, 9000).astype(np.float32), 8000)


def test_they_agree_in_threads_and_outlive_the_first(digits_bundle: Path) -> None:
    expected = Session(digits_bundle, top_k=2).run(image=FRAME, audio=CLIP).scores
    first = Session(digits_bundle, top_k=2)
    others = [first.another(), first.another().another()]
    found: list[bool] = []

    def work(session: Session) -> None:
        found.extend(session.run(image=FRAME, audio=CLIP).scores == expected for _ in range(30))

    def work_in_threads(sessions: list[Session]) -> None:
        threads = [threading.Thread(target=work, args=[session]) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    work_in_threads([first, *others])
    del first
    gc.collect()
    work_in_threads([*others, others[0].another()])
    assert found == [True] * 180


def test_one_is_made_while_another_runs(digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    expected = session.run(image=FRAME, audio=CLIP).scores
    found: list[bool] = []

    def work() -> None:
        found.extend(session.run(image=FRAME, audio=CLIP).scores == expected for _ in range(100))

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        assert session.another().run(image=FRAME, audio=CLIP).scores == expected
    thread.join()
    assert found == [True] * 100


def test_they_share_no_input_and_no_result_and_need_no_file(digits_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits_bundle, tmp_path / "copy.mme"))
    session = Session(copy)
    shutil.rmtree(copy)
    other = session.another()
    session.push_audio("audio", CLIP)
    with pytest.raises(InvalidArgument, match="every input is absent"):
        other.run()
    seen = session.run(image=FRAME, copy=False)
    before = seen.outputs["logits"].copy()
    assert not np.allclose(other.run(image=FRAME).outputs["logits"], before)
    np.testing.assert_array_equal(seen.outputs["logits"], before)
