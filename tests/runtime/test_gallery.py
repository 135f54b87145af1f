"""Galleries, judged by a plain search with NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.runtime import Gallery, Match, Session
from mmedge.runtime.errors import DataError, InvalidArgument

PIXELS = np.array([[51, 102], [153, 204]], np.uint8)


def test_a_saved_gallery_is_as_private_as_it_was_and_behind_the_link_that_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    real, link = tmp_path / "kept" / "people.gallery", tmp_path / "people.gallery"
    gallery = Gallery(2, "dot")
    gallery.save(real)
    real.chmod(0o640)
    link.symlink_to(real)
    gallery.enroll("ann", np.float32([1, 2]))
    gallery.save(link)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o7777 == 0o640
    assert len(Gallery.load(real)) == 1


@settings(max_examples=60, deadline=None)
@given(
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    owners=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    dimension=st.integers(1, 70),
    k=st.integers(1, 12),
)
def test_a_search_finds_each_names_best_embedding(metric: str, owners: list[int], dimension: int, k: int) -> None:
    random = np.random.default_rng(len(owners) + dimension)
    rows = random.normal(size=(len(owners), dimension)).astype(np.float32)
    query = random.normal(size=dimension).astype(np.float32)
    gallery = Gallery(dimension, metric)  # type: ignore[arg-type]
    for owner, row in zip(owners, rows, strict=True):
        gallery.enroll(f"n{owner}", row)
    assert len(gallery) == len(owners)
    exact, wanted = rows.astype(float), query.astype(float)
    scores = {
        "cosine": exact @ wanted / np.linalg.norm(exact, axis=1) / np.linalg.norm(wanted),
        "dot": exact @ wanted,
        "euclidean": np.linalg.norm(exact - wanted, axis=1),
    }[metric]
    best: dict[str, float] = {}
    sign = -1 if metric == "euclidean" else 1
    for owner, score in zip(owners, scores, strict=True):
        best[f"n{owner}"] = max(best.get(f"n{owner}", -np.inf), sign * score)
    found = gallery.search(query, k)
    assert len(found) == min(k, len(best))
    # With one dimension all cosines are 1 or -1: then names may stand in any order that rounding gives.
    expected = sorted(best.values(), reverse=True)[:k]
    assert [sign * match.score for match in found] == pytest.approx(expected, abs=1e-4)
    assert [sign * match.score for match in found] == pytest.approx([best[match.name] for match in found], abs=1e-4)


def test_a_gallery_of_a_session_compares_as_its_model_says(bundles: Path, tmp_path: Path) -> None:
    session = Session(bundles / "embedding.mme")
    gallery = Gallery.for_session(session)
    assert (gallery.dimension, gallery.metric, gallery.model) == (8, "cosine", session.graph_sha256)
    assert gallery.search(session.run(front=PIXELS).embedding) == []
    gallery.enroll("front", session.run(front=PIXELS).embedding)
    gallery.enroll("back", session.run(back=PIXELS).embedding)
    gallery.enroll("both", session.run(front=PIXELS, back=PIXELS, copy=False).embedding)
    found = gallery.search(session.run(front=PIXELS).embedding, 2)
    assert found == [Match("front", pytest.approx(1)), Match("both", pytest.approx(0.5**0.5))]
    gallery.save(tmp_path / "x.gallery")
    gallery.remove("front")
    assert len(gallery) == 2
    loaded = Gallery.load(tmp_path / "x.gallery")
    assert (len(loaded), loaded.dimension, loaded.metric, loaded.model) == (3, 8, "cosine", session.graph_sha256)
    assert loaded.search(session.run(front=PIXELS).embedding, 2) == found
    loaded.check_session(session)


def test_a_gallery_of_another_model_is_refused(bundles: Path) -> None:
    session = Session(bundles / "embedding.mme")
    Gallery(8).check_session(session)  # whose model was not said
    for gallery, message in (
        (Gallery(7), "of dimension 7, the model 'embedding' of 8"),
        (Gallery(8, "euclidean"), "of metric euclidean, the model 'embedding' of cosine"),
        (Gallery(8, model="0" * 64), "of model 0000"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            gallery.check_session(session)
    with pytest.raises(InvalidArgument, match="of task 'vqa'; a gallery holds embeddings"):
        Gallery.for_session(Session(bundles / "vqa.mme"))


def test_names_are_any_text_and_what_is_none_is_refused() -> None:
    gallery = Gallery(2)
    row = np.array([1, 0], np.float32)
    for name in ("Ada", "\u6f22\u5b57", "\U0001f600", "x" * 1024):
        gallery.enroll(name, row)
    assert [match.name for match in gallery.search(row, 9)] == ["Ada", "\u6f22\u5b57", "\U0001f600", "x" * 1024]
    for name, message in (
        ("", "0 bytes; expected 1 to 1024"),
        ("x" * 1025, "1025 bytes"),
        ("a\ud800", "not UTF-8: byte 1"),
        ("a\0b", "holds a NUL"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            gallery.enroll(name, row)
    with pytest.raises(InvalidArgument, match='nothing is enrolled under "Bob"'):
        gallery.remove("Bob")
    assert len(gallery) == 4


def test_an_embedding_that_is_none_is_refused() -> None:
    gallery = Gallery(2)
    for values, kind, message in (
        (np.zeros(3, np.float32), InvalidArgument, "has 3 elements; the gallery's have 2"),
        (np.zeros(2), InvalidArgument, "found an embedding of float64"),
        (np.zeros((1, 2), np.float32), InvalidArgument, r"expected contiguous float32 \[2\]"),
        (np.zeros(4, np.float32)[::2], InvalidArgument, "strides"),
        (None, InvalidArgument, "found a NoneType"),
        (np.array([0, np.nan], np.float32), DataError, "element 1 of the embedding is nan"),
    ):
        with pytest.raises(kind, match=message):
            gallery.enroll("a", values)
        with pytest.raises(kind, match=message):
            gallery.search(values)
    with pytest.raises(InvalidArgument, match="k is 0"):
        gallery.search(np.zeros(2, np.float32), 0)
    with pytest.raises(InvalidArgument, match="metric is 'taxi'"):
        Gallery(2, "taxi")  # type: ignore[arg-type]
    for dimension in (0, -1, 65537):
        with pytest.raises(InvalidArgument, match="dimension is"):
            Gallery(dimension)


def test_a_file_that_is_no_gallery_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.gallery"
    with pytest.raises(DataError, match=rf"{file}: .*no such file"):
        Gallery.load(file)
    with pytest.raises(DataError, match=f"{tmp_path} is a folder; expected a file"):
        Gallery.load(tmp_path)
    Gallery(2).save(file)
    content = file.read_bytes()
    for damaged in (content[:-1], content + b"x", b"", b"x" * 500, content[:20] + b"\xff" + content[21:]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=str(file)):
            Gallery.load(file)
    with pytest.raises(InvalidArgument, match="cannot be written here: No such file"):
        Gallery(2).save(tmp_path / "none" / "x.gallery")
