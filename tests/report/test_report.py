from __future__ import annotations

import io
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from scenes import LABELS, QUESTION, answer, make_scenes

from mmedge.data.folder import Sample, read_split
from mmedge.evaluation import Evaluation, Predicted, evaluate, scored_pairs
from mmedge.report import write_report
from mmedge.report.charts import HEIGHT, LEFT, TOP, WIDTH, histogram, verification_plots
from mmedge.report.media import load_media
from mmedge.runtime.errors import DataError

MODALITIES = ["image", "audio", "text"]
VOID = {"meta", "img", "br", "input"}
TASKS: dict[str, dict[str, Any]] = {
    "classification": {},
    "multi_label": {"multi_label": True},
    "embedding": {"task": "embedding", "metric": "euclidean"},
    "vqa": {"task": "vqa"},
}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed where it was opened. Keeps elements, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [values[attribute] for name, values in self.elements if name == tag and attribute in values]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return read_split(make_scenes(tmp_path_factory.mktemp("scenes")), "validation", MODALITIES, LABELS)


@pytest.fixture(scope="module")
def evaluations(samples: list[Sample]) -> dict[str, Evaluation]:
    return {
        name: evaluate(answer, samples, MODALITIES, LABELS, group_by="note", **options)
        for name, options in TASKS.items()
    }


def page_of(evaluation: Evaluation, path: Path) -> Page:
    write_report(path, evaluation, title=LABELS[0], facts=[("data", LABELS[1])])
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("task", TASKS)
def test_a_page_needs_nothing_but_itself_and_shows_labels_as_text(
    task: str, evaluations: dict[str, Evaluation], tmp_path: Path
) -> None:
    page = page_of(evaluations[task], tmp_path / "report.html")
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "b", "i-", "iframe", "link", "object", "img"})
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value.startswith("data:"), f"<{tag} {name}> leads out of the page"
    assert "url(" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    (policy,) = [value for value in page.all("meta", "content") if "default-src" in value]
    assert "default-src 'none'" in policy
    assert all(label in page.text for label in LABELS)
    assert "<img src=x onerror=alert(2)>" in page.text  # a column, and a group
    for subset in evaluations[task].subsets:
        assert all(f"{value:.4f}" in page.text for value in subset.summary.values() if value is not None)
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_surest_errors_come_first_and_bring_their_data(evaluations: dict[str, Evaluation], tmp_path: Path) -> None:
    evaluation = evaluations["vqa"]
    page = page_of(evaluation, tmp_path / "report.html")
    outcomes = evaluation.subsets[-1].outcomes
    wrong = [outcome for outcome in outcomes if outcome.prediction.label != outcome.sample.label]
    assert 0 < len(wrong) < len(outcomes)
    surest = sorted((outcome.prediction.scores[str(outcome.prediction.label)] for outcome in wrong), reverse=True)
    found = re.findall(r"\((\d\.\d{3})\)\s*$", "\n".join(re.findall(r"found([^\n]*?\(\d\.\d{3}\))", page.text)), re.M)
    assert found[: len(wrong)] == [f"{score:.3f}" for score in surest]
    assert page.text.count(QUESTION) == len(page.all("audio", "src")) >= len(wrong)
    samples, rate = soundfile.read(io.BytesIO(b64decode(page.all("audio", "src")[0].split(",")[1])))
    assert (len(samples), rate) == (4000, 8000)


def test_a_region_without_a_box_is_shown_by_its_map(evaluations: dict[str, Evaluation], tmp_path: Path) -> None:
    last = evaluations["vqa"].subsets[-1]
    outcomes = [replace(outcome, region=(0.25, None)) for outcome in last.outcomes]
    evaluation = replace(evaluations["vqa"], subsets=[replace(last, outcomes=outcomes)])
    assert "map 0.25" in page_of(evaluation, tmp_path / "report.html").text


def test_no_error_means_no_gallery_of_errors(samples: list[Sample], tmp_path: Path) -> None:
    truth = iter(samples)
    perfect = evaluate(lambda inputs: Predicted(next(truth).label), samples, ["audio"], LABELS)
    text = page_of(perfect, tmp_path / "report.html").text
    assert "Surest errors" not in text
    assert "not every prediction has a probability for every label" in text


def test_an_undefined_error_rate_is_said_to_be_so(samples: list[Sample], tmp_path: Path) -> None:
    same = [sample for sample in samples if sample.label == LABELS[0]]
    evaluation = evaluate(answer, same, ["image"], [], task="embedding")
    assert evaluation.subsets[0].main.value is None
    text = page_of(evaluation, tmp_path / "report.html").text
    assert "The EER is undefined: no pair is of two labels." in text


def test_many_classes_become_a_list_of_what_is_confused_most(samples: list[Sample], tmp_path: Path) -> None:
    many = [*LABELS, *(f"class {number}" for number in range(200))]
    path = tmp_path / "report.html"
    page = page_of(evaluate(answer, samples, ["image"], many), path)
    assert "Confused most" in page.text
    assert "Confusion matrix" not in page.text
    assert "Of 203 classes the 100 with the lowest F1 are shown." in page.text
    assert path.stat().st_size < 1_000_000


def test_a_page_that_cannot_be_written_is_an_error_and_leaves_nothing(
    evaluations: dict[str, Evaluation], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="give a file in a folder that exists"):
        page_of(evaluations["classification"], tmp_path / "none" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataError, match="taken"):
        page_of(evaluations["classification"], tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_region_lies_over_the_frame_with_the_masks_outline(evaluations: dict[str, Evaluation]) -> None:
    outcome = evaluations["vqa"].subsets[-1].outcomes[0]
    image = load_media(outcome.sample, outcome.prediction.region, masked=True).image
    assert image is not None
    assert image.overlay is not None
    assert (image.width, image.height) == (60, 40)
    assert image.overlay.map is not None
    opacity = np.asarray(Image.open(io.BytesIO(b64decode(image.overlay.map.split(",")[1]))))[..., 3]
    region = outcome.prediction.region
    assert region is not None
    np.testing.assert_allclose(opacity, region.map * 180, atol=1)
    # Filled by the even-odd rule, the outline's edges give the mask again: a pixel is inside past an odd number.
    mask = outcome.sample.mask()
    assert mask is not None
    edges = np.zeros((40, 61), int)
    for x, y, length in re.findall(r"M(\d+) (\d+)v(\d+)", image.overlay.outline):
        edges[int(y) : int(y) + int(length), int(x)] += 1
    np.testing.assert_array_equal(edges.cumsum(axis=1)[:, :-1] % 2 == 1, mask)


def test_large_files_are_cut_down_and_long_ones_cut_off(tmp_path: Path) -> None:
    folder = tmp_path / "validation"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "large.png")
    soundfile.write(folder / "long.wav", np.zeros((100_000, 2)), 16000)
    row = '{"image_file_name": "large.png", "audio_file_name": "long.wav", "text": "%s", "label": "a"}' % (
        "word " * 999
    )
    (folder / "metadata.jsonl").write_text(row)
    media = load_media(read_split(tmp_path, "validation", MODALITIES)[0])
    assert media.image is not None
    assert media.audio is not None
    assert media.text is not None
    thumbnail = Image.open(io.BytesIO(b64decode(media.image.href.split(",")[1])))
    assert thumbnail.size == (160, 124)
    assert (media.image.width, media.image.height) == (900, 700)
    assert media.audio.seconds == 6.25
    assert media.audio.shown == 3.0
    assert len(media.audio.href) < 140_000
    assert len(media.text) < 700


def test_histograms_hold_every_value_once() -> None:
    values = np.random.default_rng(0).normal(size=500)
    plot = histogram("", "", {("one", "good"): values, ("none", "bad"): []})
    assert plot is not None
    (line,) = plot.lines
    assert line.label == "one (500)"
    # The area under the steps, in shares: each step is one bin wide.
    heights = []
    at = float(TOP + HEIGHT)
    for command, value in re.findall(r"([VH])([\d.]+)", line.path)[:-1]:
        if command == "V":
            at = float(value)
        else:
            heights.append(TOP + HEIGHT - at)
    expected = np.histogram(values, 30)[0]
    np.testing.assert_allclose(heights, expected / expected.max() * HEIGHT, atol=0.06)
    assert histogram("", "", {("none", "bad"): []}) is None


def test_the_mark_lies_on_both_curves(evaluations: dict[str, Evaluation]) -> None:
    evaluation = evaluations["embedding"]
    subset = evaluation["image",]
    pairs = scored_pairs(evaluation.task, subset.outcomes)
    for plot in verification_plots(pairs, subset.report.verification):  # type: ignore[union-attr]
        points = np.array([point.split() for point in plot.lines[0].path[1:].split("L")], float)
        assert plot.mark is not None
        assert LEFT < plot.mark[0] < LEFT + WIDTH
        starts, steps = points[:-1], np.diff(points, axis=0)
        along = ((plot.mark - starts) * steps).sum(axis=1) / (steps**2).sum(axis=1)
        nearest = starts + np.clip(along, 0, 1)[:, None] * steps
        # On normal deviates a straight piece of the ROC is a curve, drawn straight.
        assert np.linalg.norm(nearest - plot.mark, axis=1).min() < (0.1 if plot.title == "ROC" else 4)
