"""Sort-of-CLEVR: questions about six coloured shapes, half of them about relations between objects, in words and as
codes, each with the objects that decide its answer (Santoro et al. 2017, "A simple neural network module for relational
reasoning", 4.3).

As in the paper: 75 x 75 pixels, one object in each of six colours, square or circle, 10 non-relational and 10
relational questions per image, colours and types of question drawn uniformly, ten answers. Beyond it: no answer depends
on a tie (no object lies in the very middle, none is as close to or as far from another as a third), and no two objects
overlap.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmedge.data.making import SPLITS, MadeSet, Progress, check_not_negative, make_set

IMAGE_SIZE = 75
RADIUS = 5  # objects are 2 RADIUS + 1 pixels wide
COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "orange": (255, 156, 0),
    "gray": (128, 128, 128),
    "yellow": (255, 255, 0),
}
LABELS = ("yes", "no", "square", "circle", "1", "2", "3", "4", "5", "6")
QUESTIONS_PER_KIND = 10

# Kind of question -> its types, in the order of the code's last three numbers -> wordings.
WORDINGS = {
    "non_relational": {
        "shape": (
            "What is the shape of the {} object?",
            "Which shape does the {} object have?",
            "Is the {} object a square or a circle?",
        ),
        "left": (
            "Is the {} object on the left of the image?",
            "Is the {} object in the left half of the image?",
            "Does the {} object lie on the left side?",
        ),
        "top": (
            "Is the {} object at the top of the image?",
            "Is the {} object in the upper half of the image?",
            "Does the {} object lie above the middle?",
        ),
    },
    "relational": {
        "closest": (
            "What is the shape of the object that is closest to the {} object?",
            "Which shape does the object nearest to the {} object have?",
            "Is the closest neighbor of the {} object a square or a circle?",
        ),
        "furthest": (
            "What is the shape of the object that is furthest from the {} object?",
            "Which shape does the object most distant from the {} object have?",
            "Is the object furthest away from the {} object a square or a circle?",
        ),
        "count": (
            "How many objects have the shape of the {} object?",
            "How many objects have the same shape as the {} object, itself included?",
            "What is the number of objects of the {} object's shape?",
        ),
    },
}
_MIDDLE = IMAGE_SIZE // 2
_FORMAT = 1


@dataclass(frozen=True)
class Scene:
    """Six objects in the order of COLORS: `centers` int64 [6, 2], the pixels (x, y) at their centres; `squares`
    bool [6].
    """

    centers: NDArray[np.int64]
    squares: NDArray[np.bool_]

    def instances(self) -> NDArray[np.uint8]:
        """uint8 [75, 75]: 0 the background, i + 1 object i."""
        y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
        instances = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        for index, ((column, row), square) in enumerate(zip(self.centers, self.squares, strict=True)):
            dx, dy = np.abs(x - column), np.abs(y - row)
            inside = np.maximum(dx, dy) <= RADIUS if square else dx * dx + dy * dy <= (RADIUS + 0.5) ** 2
            instances[inside] = index + 1
        return instances


@dataclass(frozen=True)
class Question:
    """`color`, `type` and `wording` are indices into COLORS, a kind's types and a type's wordings."""

    kind: str
    color: int
    type: int
    wording: int

    @property
    def type_name(self) -> str:
        """The name of its type: shape, left, top, closest, furthest or count."""
        return tuple(WORDINGS[self.kind])[self.type]

    @property
    def text(self) -> str:
        """The question in words."""
        return WORDINGS[self.kind][self.type_name][self.wording].format(tuple(COLORS)[self.color])

    @property
    def code(self) -> list[int]:
        """The paper's 11 numbers: one of six for the colour, one of two for the kind (non-relational first), one of
        three for the type.
        """
        code = [0] * 11
        code[self.color] = 1
        code[6 + tuple(WORDINGS).index(self.kind)] = 1
        code[8 + self.type] = 1
        return code


def build(
    out: Path | str,
    *,
    seed: int = 0,
    train_images: int = 9800,
    validation_images: int = 200,
    test_images: int = 200,
    progress: Progress | None = None,
) -> MadeSet:
    """Write `train`, `validation` and `test`, each with its metadata.jsonl of 20 rows per image, and a README.md to
    `out`.

    A row: image_file_name; text, the question in words; question_code, as the paper codes it; kind; type; label, the
    answer; mask_file_name, the image's instance map (object i of COLORS has the value i + 1); mask_values, the objects
    that decide the answer. `progress(stage, done, total)` counts images. The same arguments give the same bytes.

    A set made earlier with the same arguments is kept, one made with others replaced; any other non-empty `out` raises
    DataError. InvalidArgument: a number is negative.
    """
    check_not_negative(
        seed=seed, train_images=train_images, validation_images=validation_images, test_images=test_images
    )
    arguments = {
        "format": _FORMAT,
        "seed": seed,
        "train_images": train_images,
        "validation_images": validation_images,
        "test_images": test_images,
    }
    report = progress or (lambda stage, done, total: None)

    def write(folder: Path) -> tuple[dict[str, int], list[str]]:
        readme = Path(__file__).with_name("sort_of_clevr_readme.md").read_text(encoding="utf-8")
        (folder / "README.md").write_text(readme.format(**arguments), encoding="utf-8")
        rows = {}
        for number, split in enumerate(SPLITS):
            scenes = draw_scenes(np.random.default_rng([seed, number, 0]), arguments[f"{split}_images"])
            questions = draw_questions(np.random.default_rng([seed, number, 1]), len(scenes))
            rows[split] = _write_split(folder / split, scenes, questions, report)
        return rows, []

    return make_set(out, "sort-of-clevr", arguments, write)


def draw_scenes(random: np.random.Generator, count: int) -> list[Scene]:
    """`count` scenes: positions uniform over those in which the objects lie inside the image, apart (their bounding
    boxes share no pixel) and free of ties; shapes uniform.
    """
    centers = np.empty((0, len(COLORS), 2), np.int64)
    while len(centers) < count:
        drawn = random.integers(RADIUS, IMAGE_SIZE - RADIUS, (4096, len(COLORS), 2))
        drawn = drawn[(drawn != _MIDDLE).all(axis=(1, 2))]
        offsets = np.abs(drawn[:, :, None] - drawn[:, None])
        itself = np.eye(len(COLORS), dtype=bool)
        drawn, offsets = (
            part[((offsets.max(axis=3) > 2 * RADIUS) | itself).all(axis=(1, 2))] for part in (drawn, offsets)
        )
        others = np.sort((offsets**2).sum(axis=3), axis=2)[:, :, 1:]
        decided = (others[:, :, 0] < others[:, :, 1]) & (others[:, :, -2] < others[:, :, -1])
        centers = np.concatenate([centers, drawn[decided.all(axis=1)]])
    squares = random.random((count, len(COLORS))) < 0.5
    return [Scene(*pair) for pair in zip(centers[:count], squares, strict=True)]


def draw_questions(random: np.random.Generator, images: int) -> list[list[Question]]:
    """Ten non-relational and ten relational questions per image: colour, type and wording uniform, repeats allowed, as
    the paper draws them.
    """
    bounds = [len(COLORS), 3, 3]
    drawn = random.integers(0, bounds, (images, len(WORDINGS), QUESTIONS_PER_KIND, 3))
    return [
        [Question(kind, *map(int, numbers)) for kind, part in zip(WORDINGS, image, strict=True) for numbers in part]
        for image in drawn
    ]


def answer(scene: Scene, question: Question) -> tuple[str, list[int]]:
    """The label, and the objects that decide it (indices into COLORS): the object found for closest and furthest, every
    object counted for count, the object asked about included, and else the object asked about.
    """
    asked = question.color
    x, y = scene.centers[asked]
    distances = ((scene.centers - scene.centers[asked]) ** 2).sum(axis=1)
    if question.type_name == "left":
        return _yes_no(x < _MIDDLE), [asked]
    if question.type_name == "top":
        return _yes_no(y < _MIDDLE), [asked]
    if question.type_name == "count":
        same = np.flatnonzero(scene.squares == scene.squares[asked])
        return str(len(same)), same.tolist()
    if question.type_name == "closest":
        distances[asked] = 2 * IMAGE_SIZE**2
        found = int(distances.argmin())
    else:
        found = int(distances.argmax()) if question.type_name == "furthest" else asked
    return "square" if scene.squares[found] else "circle", [found]


def _yes_no(yes: bool) -> str:
    return "yes" if yes else "no"


def _write_split(folder: Path, scenes: list[Scene], questions: list[list[Question]], report: Progress) -> int:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    palette = np.array([(255, 255, 255), *COLORS.values()], np.uint8)

    def write(number: int) -> None:
        instances = scenes[number].instances()
        Image.fromarray(palette[instances]).save(folder / f"images/{number:05}.png")
        Image.fromarray(instances).save(folder / f"masks/{number:05}.png")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(write, range(len(scenes))), start=1):
            report(folder.name, done, len(scenes))
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for row in _rows(scenes, questions):
            file.write(json.dumps(row) + "\n")
    return sum(map(len, questions))


def _rows(scenes: list[Scene], questions: list[list[Question]]) -> Iterator[dict[str, Any]]:
    for number, (scene, asked) in enumerate(zip(scenes, questions, strict=True)):
        for question in asked:
            label, deciding = answer(scene, question)
            yield {
                "image_file_name": f"images/{number:05}.png",
                "text": question.text,
                "question_code": question.code,
                "kind": question.kind,
                "type": question.type_name,
                "label": label,
                "mask_file_name": f"masks/{number:05}.png",
                "mask_values": [index + 1 for index in deciding],
            }
