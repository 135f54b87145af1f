from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmedge.data.folder import read_split
from mmedge.data.making import MadeSet
from mmedge.data.sort_of_clevr import COLORS, LABELS, WORDINGS, build, draw_questions, draw_scenes
from mmedge.runtime.errors import DataError, InvalidArgument

SMALL = {"train_images": 40, "validation_images": 3, "test_images": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeSet:
    return build(tmp_path_factory.mktemp("clevr") / "set", **SMALL)


def rows(made: MadeSet, split: str) -> list[dict[str, Any]]:
    lines = (made.path / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.size == (75, 75)
        return np.asarray(image)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def seen(image: np.ndarray) -> dict[str, tuple[float, float, str]]:
    """Colour -> centre (x, y) and shape, as the picture itself shows them: a square fills its bounding box."""
    objects = {}
    for name, color in COLORS.items():
        y, x = np.nonzero((image == color).all(axis=2))
        box = (x.max() - x.min() + 1) * (y.max() - y.min() + 1)
        assert box == 121
        objects[name] = (x.mean(), y.mean(), "square" if len(x) == box else "circle")
    return objects


def expected(objects: dict[str, tuple[float, float, str]], text: str) -> tuple[str, set[str]]:
    """The answer to a question in words and the colours that decide it, from the words alone."""
    (asked,) = [color for color in COLORS if re.search(rf"\b{color}\b", text)]
    x, y, shape = objects[asked]
    if re.search(r"\b(left)\b", text):
        return "yes" if x < 37 else "no", {asked}
    if re.search(r"\b(top|upper|above)\b", text):
        return "yes" if y < 37 else "no", {asked}
    if re.search(r"^(How many|What is the number)", text):
        same = {color for color, (_, _, other) in objects.items() if other == shape}
        return str(len(same)), same
    far = re.search(r"\b(furthest|distant)\b", text)
    if far or re.search(r"\b(closest|nearest)\b", text):
        others = [color for color in COLORS if color != asked]
        distances = {color: np.hypot(objects[color][0] - x, objects[color][1] - y) for color in others}
        asked = (max if far else min)(distances, key=distances.__getitem__)
    return objects[asked][2], {asked}


def test_every_answer_and_its_region_follow_from_picture_and_words(made: MadeSet) -> None:
    types = Counter()
    for split in made.rows:
        for row in rows(made, split):
            image = pixels(made.path / split / row["image_file_name"])
            mask = np.isin(pixels(made.path / split / row["mask_file_name"]), row["mask_values"])
            label, deciding = expected(seen(image), row["text"])
            assert row["label"] == label, row
            shown = {color for color, rgb in COLORS.items() if ((image == rgb).all(axis=2) & mask).any()}
            assert shown == deciding, row
            assert mask.sum() == sum((image == COLORS[color]).all(axis=2).sum() for color in deciding)
            types[row["type"]] += 1
    assert types.keys() == {name for kind in WORDINGS.values() for name in kind}


def test_codes_say_what_the_words_say(made: MadeSet) -> None:
    for row in rows(made, "train"):
        code = row["question_code"]
        color, kind, type_ = code[:6].index(1), code[6:8].index(1), code[8:].index(1)
        assert len(code) == 11
        assert sum(code) == 3
        assert re.search(rf"\b{list(COLORS)[color]}\b", row["text"])
        assert row["kind"] == list(WORDINGS)[kind]
        assert row["type"] == list(WORDINGS[row["kind"]])[type_]


def test_an_image_has_ten_questions_of_each_kind(made: MadeSet) -> None:
    assert made.rows == {"train": 800, "validation": 60, "test": 60}
    for split in made.rows:
        counts = Counter((row["image_file_name"], row["kind"]) for row in rows(made, split))
        assert set(counts.values()) == {10}


def test_colours_types_and_wordings_are_uniform() -> None:
    questions = [question for image in draw_questions(np.random.default_rng(0), 600) for question in image]
    counts = Counter((question.kind, question.type, question.color, question.wording) for question in questions)
    assert len(counts) == 2 * 3 * 6 * 3
    expected = len(questions) / len(counts)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 160  # 107 degrees of freedom: exceeded once in a thousand


def test_scenes_have_no_ties_and_no_overlap() -> None:
    for scene in draw_scenes(np.random.default_rng(0), 500):
        instances = scene.instances()
        assert [int((instances == index + 1).sum()) for index in range(6)] == [121 if s else 97 for s in scene.squares]
        assert not (scene.centers == 37).any()
        for center in scene.centers:
            distances = sorted(np.hypot(*(scene.centers - center).T))
            assert distances[1] < distances[2] - 1e-9
            assert distances[-2] < distances[-1] - 1e-9


def test_the_folder_reader_takes_every_row_with_its_question_and_region(made: MadeSet) -> None:
    for split, count in made.rows.items():
        found = read_split(made.path, split, ["image", "text"], LABELS)
        assert len(found) == count
        for sample, row in list(zip(found, rows(made, split), strict=True))[:40]:
            assert (sample.text, sample.label) == (row["text"], row["label"])
            assert sample.mask().sum() in {sum(sizes) for sizes in _sizes(row["label"], len(row["mask_values"]))}


def _sizes(label: str, objects: int) -> list[list[int]]:
    """The possible pixel counts of the deciding objects: 121 of a square, 97 of a circle."""
    sizes = {"square": [121], "circle": [97]}.get(label, [121, 97])
    return [[size] * objects for size in sizes]


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path: Path, made: MadeSet) -> None:
    assert files(build(tmp_path / "again", **SMALL).path) == files(made.path)
    other = files(build(tmp_path / "other", seed=1, **SMALL).path)
    assert other["train/images/00000.png"] != files(made.path)["train/images/00000.png"]


def test_no_picture_is_in_two_splits(made: MadeSet) -> None:
    pictures = [path.read_bytes() for path in made.path.glob("*/images/*.png")]
    assert len(set(pictures)) == len(pictures) == 46


def test_a_set_is_kept_replaced_or_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "set"
    first = build(out, **SMALL)
    written = (out / "README.md").stat().st_mtime_ns
    again = build(out, **SMALL)
    assert (again.reused, again.rows) == (True, first.rows)
    assert (out / "README.md").stat().st_mtime_ns == written
    assert not build(out, seed=1, **SMALL).reused
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="left as it is"):
        build(out, **SMALL)
    assert (out / "notes.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["seed", "train_images"])
def test_negative_numbers_are_refused_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{name} is -1; expected a number from 0 on"):
        build(tmp_path / "set", **SMALL | {name: -1})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind_when_a_build_is_broken_off(tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "set", **SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []
