"""What a run finds for each task, on bundles whose results can be told from their inputs; see make_bundles.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import make_bundles
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage
from tokenizers import Tokenizer

from mmedge.runtime import Image, Manifest, Session, read_manifest
from mmedge.runtime.errors import InvalidArgument

WHITE = np.full((60, 80), 255, np.uint8)


def test_a_multi_label_result_has_a_probability_per_label_and_those_that_apply(bundles: Path) -> None:
    session = Session(bundles / "multilabel.mme")
    result = session.run(image=np.array([[[255, 204, 0]]], np.uint8))
    logits = 8 * np.array([1, 0.8, 0]) - 4
    expected = dict(zip(make_bundles.COLORS, 1 / (1 + np.exp(-logits)), strict=True))
    assert result.scores == pytest.approx(expected, abs=1e-6)
    assert result.labels == ("red", "green")
    assert (result.label, result.score) == ("red", pytest.approx(expected["red"]))
    assert result.embedding is None
    assert result.region is None
    assert result.input_weights is None
    assert session.run(image=np.zeros((1, 1, 3), np.uint8)).labels == ()


def test_a_session_reads_text_with_the_tokenizer_in_its_bundle(bundles: Path) -> None:
    session, text = Session(bundles / "words.mme"), "Is the RED circle left?"
    ids = Tokenizer.from_file(str(bundles / "words.mme/tokenizer.json")).encode(text).ids
    (rows,) = (
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(bundles / "words.mme/model.onnx").graph.initializer
        if tensor.name == "rows"
    )
    logits = rows[ids + [0] * (make_bundles.TEXT["max_length"] - len(ids))].mean(axis=0)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    scores = session.run(text=text).scores
    assert scores == pytest.approx(dict(zip("abc", probabilities, strict=True)), abs=1e-6)
    assert session.run(text="blue squares").scores != scores


def test_a_result_without_labels_has_none(digits_bundle: Path, bundles: Path) -> None:
    pixels = np.array([[51, 102], [153, 204]], np.uint8)
    session = Session(bundles / "embedding.mme")
    result = session.run(front=pixels)
    assert (result.label, result.score, result.scores, result.labels) == (None, None, {}, None)
    assert result.embedding is not None
    raw = np.array([0.2, 0.4, 0.6, 0.8, 0, 0, 0, 0])
    np.testing.assert_allclose(result.embedding, raw / np.linalg.norm(raw), atol=1e-6)
    np.testing.assert_allclose(result.outputs["embedding"], raw, atol=1e-6)
    assert result.input_weights == {"front": 1, "back": 0}
    assert session.run(front=pixels, back=pixels).input_weights == {"front": 0.5, "back": 0.5}
    with pytest.raises(InvalidArgument, match="top_k is 1; expected at most the model's 0"):
        Session(bundles / "embedding.mme", top_k=1)
    assert Session(digits_bundle).run(image=WHITE).labels is None


def test_an_embedding_may_be_a_view_of_the_sessions_memory(bundles: Path) -> None:
    session = Session(bundles / "embedding.mme")
    first = np.array([[9, 0], [0, 0]], np.uint8)
    kept = session.run(front=first).embedding
    view = session.run(front=first, copy=False).embedding
    assert kept is not None
    assert view is not None
    np.testing.assert_array_equal(view, kept)
    assert not view.flags.writeable
    session.run(front=first[::-1].copy())
    assert view[2] == 1
    assert kept[0] == 1


def reference_box(relevance: npt.NDArray[np.float32], threshold: float) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom in cells, with scipy's components and crossings found on the line between cells."""
    labels, _ = ndimage.label(relevance >= threshold, np.ones((3, 3)))
    component = labels == labels[np.unravel_index(relevance.argmax(), relevance.shape)]
    if relevance.max() < threshold:
        return None

    def ends(values: npt.NDArray[np.float64], inside: npt.NDArray[np.bool_]) -> tuple[float, float]:
        """Along axis 1."""
        lows, highs = [], []
        for line, mask in zip(values, inside, strict=True):
            for cell in np.flatnonzero(mask):
                for step, found in ((-1, lows), (1, highs)):
                    edge = cell + 0.5 + step / 2
                    if 0 <= cell + step < len(line):
                        if line[cell + step] >= threshold:
                            continue
                        edge = cell + 0.5 + step * np.interp(-threshold, [-line[cell], -line[cell + step]], [0.0, 1.0])
                    found.append(edge)
        low, high = min(lows), max(highs)
        if low >= high:
            cells = np.flatnonzero(inside.any(axis=0))
            return float(cells[0]), float(cells[-1] + 1)
        return low, high

    exact = relevance.astype(float)
    (left, right), (top, bottom) = ends(exact, component), ends(exact.T, component.T)
    return left, top, right, bottom


@pytest.fixture(scope="module")
def vqa(bundles: Path) -> Session:
    return Session(bundles / "vqa.mme")


@settings(max_examples=200, deadline=None)
@given(cells=st.lists(st.sampled_from([0, 60, 127, 128, 200, 255]), min_size=48, max_size=48), scale=st.integers(1, 3))
def test_a_regions_box_is_around_the_component_of_the_largest_cell(vqa: Session, cells: list[int], scale: int) -> None:
    # Of 8 x 6 pixels, or of so many squares of one level each, the preprocessed picture is the frame itself.
    pixels = np.array(cells, np.uint8).reshape(6, 8)
    frame = np.kron(pixels, np.ones((scale, scale), np.uint8))
    result = vqa.run(image=frame)
    region = result.region
    assert region is not None
    np.testing.assert_array_equal(region.map, result.outputs["relevance"])
    assert region.map_box == (0, 0, 8 * scale, 6 * scale)
    assert region.score == region.map.max()
    expected = reference_box(region.map, 0.5)
    if expected is None:
        assert region.box is None
        return
    assert region.box is not None
    left, top, right, bottom = (scale * edge for edge in expected)
    assert region.box == pytest.approx((left, top, right - left, bottom - top), abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
def test_an_edge_within_a_cell_is_found_to_a_tenth_of_a_cell(vqa: Session, share: float) -> None:
    # Cells 2 to 4 of rows 1 to 3 are covered, and a share of cell 5.
    pixels = np.zeros((6, 8))
    pixels[1:4, 2:5] = 1
    pixels[1:4, 5] = share
    region = vqa.run(image=np.round(pixels * 255).astype(np.uint8)).region
    assert region is not None
    assert region.box == pytest.approx((2, 1, 3 + share, 3), abs=0.1)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_region_lies_in_the_upright_frame(vqa: Session, rotation: int, mirror: bool) -> None:
    upright = np.zeros((66, 75), np.uint8)  # of another aspect than the map: letterboxed
    upright[10:31, 40:66] = 255
    stored = np.rot90(upright[:, ::-1] if mirror else upright, rotation // 90)
    region = vqa.run(image=Image(np.ascontiguousarray(stored), rotation=rotation, mirror=mirror)).region
    assert region is not None
    assert region.box is not None
    x, y, width, height = region.box
    assert (x, y, x + width, y + height) == pytest.approx((40, 10, 66, 31), abs=3.0)  # a third of a cell
    assert region.map_box == pytest.approx((0, 0, 75 / 7 * 8, 66))  # 7 of 8 columns, and 6 rows


@pytest.mark.parametrize(("height", "width"), [(60, 160), (160, 60), (6, 8), (35, 49)])
def test_the_map_lies_over_what_preprocessing_took_of_the_frame(
    bundles: Path, tmp_path: Path, height: int, width: int
) -> None:
    for fit, options in (("stretch", {}), ("letterbox", {}), ("crop", {"crop_fraction": 0.5})):
        model, parts = make_bundles.vqa_graph()
        name, modality, shape, preprocess = parts["inputs"][0]
        parts["inputs"][0] = (name, modality, shape, {**preprocess, "fit": fit, **options})
        make_bundles.write_hand_made(tmp_path / f"{fit}.mme", model, parts)
        frame = np.full((height, width), 255, np.uint8)
        region = Session(tmp_path / f"{fit}.mme").run(image=frame).region
        assert region is not None
        assert region.box is not None
        x, y, w, h = region.map_box
        assert (x + w / 2, y + h / 2) == pytest.approx((width / 2, height / 2), abs=max(height, width) / 12 + 0.01)
        if fit == "stretch":
            assert region.map_box == (0, 0, width, height)
            assert region.box == (0, 0, width, height)
        elif fit == "crop":  # half of the largest part of the map's aspect
            side = min(width / 8, height / 6) / 2
            assert region.map_box == pytest.approx((width / 2 - 4 * side, height / 2 - 3 * side, 8 * side, 6 * side))
            assert region.box == pytest.approx(region.map_box)
        else:
            assert x <= 0
            assert y <= 0
            assert region.box == pytest.approx((0, 0, width, height), abs=max(height, width) / 8)
            left, top, box_width, box_height = region.box
            assert min(left, top) >= 0
            assert left + box_width <= width
            assert top + box_height <= height


def test_the_threshold_of_a_region_is_the_manifests(bundles: Path, tmp_path: Path) -> None:
    model, parts = make_bundles.vqa_graph()
    make_bundles.write_hand_made(tmp_path / "low.mme", model, {**parts, "region_threshold": 0.25})
    dim = np.full((6, 8), 100, np.uint8)
    found = Session(tmp_path / "low.mme").run(image=dim).region
    assert found is not None
    assert found.threshold == 0.25
    assert found.box == (0, 0, 8, 6)
    default = Session(bundles / "vqa.mme").run(image=dim).region
    assert default is not None
    assert default.box is None


def test_an_answer_without_a_frame_has_no_region(vqa: Session) -> None:
    result = vqa.run(tensors={"image": np.full((1, 6, 8), 0.75, np.float32)})
    assert result.label in make_bundles.ANSWERS
    assert result.region is None


def test_a_result_as_json_holds_what_its_task_has(bundles: Path, vqa: Session) -> None:
    answer = json.loads(json.dumps(vqa.run(image=WHITE).to_dict(), allow_nan=False))
    assert list(answer) == ["label", "score", "scores", "region", "timings_us"]
    assert answer["region"]["box"] == [0, 0, 80, 60]
    assert np.array(answer["region"]["map"]).shape == (6, 8)
    embedded = Session(bundles / "embedding.mme").run(front=WHITE).to_dict()
    assert list(embedded) == ["embedding", "input_weights", "timings_us"]
    labelled = Session(bundles / "multilabel.mme").run(image=np.full((4, 4, 3), 255, np.uint8)).to_dict()
    assert list(labelled) == ["label", "score", "scores", "labels", "timings_us"]
    assert labelled["labels"] == make_bundles.COLORS


def test_text_is_refused_where_no_text_is_taken(vqa: Session) -> None:
    with pytest.raises(InvalidArgument, match="input 'image': found str; expected an Image or pixels"):
        vqa.run(image="a question")


@pytest.mark.parametrize(
    ("bundle", "changes", "message"),
    [
        ("multilabel", {"task": "embedding"}, "has outputs of the kinds embedding"),
        ("multilabel", {"labels": ["a"]}, "expected"),
        ("multilabel", {"metric": "cosine"}, "exactly an embedding has one"),
        ("multilabel", {"threshold": 2.0}, "threshold"),
        ("embedding", {"metric": None}, "exactly an embedding has one"),
        ("embedding", {"metric": "dot"}, "metric"),
        ("embedding", {"multi_label": True}, "only a classification"),
        ("vqa", {"region_threshold": -1.0}, "region_threshold"),
        ("vqa", {"labels": []}, "expected"),
    ],
)
def test_a_manifest_that_libmmedge_refuses_cannot_be_written(
    bundles: Path, bundle: str, changes: dict[str, Any], message: str
) -> None:
    values = read_manifest(bundles / f"{bundle}.mme").model_dump()
    assert Manifest.model_validate(values)
    with pytest.raises(ValidationError, match=message):
        Manifest.model_validate({**values, **changes})
