from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmedge.data.folder import read_split
from mmedge.runtime.errors import DataError

LABELS = ("cat", "dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    split = tmp_path / "train"
    split.mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(split / "a.png")
    with wave.open(str(split / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.arange(100, dtype="<i2").tobytes())
    return split


def write(split: Path, *rows: dict[str, Any] | str | bytes) -> Path:
    lines = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
    (split / "metadata.jsonl").write_bytes(
        b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n"
    )
    return split.parent


GOOD = {"image_file_name": "a.png", "audio_file_name": "a.wav", "label": "cat", "speaker": "ann"}


def test_a_row_gives_its_files_label_and_other_columns(folder: Path) -> None:
    (sample,) = read_split(write(folder, GOOD), "train", ["image", "audio"], LABELS)
    assert sample.files == {"image": folder / "a.png", "audio": folder / "a.wav"}
    assert (sample.label, sample.columns, sample.line) == ("cat", {"speaker": "ann"}, 1)
    inputs = sample.load()
    np.testing.assert_array_equal(inputs["image"], np.arange(64, dtype=np.uint8).reshape(8, 8))
    np.testing.assert_array_equal(inputs["audio"].samples * 32768, np.arange(100))
    assert inputs["audio"].sample_rate == 8000


@pytest.mark.parametrize("absent", [{}, {"audio_file_name": None}])
def test_a_row_may_lack_a_modality(folder: Path, absent: dict[str, None]) -> None:
    row = {"image_file_name": "a.png", "label": "dog", **absent}
    (sample,) = read_split(write(folder, row), "train", ["image", "audio"], LABELS)
    assert list(sample.files) == ["image"]


def test_files_of_modalities_not_asked_for_are_left_alone(folder: Path) -> None:
    row = {**GOOD, "audio_file_name": "missing.wav"}
    (sample,) = read_split(write(folder, row), "train", ["image"], LABELS)
    assert list(sample.load()) == ["image"]


def test_all_bad_rows_are_listed_at_once_with_their_line_numbers(folder: Path) -> None:
    whole = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) * 6 // 10])
    (folder / "text.wav").write_text("hello")
    root = write(
        folder,
        GOOD,
        "{not json",
        "",
        {**GOOD, "image_file_name": "gone.png"},
        {**GOOD, "image_file_name": "cut.png"},
        {**GOOD, "audio_file_name": "text.wav"},
        {**GOOD, "label": "mouse"},
        {"label": "cat"},
        {**GOOD, "image_file_name": "../train/a.png"},
        {**GOOD, "audio_file_name": "/etc/hostname"},
        "[1, 2]",
        {"image_file_name": "a.png"},
        {**GOOD, "label": 3},
        b'{"label": "\xff"}',
        {**GOOD, "image_file_name": 7},
    )
    with pytest.raises(DataError) as caught:
        read_split(root, "train", ["image", "audio"], LABELS)
    lines = str(caught.value).splitlines()
    assert str(folder / "metadata.jsonl") in lines[0]
    assert "13 bad rows" in lines[0]
    expected = {
        2: "not JSON",
        4: "image_file_name 'gone.png': no such file",
        5: "cut.png",
        6: "text.wav",
        7: "unknown label 'mouse'; expected one of cat, dog",
        8: "no modality",
        9: "outside the folder",
        10: "outside the folder",
        11: "expected a JSON object",
        12: "no label",
        13: "label 3 is not a text",
        14: "not JSON",
        15: "expected a relative path",
    }
    found = dict(line.strip().split(": ", 1) for line in lines[1:])
    assert list(found) == [f"line {number}" for number in expected]
    for number, text in expected.items():
        assert text in found[f"line {number}"]


def test_a_file_shared_by_bad_rows_is_reported_for_each(folder: Path) -> None:
    (folder / "empty.wav").write_bytes(b"")
    bad = {**GOOD, "audio_file_name": "empty.wav"}
    with pytest.raises(DataError, match=r"(?s)line 1: .*line 3: "):
        read_split(write(folder, bad, GOOD, bad), "train", ["image", "audio"])


def test_a_missing_split_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation.metadata\.jsonl.*folder per split"):
        read_split(tmp_path, "validation", ["image"])


def test_an_empty_split_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read_split(write(folder, ""), "train", ["image"])
