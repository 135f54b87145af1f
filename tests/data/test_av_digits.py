from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mmedge.data import av_digits
from mmedge.data.av_digits import build
from mmedge.data.folder import read_split
from mmedge.data.making import MadeSet
from mmedge.data.voices import LABELS, TEST_SPEAKERS, VALIDATION_SPEAKERS, espeak, flite, recording, speak
from mmedge.runtime.errors import DataError, InvalidArgument
from mmedge.runtime.media import decode_audio


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeSet:
    return build(tmp_path_factory.mktemp("av") / "digits", clips_per_word=1)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> MadeSet:
    out = tmp_path_factory.mktemp("av") / "quiet"
    return build(out, clips_per_word=1, image_noise=0.0, audio_snr_db=90.0, seed=1)


def rows(made: MadeSet, split: str) -> list[dict[str, str]]:
    lines = (made.path / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def samples(path: Path) -> np.ndarray:
    audio = decode_audio(path)
    assert audio.sample_rate == 8000
    return audio.samples


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_row_can_be_read(made: MadeSet) -> None:
    assert made.rows == {"train": 50, "validation": 2700, "test": 2160}
    for split, count in made.rows.items():
        found = read_split(made.path, split, ["image", "audio"], LABELS)
        assert len(found) == count
        assert {sample.label for sample in found} == set(LABELS)


def test_no_speaker_is_in_two_splits_and_no_image_of_training_elsewhere(made: MadeSet) -> None:
    speakers = [{row["speaker"] for row in rows(made, split)} for split in made.rows]
    images = [{int(Path(row["image_file_name"]).name[:4]) for row in rows(made, split)} for split in made.rows]
    assert sum(map(len, speakers)) == len(set().union(*speakers))
    assert not images[0] & (images[1] | images[2])
    assert all(speaker.startswith(("espeak ", "flite ")) for speaker in speakers[0])
    assert len(speakers[1]) == 5
    assert len(speakers[2]) == 4


def test_five_languages_are_spoken_in_training_and_validation(made: MadeSet) -> None:
    for split in ("train", "validation"):
        assert {row["language"] for row in rows(made, split)} == {"en", "es", "fr", "it", "ru"}


def test_images_and_labels_are_those_of_the_scans(made: MadeSet) -> None:
    digits = load_digits()
    for split in made.rows:
        for row in rows(made, split)[:50]:
            number = int(Path(row["image_file_name"]).name[:4])
            assert row["label"] == LABELS[digits.target[number]]
    name = rows(made, "train")[0]["image_file_name"]
    with Image.open(made.path / "train" / name) as image:
        assert (image.size, image.mode) == ((64, 64), "L")
        shrunk = np.asarray(image.resize((8, 8), Image.Resampling.BOX), float) / 255
    scan = digits.images[int(Path(name).stem)] / 16
    assert np.corrcoef(shrunk.ravel(), scan.ravel())[0, 1] > 0.98


def test_clips_are_one_second_and_hold_speech(made: MadeSet) -> None:
    for row in rows(made, "train"):
        clip = samples(made.path / "train" / row["audio_file_name"])
        assert len(clip) == 8000
        assert np.sqrt(np.mean(clip**2)) > 0.01


def test_the_noise_has_the_level_asked_for(made: MadeSet, quiet: MadeSet) -> None:
    name = rows(made, "validation")[0]["audio_file_name"]
    clean, noisy = (samples(root / "validation" / name) for root in (quiet.path, made.path))
    spoken = np.flatnonzero(np.abs(clean) > 1e-3)
    speech = clean[spoken[0] : spoken[-1]]
    snr = 10 * np.log10(np.mean(speech**2) / np.mean((noisy - clean) ** 2))
    assert snr == pytest.approx(10.0, abs=0.5)


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, made: MadeSet) -> None:
    assert files(build(tmp_path / "again", clips_per_word=1).path) == files(made.path)


def test_another_seed_gives_other_voices(made: MadeSet, quiet: MadeSet) -> None:
    assert [row["speaker"] for row in rows(made, "train")] != [row["speaker"] for row in rows(quiet, "train")]


def test_a_set_that_is_up_to_date_is_kept(made: MadeSet) -> None:
    before = (made.path / "README.md").stat().st_mtime_ns
    again = build(made.path, clips_per_word=1)
    assert again.reused
    assert again.rows == made.rows
    assert (made.path / "README.md").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["notes.txt", "train/metadata.jsonl"])
def test_a_folder_of_someone_else_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(DataError, match="left as it is"):
        build(tmp_path / "mine", clips_per_word=1)
    assert files(tmp_path) == {f"mine/{name}": b"mine"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("image_noise", -0.1),
        ("image_noise", float("nan")),
        ("audio_snr_db", float("nan")),
        ("audio_snr_db", float("inf")),
        ("audio_snr_db", -1e6),
        ("clips_per_word", -1),
    ],
)
def test_impossible_numbers_are_refused_before_the_work(tmp_path: Path, name: str, value: float) -> None:
    def work(stage: str, done: int, total: int) -> None:
        raise AssertionError(stage)

    with pytest.raises(InvalidArgument, match=f"{name} is {value}; expected"):
        build(tmp_path / "digits", **{name: value}, progress=work)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind_when_a_build_is_broken_off(tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "digits", clips_per_word=1, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_missing_programs_are_named_as_debian_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="apt-get install espeak-ng flite sox"):
        build(tmp_path / "digits")


def test_the_readme_names_the_licence_of_every_package(made: MadeSet) -> None:
    lines = (made.path / "README.md").read_text(encoding="utf-8").splitlines()
    for package in ("espeak-ng", "flite", *(speaker.package for speaker in (*VALIDATION_SPEAKERS, *TEST_SPEAKERS))):
        (licence,) = [line.split("|")[-2] for line in lines if line.startswith("|") and package in line.split("|")[2]]
        assert any(name in licence for name in ("CC-BY", "GPL", "BSD"))


def test_silence_is_found_in_a_clip_of_zeros_and_not_in_speech() -> None:
    assert len(speak(espeak("en-us+f1", 120, 50, ""))) == 0
    assert len(speak(espeak("en-us+f1", 120, 50, "seven"))) > 2000
    assert len(speak(flite("slt", 1.2, 180, "seven"))) > 2000
    assert len(recording(VALIDATION_SPEAKERS[0], 7)) > 2000


def test_a_silent_clip_is_left_out_with_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "silent"
    silent.mkdir()
    for digit in range(10):
        subprocess.run(["sox", "-n", "-r", "8000", str(silent / f"{digit}.wav"), "trim", "0", "0.5"], check=True)
    speaker = av_digits.Speaker("nobody", "en", "none", f"{silent}/{{}}.wav")
    monkeypatch.setattr(av_digits, "VALIDATION_SPEAKERS", (speaker, VALIDATION_SPEAKERS[0]))
    made = build(tmp_path / "digits", clips_per_word=1)
    assert made.rows["validation"] == 540
    assert [notice for notice in made.notices if "0.wav: the clip is silent" in notice]


def test_reading_a_folder_imports_no_torch() -> None:
    code = "import sys, mmedge.data.folder, mmedge.evaluation, mmedge.data.av_digits; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
