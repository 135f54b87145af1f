"""The Python session over the C one."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmedge.runtime import Audio, Image, Manifest, Preprocessor, Session, read_manifest
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


def test_data_for_another_modality_is_refused_by_name(digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    for inputs, message in (
        ({"image": CLIP}, "input 'image': found Audio; expected an Image or pixels"),
        ({"audio": FRAME}, r"input 'audio': found ndarray; expected an Audio\(samples, sample_rate\)"),
        ({"audio": Image(FRAME)}, "input 'audio': found Image"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            session.run(**inputs)


def test_an_engines_options_change_no_result(digits_bundle: Path, tmp_path: Path) -> None:
    expected = Session(digits_bundle).run(image=FRAME, audio=CLIP).scores
    options: list[dict[str, Any]] = [
        {"provider": "cpu"},
        {"arena": False},
        {"flush_denormals": False},
        {"threads": 2, "spinning": True},
        {"threads": 2, "affinities": "1"},
        {"cache": tmp_path},  # fills it
        {"cache": str(tmp_path)},  # uses it
    ]
    for chosen in options:
        found = Session(digits_bundle, **chosen).run(image=FRAME, audio=CLIP).scores
        assert found == pytest.approx(expected, abs=1e-6), chosen
    assert any(tmp_path.iterdir())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are of x86's instruction sets")
def test_a_cached_graph_is_of_one_instruction_set(digits_bundle: Path, tmp_path: Path) -> None:
    opening = "import sys; from mmedge.runtime import Session; Session(sys.argv[1], cache=sys.argv[2])"
    for isa, files in (("ssse3", 1), ("sse4", 2), ("ssse3", 2)):
        command = [sys.executable, "-c", opening, str(digits_bundle), str(tmp_path)]
        subprocess.run(command, check=True, env={**os.environ, "MMEDGE_MAX_ISA": isa})
        assert len(list(tmp_path.iterdir())) == files, isa


def test_the_environment_names_an_onnx_runtime_before_the_installed_one(digits_bundle: Path) -> None:
    opening = "import sys; from mmedge.runtime import Session; Session(sys.argv[1])"
    environment = {**os.environ, "MMEDGE_ONNXRUNTIME": "/nowhere/libonnxruntime.so"}
    command = [sys.executable, "-c", opening, str(digits_bundle)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert "ONNX Runtime was not found: /nowhere/libonnxruntime.so" in done.stderr


def test_an_option_that_cannot_be_met_is_refused_and_nothing_takes_its_place(digits_bundle: Path) -> None:
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (EngineError, "TensorrtExecutionProvider", {"provider": "tensorrt"}),
        (InvalidArgument, "abacus", {"provider": "abacus"}),
        (InvalidArgument, "threads", {"threads": -1}),
        (EngineError, "ffinit", {"threads": 2, "affinities": "none"}),
        (InvalidArgument, "^cache /none/cache is not a directory; make it first", {"cache": "/none/cache"}),
        (InvalidArgument, "top_k is 0", {"top_k": 0}),
        (InvalidArgument, "top_k is 11; expected at most the model's 10", {"top_k": 11}),
    ]
    for kind, message, options in refused:
        with pytest.raises(kind, match=message):
            Session(digits_bundle, **options)


def test_top_k_keeps_the_best(digits_bundle: Path) -> None:
    every = Session(digits_bundle).run(image=FRAME)
    best = Session(digits_bundle, top_k=3).run(image=FRAME)
    assert list(best.scores.items()) == list(every.scores.items())[:3]
    assert best.label == every.label
    np.testing.assert_array_equal(best.outputs["logits"], every.outputs["logits"])


def test_the_timeline_lies_on_pythons_monotonic_clock(digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    before = time.monotonic_ns()
    result = session.run(image=FRAME, audio=CLIP)
    after = time.monotonic_ns()
    *stages, total = result.timeline
    assert [stage.stage for stage in result.timeline] == list(result.timings)
    assert [stage.nanoseconds / 1000 for stage in result.timeline] == list(result.timings.values())
    end = before
    for stage in stages:
        assert stage.begin_ns >= end
        end = stage.begin_ns + stage.nanoseconds
    assert end <= after
    assert total.begin_ns == stages[0].begin_ns
    absent = session.run(image=FRAME).timeline[1]
    assert (absent.stage, absent.begin_ns, absent.nanoseconds) == ("preprocess.audio", 0, 0)


def test_a_views_memory_is_the_sessions_and_a_copy_is_the_callers(digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    kept = session.run(image=FRAME).outputs["logits"]
    view = session.run(image=FRAME, copy=False).outputs["logits"]
    np.testing.assert_array_equal(view, kept)
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0
    other = session.run(image=255 - FRAME).outputs["logits"]
    np.testing.assert_array_equal(view, other)
    assert not np.array_equal(kept, other)
    del session
    gc.collect()
    np.testing.assert_array_equal(view, other)  # the view keeps the memory it is of
    shared = torch.from_dlpack(kept)
    kept[0] = 1234
    assert shared[0] == 1234


def test_ready_tensors_come_from_any_memory(digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    expected = session.run(image=FRAME, audio=CLIP).scores
    tensors = {entry.name: Preprocessor(entry.preprocess) for entry in session.manifest.inputs}
    image, audio = tensors["image"](FRAME), tensors["audio"](CLIP)
    frozen = image.copy()
    frozen.flags.writeable = False
    for given in (image, torch.from_numpy(image), memoryview(image), frozen):
        assert session.run(tensors={"image": given, "audio": audio}).scores == expected
        assert session.run(tensors={"image": given, "audio": None}, audio=CLIP).scores == expected
    for unusable, message in (
        (image.astype(np.float64), r"found a tensor of float64 \[1, 32, 32\].*expected contiguous float32"),
        (image.astype(">f4"), "found a tensor of >f4"),
        (image.transpose(0, 2, 1), r"strides \(4096, 4, 128\).*np\.ascontiguousarray"),
        (torch.zeros(1, 32, 32, dtype=torch.bfloat16), "found a Tensor"),
        (torch.zeros(1, 32, 32, requires_grad=True), "found a Tensor.*detach"),
        (torch.zeros(1, 32, 32, device="meta"), "found a Tensor"),
        (image.tobytes(), r"found a tensor of uint8 \[4096\]"),
        ([[0.0]], "found a list"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            session.run(tensors={"image": unusable})
    assert session.run(tensors={"image": image, "audio": audio}).scores == expected


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        ("float16", {}),
        ("uint8", {"mean": [0.0], "std": [1 / 255]}),
        ("int8", {"scale": 4 / 255, "zero_point": 0}),
    ],
)
def test_an_input_has_the_dtype_its_manifest_says(dtype: str, changes: dict[str, Any], copy: Path) -> None:
    import onnx

    from mmedge.export.bundle import write_bundle

    manifest = read_manifest(copy)
    model = onnx.load(copy / "model.onnx")
    graph = model.graph
    port = next(port for port in graph.input if port.name == "image")
    port.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for node in graph.node:
        node.input[:] = ["image_as_float" if name == "image" else name for name in node.input]
    graph.node.insert(0, onnx.helper.make_node("Cast", ["image"], ["image_as_float"], to=onnx.TensorProto.FLOAT))
    entry = manifest.inputs[0]
    preprocess = {**entry.preprocess, "dtype": dtype, **changes}
    entry = entry.model_validate({**entry.model_dump(), "dtype": dtype, "preprocess": preprocess})
    manifest = manifest.model_copy(update={"inputs": [entry, *manifest.inputs[1:]]})
    write_bundle(copy, manifest, {"model.onnx": model.SerializeToString()})

    session = Session(copy)
    assert session.manifest.inputs[0].dtype == dtype
    tensor = Preprocessor(preprocess)(FRAME)
    assert tensor.dtype == dtype
    expected = session.run(image=FRAME).scores
    for given in (tensor, torch.from_numpy(tensor), memoryview(tensor)):
        assert session.run(tensors={"image": given}).scores == expected
    with pytest.raises(InvalidArgument, match=f"found a tensor of float32.*expected contiguous {dtype}"):
        session.run(tensors={"image": tensor.astype(np.float32)})
    assert session.run(image=255 - FRAME).scores != expected


STREAM = CLIP.samples[:8000]  # the bundle's window is 8000 samples


def test_pushed_samples_are_the_next_runs_input(digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    session.push_audio("audio", Audio(STREAM, 8000))
    whole = session.run(image=FRAME)
    assert whole.timings["preprocess.audio"] > 0
    image_only = session.run(image=FRAME)  # one push makes one run's input
    assert image_only.scores == Session(digits_bundle).run(image=FRAME).scores
    assert image_only.scores != whole.scores

    session.reset_audio("audio")
    for at in range(0, 8000, 1000):
        session.push_audio("audio", Audio(STREAM[at : at + 1000], 8000))
    assert session.run(image=FRAME).scores == whole.scores
    session.push_audio("audio", Audio(STREAM[:0], 8000))  # nothing new: the same window again
    assert session.run(image=FRAME).scores == whole.scores
    session.push_audio("audio", Audio(STREAM[:0], 8000))
    assert session.run(image=FRAME, audio=None).scores == image_only.scores
    session.push_audio("audio", Audio(STREAM[:4000], 8000))
    assert session.run(image=FRAME).scores != whole.scores


def test_pushes_are_refused_by_name_and_the_stream_goes_on(digits_bundle: Path) -> None:
    session = Session(digits_bundle)
    session.push_audio("audio", Audio(STREAM, 8000))
    broken = STREAM.copy()
    broken[5] = np.nan
    for kind, message, name, audio in (
        (InvalidArgument, "no input 'camera'|no input \"camera\"", "camera", CLIP),
        (InvalidArgument, "image", "image", CLIP),
        (InvalidArgument, "float64", "audio", Audio(STREAM.astype(float), 8000)),
        (InvalidArgument, "audio", "audio", Audio(STREAM, 16000)),
        (DataError, "sample 5", "audio", Audio(broken, 8000)),
    ):
        with pytest.raises(kind, match=message):
            session.push_audio(name, audio)
    for inputs in ({"audio": CLIP}, {"tensors": {"audio": np.zeros((40, 101), np.float32)}}):
        with pytest.raises(InvalidArgument, match="given both to push_audio and to run: audio; give one"):
            session.run(**inputs)
    with pytest.raises(InvalidArgument, match="float64"):
        session.run(image=FRAME.astype(float))  # the pushed samples wait for the next run
    found = session.run(image=FRAME).scores
    fresh = Session(digits_bundle)
    fresh.push_audio("audio", Audio(STREAM, 8000))
    assert found == fresh.run(image=FRAME).scores

    session.push_audio("audio", Audio(STREAM, 8000))
    session.reset_audio("audio")
    assert session.run(image=FRAME).scores == fresh.run(image=FRAME).scores  # absent again
    session.push_audio("audio", Audio(np.repeat(STREAM, 2), 16000))  # a new stream may be of another kind
    assert session.run().label in session.labels
    for name in ("camera", "image"):
        with pytest.raises(InvalidArgument, match=name):
            session.reset_audio(name)


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
