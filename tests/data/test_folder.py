from __future__ import annotations

import json
import re
import wave
from pathlib import Path
from typing import Any

import make_bundles
import numpy as np
import pytest
import soundfile
from PIL import Image

from mmedge.data.folder import Sample, read_split, spread
from mmedge.runtime import Audio, Preprocessor
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


def numbered(folder: Path, rows: int) -> list[Sample]:
    write(folder, *({"label": "a", "text": str(number)} for number in range(rows)))
    return read_split(folder.parent, folder.name, ["text"])


def numbers_of(samples: list[Sample]) -> list[int]:
    return [int(sample.text or "") for sample in samples]


@pytest.mark.parametrize(("rows", "count"), [(399, 200), (15, 8), (8, 8), (3, 8), (1000, 3), (1, 1)])
def test_one_row_is_taken_of_each_of_as_many_parts(folder: Path, rows: int, count: int) -> None:
    numbers = numbers_of(spread(numbered(folder, rows), count))
    count = min(count, rows)
    parts = [range(number * rows // count, (number + 1) * rows // count) for number in range(count)]
    assert len(numbers) == count
    assert all(number in part for number, part in zip(numbers, parts, strict=True))


@pytest.mark.parametrize("count", range(1, 41))
def test_any_number_of_rows_is_taken_once_in_order_and_the_same_again(folder: Path, count: int) -> None:
    samples = numbered(folder, 40)
    numbers = numbers_of(spread(samples, count))
    assert len(numbers) == count
    assert numbers == sorted(set(numbers))
    assert numbers == numbers_of(spread(samples, count))


@pytest.mark.parametrize("kinds", [2, 3, 4, 10, 20])
def test_rows_that_come_in_a_round_of_kinds_are_not_all_of_one(folder: Path, kinds: int) -> None:
    # 200 of these are every 20th.
    numbers = numbers_of(spread(numbered(folder, 4000), 200))
    found = np.bincount([number % kinds for number in numbers], minlength=kinds)
    expected = 200 / kinds
    assert (np.abs(found - expected) < 4 * np.sqrt(expected)).all()  # four deviations of chance


@pytest.mark.parametrize("absent", [{}, {"audio_file_name": None}])
def test_a_row_may_lack_a_modality(folder: Path, absent: dict[str, None]) -> None:
    row = {"image_file_name": "a.png", "label": "dog", **absent}
    (sample,) = read_split(write(folder, row), "train", ["image", "audio"], LABELS)
    assert list(sample.files) == ["image"]


def test_files_of_modalities_not_asked_for_are_left_alone(folder: Path) -> None:
    row = {**GOOD, "audio_file_name": "missing.wav"}
    (sample,) = read_split(write(folder, row), "train", ["image"], LABELS)
    assert list(sample.load()) == ["image"]


def test_a_name_that_begins_with_two_dots_is_a_name(folder: Path) -> None:
    (folder / "a.png").rename(folder / "..a.png")
    (sample,) = read_split(write(folder, {**GOOD, "image_file_name": "..a.png"}), "train", ["image"], LABELS)
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
        13: "label 3 is not a string",
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


@pytest.mark.parametrize("value", [np.nan, -np.inf, 2e9])
def test_a_sample_that_the_runtime_refuses_is_named_by_file_and_number(folder: Path, value: float) -> None:
    samples = np.zeros(1600, np.float32)
    samples[[7, 9]] = value
    soundfile.write(folder / "b.wav", samples, 8000, subtype="FLOAT")
    shown = re.escape(f"{value:g}")
    with pytest.raises(DataError, match=f"audio: sample 7 is {shown}; expected a finite number within"):
        Preprocessor({**make_bundles.LOG_MEL, "samples": 1600})(Audio(samples, 8000))
    path = write(folder, GOOD, {**GOOD, "audio_file_name": "b.wav"})
    with pytest.raises(DataError, match=rf"line 2: \S+b\.wav: sample 7 is {shown}; expected a finite number within"):
        read_split(path, "train", ["image", "audio"])


@pytest.mark.parametrize(("rate", "good"), [(999, False), (1000, True), (768000, True), (768001, False)])
def test_a_clip_at_a_rate_that_the_runtime_refuses_is_named(folder: Path, rate: int, good: bool) -> None:
    soundfile.write(folder / "b.wav", np.zeros(1000), rate)
    root = write(folder, GOOD, {**GOOD, "audio_file_name": "b.wav"})
    if good:
        sample = read_split(root, "train", ["audio"])[1]
        waveform = {"type": "waveform", "sample_rate": 16000, "samples": 0, "normalize": "none"}
        assert Preprocessor(waveform)(sample.load()["audio"]).size > 0
    else:
        with pytest.raises(DataError, match=rf"line 2: .*b\.wav: found a sample rate of {rate} Hz; expected 1000 to"):
            read_split(root, "train", ["audio"])


def test_a_missing_split_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation.metadata\.jsonl.*folder per split"):
        read_split(tmp_path, "validation", ["image"])


def test_an_empty_split_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read_split(write(folder, ""), "train", ["image"])


# Text, several labels, masks


def test_text_is_a_modality_of_the_row_itself(folder: Path) -> None:
    question = "¿cuál es más grande? 🤔"
    (sample,) = read_split(write(folder, {**GOOD, "text": question}), "train", ["text", "image"])
    assert (sample.text, sample.modalities, list(sample.files)) == (question, ("text", "image"), ["image"])
    inputs = sample.load()
    assert list(inputs) == ["text", "image"]
    assert inputs["text"] == question


def test_an_empty_text_is_there_and_one_left_out_is_not(folder: Path) -> None:
    rows = {**GOOD, "text": ""}, {**GOOD, "text": None}, GOOD
    empty, *absent = read_split(write(folder, *rows), "train", ["image", "text"])
    assert empty.load()["text"] == ""
    assert [sample.modalities for sample in absent] == [("image",), ("image",)]


def test_text_not_asked_for_is_left_alone(folder: Path) -> None:
    (sample,) = read_split(write(folder, {**GOOD, "text": 7}), "train", ["image"])
    assert (sample.text, sample.columns) == (None, {"speaker": "ann"})


def test_a_row_may_have_any_number_of_labels(folder: Path) -> None:
    rows = [{"image_file_name": "a.png", "labels": labels} for labels in (["dog", "cat"], ["cat"], [])]
    two, one, none = read_split(write(folder, *rows), "train", ["image"], LABELS)
    assert [sample.labels for sample in (two, one, none)] == [("dog", "cat"), ("cat",), ()]
    assert two.label == "dog"
    with pytest.raises(DataError, match=r"line 3 .* no label"):
        _ = none.label


@pytest.fixture
def masked(folder: Path) -> dict[str, Any]:
    """A row whose mask has the instances 0, 1, 2 and 7."""
    Image.fromarray(np.repeat(np.array([0, 1, 2, 7], np.uint8), 16).reshape(8, 8)).save(folder / "mask.png")
    return {"image_file_name": "a.png", "label": "cat", "mask_file_name": "mask.png"}


def test_a_mask_is_every_instance_or_those_named(folder: Path, masked: dict[str, Any]) -> None:
    rows = masked, {**masked, "mask_values": [1, 7, 9]}, GOOD
    every, named, none = read_split(write(folder, *rows), "train", ["image"])
    top_to_bottom = np.repeat([False, True, True, True], 16).reshape(8, 8)
    np.testing.assert_array_equal(every.mask(), top_to_bottom)
    top_to_bottom[4:6] = False
    np.testing.assert_array_equal(named.mask(), top_to_bottom)
    assert none.mask() is None


def test_of_a_mask_with_a_palette_the_index_counts(folder: Path, masked: dict[str, Any]) -> None:
    with Image.open(folder / "mask.png") as mask:
        mask.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 0] + [9] * 15)
        mask.save(folder / "mask.png")
    (sample,) = read_split(write(folder, {**masked, "mask_values": [2]}), "train", ["image"])
    assert (sample.mask() == np.repeat([False, False, True, False], 16).reshape(8, 8)).all()


def test_masks_are_left_alone_without_their_image(folder: Path) -> None:
    row = {**GOOD, "mask_file_name": "missing.png", "mask_values": "all"}
    (sample,) = read_split(write(folder, row), "train", ["audio"])
    assert sample.mask() is None


def test_bad_text_labels_and_masks_are_listed_with_their_line_numbers(folder: Path, masked: dict[str, Any]) -> None:
    Image.new("L", (8, 4), 1).save(folder / "small.png")
    Image.new("RGB", (8, 8)).save(folder / "colour.png")
    Image.new("L", (8, 8)).save(folder / "mask.jpg")
    rows = {
        "text 7 is not a string": {**GOOD, "text": 7},
        "found the lone surrogate '\\ud83e'; expected characters": b'{"label": "cat", "text": "\\ud83e"}',
        "both label and labels": {**GOOD, "labels": ["cat"]},
        "labels 'cat' is not a list of strings": {"image_file_name": "a.png", "labels": "cat"},
        "labels ['cat', 3] is not a list of strings": {"image_file_name": "a.png", "labels": ["cat", 3]},
        "labels ['cat', 'cat'] has a label twice": {"image_file_name": "a.png", "labels": ["cat", "cat"]},
        "unknown label 'mouse'; expected one of cat, dog": {"image_file_name": "a.png", "labels": ["dog", "mouse"]},
        "small.png: found 8 x 4 pixels; expected the image's 8 x 8": {**masked, "mask_file_name": "small.png"},
        "colour.png: found pixels of mode RGB; expected a mask of 8 bits": {**masked, "mask_file_name": "colour.png"},
        "mask.jpg: not a readable PNG": {**masked, "mask_file_name": "mask.jpg"},
        "mask_file_name 'gone.png': no such file": {**masked, "mask_file_name": "gone.png"},
        "mask.png: none of the mask_values [3, 9] occurs; found 1, 2, 7": {**masked, "mask_values": [3, 9]},
        "mask_values [] is not a list": {**masked, "mask_values": []},
        "mask_values [0, 1] is not a list of integers from 1 to 255": {**masked, "mask_values": [0, 1]},
        "mask_values [True] is not a list": {**masked, "mask_values": [True]},
        "mask_values without a mask_file_name": {**GOOD, "mask_values": [1]},
        "mask_file_name without an image_file_name": {**masked, "image_file_name": None, "text": "where?"},
        "not JSON": "[" * 100_000,
    }
    with pytest.raises(DataError) as caught:
        read_split(write(folder, *rows.values()), "train", ["image", "text"], LABELS)
    first, *found = str(caught.value).splitlines()
    assert f"{len(rows)} bad rows" in first
    assert len(found) == len(rows)
    for number, (expected, line) in enumerate(zip(rows, found, strict=True), start=1):
        assert line.startswith(f"  line {number}: ")
        assert expected in line


def test_a_mask_is_judged_against_the_image_as_it_is_shown(folder: Path, masked: dict[str, Any]) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 4)).save(folder / "a.jpg", exif=turned)
    Image.new("L", (4, 8), 1).save(folder / "mask.png")
    (sample,) = read_split(write(folder, {**masked, "image_file_name": "a.jpg"}), "train", ["image"])
    mask = sample.mask()
    assert mask is not None
    assert mask.shape == sample.load()["image"].shape[:2]


def test_each_distinct_file_is_decoded_once(
    folder: Path, masked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = Image.open

    def count(file: Any, *rest: Any, **more: Any) -> Any:
        opened.append(Path(file).name)
        return real(file, *rest, **more)

    monkeypatch.setattr(Image, "open", count)
    read_split(write(folder, *[masked] * 50), "train", ["image"])
    assert sorted(opened) == ["a.png", "mask.png"]


def test_a_byte_order_mark_is_no_part_of_the_first_row(folder: Path) -> None:
    root = write(folder, b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(read_split(root, "train", ["image"])) == 1
