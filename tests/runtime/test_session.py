"""The Python session over the C one."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmedge.runtime import Audio, Manifest, Session, read_manifest
from mmedge.runtime.errors import BundleError, DataError, EngineError, InvalidArgument

FRAME = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
CLIP = Audio(np.random.default_rng(1).normal(0, 0.1, 9000).astype(np.float32), 8000)


@pytest.fixture
def copy(digits_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_bundle, tmp_path / "copy.mme"))


def test_a_run_gives_label_scores_outputs_and_timings(digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    result = session.run(image=FRAME, audio=CLIP)
    assert list(result.scores.values()) == sorted(result.scores.values(), reverse=True)
    assert result.label == next(iter(result.scores))
    assert result.scores[result.label] == result.score
    assert sorted(result.scores) == sorted(session.labels)
    logits = result.outputs["logits"].astype(np.float64)
    softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose([result.scores[label] for label in session.labels], softmax, atol=1e-6)
    assert list(result.timings) == ["preprocess.image", "preprocess.audio", "engine", "postprocess", "total"]
    assert all(spent > 0 for spent in result.timings.values())
    assert "ONNX Runtime" in session.engine


def test_a_modality_left_out_is_absent(digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    both = session.run(image=FRAME, audio=CLIP).outputs["logits"]
    image = session.run(image=FRAME).outputs["logits"]
    np.testing.assert_array_equal(session.run(image=FRAME, audio=None).outputs["logits"], image)
    assert not np.allclose(image, both)
    with pytest.raises(InvalidArgument, match="every input is absent"):
        session.run()


def test_wrong_inputs_are_named_and_the_session_goes_on(digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    expected = session.run(image=FRAME).scores
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (InvalidArgument, "no input 'camera'", {"camera": FRAME}),
        (InvalidArgument, "float64", {"image": FRAME.astype(float)}),
        (DataError, 'input "audio": audio: empty', {"audio": Audio(np.zeros(0, np.float32), 8000)}),
        (DataError, "sample 3 is nan", {"audio": Audio(np.float32([0, 0, 0, np.nan]), 8000)}),
        (
            InvalidArgument,
            "give one",
            {"image": FRAME, "tensors": {"image": np.zeros((1, 32, 32), np.float32)}},
        ),
        (InvalidArgument, "expected", {"tensors": {"image": np.zeros((32, 32), np.float32)}}),
    ]
    for kind, message, inputs in wrong:
        with pytest.raises(kind, match=message):
            session.run(**inputs)
        assert session.run(image=FRAME).scores == expected


def test_threads_with_a_session_each_agree(digits_bundle: Path) -> None:
    expected = Session(digits_bundle).run(image=FRAME, audio=CLIP).scores
    found: list[bool] = []

    def work() -> None:
        session = Session(digits_bundle)
        found.extend(session.run(image=FRAME, audio=CLIP).scores == expected for _ in range(30))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 120


def test_an_output_that_is_not_finite_is_an_error_that_names_it(bundles: Path) -> None:
    with pytest.raises(EngineError, match='output "logits" holds nan'):
        Session(bundles / "nan.mme").run(image=FRAME)


def test_a_missing_engine_is_named(digits_bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"/none/libonnxruntime\.so"):
        Session(digits_bundle, onnxruntime="/none/libonnxruntime.so")


def test_the_manifest_is_read_and_checked(digits_bundle: Path) -> None:
    manifest = read_manifest(digits_bundle)
    assert isinstance(manifest, Manifest)
    assert [entry.name for entry in manifest.inputs] == ["image", "audio"]
    assert manifest.evidence["parity"]["passed"] is True
    graph = manifest.graphs[0]
    assert hashlib.sha256((digits_bundle / graph.path).read_bytes()).hexdigest() == manifest.files[graph.path].sha256


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{
        f"{name} {damage.__name__.strip('_')}": lambda copy, name=name, damage=damage: damage(copy / name)  # type: ignore[misc]
        for name in ("manifest.json", "manifest.sha256", "model.onnx")
        for damage in (_truncate, _flip, Path.unlink)
    },
    "empty directory": lambda copy: [file.unlink() for file in copy.iterdir()] and None,
    "no directory": shutil.rmtree,
}


def rewrite_manifest(bundle: Path, old: str, new: str) -> None:
    text = (bundle / "manifest.json").read_text()
    assert old in text
    text = text.replace(old, new)
    (bundle / "manifest.json").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (bundle / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


DAMAGES["schema 99"] = lambda copy: rewrite_manifest(copy, '"schema_version": 1', '"schema_version": 99')
DAMAGES["path outside"] = lambda copy: rewrite_manifest(copy, '"model.onnx"', '"../model.onnx"')


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_a_clear_error_everywhere(damage: str, copy: Path) -> None:
    from click.testing import CliRunner

    from mmedge.cli import cli

    DAMAGES[damage](copy)
    with pytest.raises(BundleError, match=str(copy)) as session_error:
        Session(copy)
    with pytest.raises(BundleError) as manifest_error:
        read_manifest(copy)
    assert str(session_error.value) == str(manifest_error.value)
    for command in (["inspect", str(copy)], ["run", str(copy)]):
        outcome = CliRunner().invoke(cli, command)
        assert outcome.exit_code == 2
        assert str(session_error.value) in outcome.stderr
        assert outcome.stdout == ""


def test_a_graph_newer_than_the_engine_names_both_versions(copy: Path) -> None:
    import onnx

    from mmedge.export.bundle import write_bundle

    manifest = read_manifest(copy)
    graph = onnx.load(copy / "model.onnx")
    graph.ir_version = 999
    write_bundle(copy, manifest, {"model.onnx": graph.SerializeToString()})
    with pytest.raises(EngineError, match=r"999.*max supported IR version: \d+"):
        Session(copy)
