from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mmedge.data import speakers
from mmedge.data.folder import read_split
from mmedge.data.invented_voices import installed, invent
from mmedge.data.making import MadeSet
from mmedge.data.speakers import TEST_SPEAKERS, VALIDATION_SPEAKERS, Recordings, Row, build, draw_pairs
from mmedge.data.voices import Utterance, espeak, speak
from mmedge.evaluation import read_pairs
from mmedge.runtime.errors import DataError, InvalidArgument

SMALL = {"invented_voices": 3, "clips_per_voice": 1, "pairs": 40}
# What keeps a build short.
FEW = {
    "VALIDATION_SPEAKERS": VALIDATION_SPEAKERS[:1],
    "TEST_SPEAKERS": TEST_SPEAKERS[2:3],
    "VARIANTS": "f1 m1",
    "FACTORS": (0.8, 1.0),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeSet:
    return build(tmp_path_factory.mktemp("speakers") / "set", **SMALL)


def rows(path: Path, split: str, file: str = "metadata.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / split / file).read_text(encoding="utf-8").splitlines()]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_row_can_be_read(made: MadeSet) -> None:
    for split, count in made.rows.items():
        assert len(read_split(made.path, split, ["audio"])) == count
    assert made.rows["validation"] > 800
    assert made.rows["test"] > 700


def test_nobody_is_in_two_splits(made: MadeSet) -> None:
    people = [{row["label"] for row in rows(made.path, split)} for split in made.rows]
    assert sum(map(len, people)) == len(set().union(*people))
    assert all(name.startswith(("invented ", "espeak ", "flite ")) for name in people[0])
    assert people[1] == {"armelle", "carlo", "june", "paola"}
    assert people[2] == {"allison", "dawson", "ivrvoice", "july"}


def test_a_person_who_speaks_two_languages_is_one_person(made: MadeSet) -> None:
    spoken = {row["language"] for row in rows(made.path, "test") if row["label"] == "allison"}
    assert spoken == {"en", "es"}


def test_clips_are_one_to_four_seconds_of_the_telephones_codec(made: MadeSet) -> None:
    for split in made.rows:
        levels = []
        for row in rows(made.path, split):
            with soundfile.SoundFile(made.path / split / row["audio_file_name"]) as clip:
                assert (clip.samplerate, clip.channels, clip.subtype) == (8000, 1, "GSM610")
                assert 8000 <= clip.frames <= 32000 + 320  # whole blocks of the codec
                levels.append(10 * np.log10(np.mean(clip.read(clip.frames) ** 2)))
        # Set before the codec, which moves single clips by some dB.
        assert np.median(levels) == pytest.approx(-23, abs=1.0)
        assert np.abs(np.array(levels) + 23).max() < 9


def test_no_two_clips_of_people_sound_the_same(made: MadeSet) -> None:
    for split in ("validation", "test"):
        clips = [path.read_bytes() for path in (made.path / split / "audio").iterdir()]
        assert len(clips) == len(set(clips)) == made.rows[split]


def test_pairs_are_what_their_rows_say_and_balanced(made: MadeSet) -> None:
    for split in made.rows:
        by_line = dict(enumerate(rows(made.path, split), start=1))
        pairs = rows(made.path, split, "pairs.jsonl")
        assert len({frozenset((pair["first"], pair["second"])) for pair in pairs}) == len(pairs)
        for pair in pairs:
            first, second = by_line[pair["first"]], by_line[pair["second"]]
            assert pair["same"] == (first["label"] == second["label"])
            assert pair["same_language"] == (first["language"] == second["language"])
            assert pair["same_sex"] == (None if split == "train" else first["sex"] == second["sex"])
    for split in ("validation", "test"):
        pairs = rows(made.path, split, "pairs.jsonl")
        assert Counter(pair["same"] for pair in pairs) == {True: 40, False: 40}
        hard = [pair for pair in pairs if not pair["same"] and pair["same_language"] and pair["same_sex"]]
        assert hard


def test_the_evaluation_reads_the_pairs(made: MadeSet) -> None:
    for split in ("validation", "test"):
        samples = read_split(made.path, split, ["audio"])
        label = {sample.line: sample.label for sample in samples}
        read = read_pairs(made.path / split / "pairs.jsonl", samples)
        assert [label[a] == label[b] for a, b in read] == [
            pair["same"] for pair in rows(made.path, split, "pairs.jsonl")
        ]


def test_pairs_are_shared_evenly_and_end_where_there_are_no_more() -> None:
    many = [Row(f"a{number}", "ann", "en") for number in range(30)] + [Row(f"b{n}", "ben", "en") for n in range(30)]
    few = [Row("c0", "cy", "en"), Row("c1", "cy", "en")]
    pairs = draw_pairs([*many, *few], 90, np.random.default_rng(0))
    speaker = "a" * 30 + "b" * 30 + "c" * 2
    same = Counter(speaker[pair["first"] - 1] for pair in pairs if pair["same"])
    assert same == {"a": 30, "b": 30, "c": 1}
    different = Counter((speaker[pair["first"] - 1], speaker[pair["second"] - 1]) for pair in pairs if not pair["same"])
    assert sum(different.values()) == 61
    assert set(different.values()) <= {20, 21}


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FEW.items():
        monkeypatch.setattr(speakers, name, value)
    first, second = (build(tmp_path / name, **SMALL) for name in ("first", "second"))
    assert files(first.path) == files(second.path)
    assert build(first.path, **SMALL).reused
    other = build(tmp_path / "other", **SMALL, seed=1)
    assert files(other.path)["train/audio/00000.wav"] != files(first.path)["train/audio/00000.wav"]


def test_a_folder_of_someone_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="left as it is"):
        build(tmp_path, **SMALL)
    assert files(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("name", ["seed", "invented_voices", "clips_per_voice", "pairs"])
def test_negative_numbers_are_refused_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{name} is -1; expected a number from 0 on"):
        build(tmp_path / "set", **SMALL | {name: -1})
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = Recordings("nobody", "en", "male", "asterisk-nobody", tmp_path / "gone")
    monkeypatch.setattr(speakers, "TEST_SPEAKERS", (nobody,))
    with pytest.raises(DataError, match="apt-get install asterisk-nobody"):
        build(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_invented_voices_differ_and_are_gone_afterwards() -> None:
    variants = [invent(np.random.default_rng(number)) for number in range(151)]
    with installed(variants) as folders:
        # More than a folder may hold, so that the last lies in another.
        assert len(set(folders)) == 2
        clips = [
            speak(Utterance("v", ("espeak-ng", f"--path={folders[n]}", "-v", f"it+v{n}", "--stdout", "ciao mondo")))
            for n in (0, 1, 150)
        ]
        clips.append(speak(espeak("it", 175, 50, "ciao mondo")))
    assert all(len(clip) > 4000 for clip in clips)
    assert len({clip.tobytes() for clip in clips}) == 4
    assert not any(folder.exists() for folder in folders)


def test_a_voice_played_faster_is_shorter_and_higher() -> None:
    command = ("flite", "-voice", "rms", "-t", "hello world", "-o", "/dev/stdout")
    plain, fast = speak(Utterance("rms", command)), speak(Utterance("rms", command, 1.25))
    assert len(fast) == pytest.approx(len(plain) / 1.25, rel=0.05)


def test_the_readme_names_the_licence_of_every_package(made: MadeSet) -> None:
    lines = (made.path / "README.md").read_text(encoding="utf-8").splitlines()
    for package in ("espeak-ng", "flite", *(person.package for person in (*VALIDATION_SPEAKERS, *TEST_SPEAKERS))):
        licences = [
            line.split("|")[-2] for line in lines if line.startswith("|") and package == line.split("|")[2].strip()
        ]
        assert len(licences) == 1
        assert any(name in licences[0] for name in ("CC-BY", "GPL", "BSD"))


def test_making_speakers_imports_no_torch() -> None:
    code = "import sys, mmedge.data.speakers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
