"""AV-digits: real handwritten digits paired with the same digit spoken in five languages.

Images are the 8 x 8 scans of scikit-learn's `load_digits`. The training voices are synthetic (espeak-ng, and flite for
half of the English ones), the voices of `validation` and `test` are people never heard in training, and no speaker is
in two splits. `validation` and `test` show the same held-out scans, each under noise of its own. Everything comes from
packages of Debian and PyPI; nothing is downloaded. `test` is there to be looked at once, when all choices are made.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmedge.data.voices import (
    ACCENTS,
    FLITE_VOICES,
    LABELS,
    SAMPLE_RATE,
    TEST_SPEAKERS,
    VALIDATION_SPEAKERS,
    VARIANTS,
    WORDS,
    Clip,
    Speaker,
    Utterance,
    check_sources,
    espeak,
    flite,
    recording,
    speak,
)
from mmedge.runtime.errors import DataError

IMAGE_SIZE = 64
_TRAIN_IMAGES, _HELD_OUT_IMAGES = range(1257), range(1257, 1797)

# Tells a set made here from a folder not to be touched, and an up-to-date set from one to be made again.
_MARKER = ".av-digits.json"
_CONTENTS = {_MARKER, "README.md", "train", "validation", "test"}
_FORMAT = 3

Progress = Callable[[str, int, int], None]
Scans = NDArray[np.float64]


@dataclass(frozen=True)
class AvDigits:
    """What `build` made: rows per split, what was left out and why. `reused`: it was there already."""

    path: Path
    rows: dict[str, int]
    notices: tuple[str, ...]
    reused: bool = False


def build(
    out: Path | str,
    *,
    seed: int = 0,
    image_noise: float = 0.3,
    audio_snr_db: float = 10.0,
    clips_per_word: int = 120,
    progress: Progress | None = None,
) -> AvDigits:
    """Write `train`, `validation` and `test`, each with its metadata.jsonl, and a README.md to `out`.

    `train` is clean; in the other two every row has its own noise baked in. `image_noise` is the standard
    deviation of Gaussian noise on the 8 x 8 scan as a fraction of its full range; `audio_snr_db` the level
    of the spoken part over that of white noise filling the whole second. `clips_per_word` synthetic clips
    are spoken of each digit in each language. `progress(stage, done, total)` is called often. The same
    arguments give the same bytes on the same machine.

    The set is built beside `out` and moved there when complete. A set made earlier with the same arguments
    is kept, one made with others replaced; any other non-empty `out` raises DataError, as does a missing
    program or sound package.
    """
    out = Path(out)
    arguments = {
        "format": _FORMAT,
        "seed": seed,
        "image_noise": float(image_noise),
        "audio_snr_db": float(audio_snr_db),
        "clips_per_word": clips_per_word,
    }
    existing = _existing(out)
    if existing is not None and existing["arguments"] == arguments:
        return AvDigits(out, existing["rows"], tuple(existing["notices"]), reused=True)
    check_sources()

    report = progress or (lambda stage, done, total: None)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        scans, digits = _scans()
        notices: list[str] = []
        rows = {
            "train": _write_train(work / "train", scans, digits, seed, clips_per_word, notices, report),
            "validation": _write_humans(
                work / "validation",
                1,
                VALIDATION_SPEAKERS,
                _HELD_OUT_IMAGES,
                scans,
                digits,
                arguments,
                notices,
                report,
            ),
            "test": _write_humans(
                work / "test", 2, TEST_SPEAKERS, _HELD_OUT_IMAGES, scans, digits, arguments, notices, report
            ),
        }
        readme = Path(__file__).with_name("av_digits_readme.md").read_text(encoding="utf-8")
        (work / "README.md").write_text(readme.format(**arguments), encoding="utf-8")
        made = {"arguments": arguments, "rows": rows, "notices": notices}
        (work / _MARKER).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        work.chmod(0o755)
        _move_into_place(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return AvDigits(out, rows, tuple(notices))


def _existing(out: Path) -> dict[str, Any] | None:
    """The marker of the set at `out`, None if nothing is there; DataError if something else is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        marker: dict[str, Any] = json.loads((out / _MARKER).read_text(encoding="utf-8"))
        names = {path.name for path in out.iterdir()}
        if {"arguments", "rows", "notices"} <= marker.keys() and names <= _CONTENTS:
            return marker
    except (OSError, ValueError, AttributeError):
        pass
    raise DataError(f"{out} exists and is not an AV-digits set made here; it is left as it is. Choose another place.")


def _move_into_place(work: Path, out: Path) -> None:
    if not out.exists():
        os.rename(work, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    os.rename(out, old / out.name)
    os.rename(work, out)
    shutil.rmtree(old)


# Images


def _scans() -> tuple[Scans, list[int]]:
    """The scans [1797, 8, 8] in 0..1, ink bright, and their digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images / 16.0, [int(digit) for digit in digits.target]


def _write_image(path: Path, scan: Scans) -> None:
    pixels = np.rint(np.clip(scan, 0.0, 1.0) * 255.0).astype(np.uint8)
    Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).save(path)


# Audio: clips are float64 mono at SAMPLE_RATE


def _one_second(clip: Clip, snr_db: float | None, random: np.random.Generator | None) -> NDArray[np.int16]:
    """A trimmed clip, its level made -23 dB of full scale, in the middle of one second; of longer ones the
    middle second.
    """
    clip = clip * (10 ** (-23 / 20) / np.sqrt(np.mean(clip**2)))
    extra = len(clip) - SAMPLE_RATE
    if extra > 0:
        clip = clip[extra // 2 : extra // 2 + SAMPLE_RATE]
    start = (SAMPLE_RATE - len(clip)) // 2
    second = np.pad(clip, (start, SAMPLE_RATE - len(clip) - start))
    if snr_db is not None and random is not None:
        second = second + random.normal(0.0, 10 ** ((-23 - snr_db) / 20), SAMPLE_RATE)
    return np.rint(np.clip(second, -1.0, 32767 / 32768) * 32768.0).astype(np.int16)


def _write_wav(path: Path, samples: NDArray[np.int16]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())


# Splits


@dataclass(frozen=True)
class _Row:
    image_file_name: str
    audio_file_name: str
    label: str
    speaker: str
    language: str


def _write_metadata(folder: Path, rows: list[_Row]) -> int:
    lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(rows)


def _make_folders(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "audio").mkdir()


@dataclass(frozen=True)
class _Clip:
    language: str
    digit: int
    utterance: Utterance
    image: int


def _clips(digits: list[int], random: np.random.Generator, clips_per_word: int) -> Iterator[_Clip]:
    images = {digit: [index for index in _TRAIN_IMAGES if digits[index] == digit] for digit in range(10)}
    variants = VARIANTS.split()
    for language, words in WORDS.items():
        for digit, word in enumerate(words):
            for number in range(clips_per_word):
                if language == "en" and number % 2:
                    stretch, pitch = float(random.uniform(0.8, 1.9)), int(random.integers(90, 261))
                    utterance = flite(str(random.choice(FLITE_VOICES)), stretch, pitch, word)
                else:
                    voice = f"{random.choice(ACCENTS[language])}+{random.choice(variants)}"
                    utterance = espeak(voice, int(random.integers(80, 151)), int(random.integers(15, 91)), word)
                yield _Clip(language, digit, utterance, int(random.choice(images[digit])))


def _write_train(
    folder: Path,
    scans: Scans,
    digits: list[int],
    seed: int,
    clips_per_word: int,
    notices: list[str],
    report: Progress,
) -> int:
    _make_folders(folder)
    clips = list(_clips(digits, np.random.default_rng([seed, 0]), clips_per_word))
    for image in {clip.image for clip in clips}:
        _write_image(folder / f"images/{image:04}.png", scans[image])

    def write(numbered: tuple[int, _Clip]) -> bool:
        number, clip = numbered
        spoken = speak(clip.utterance)
        if len(spoken):
            _write_wav(folder / f"audio/{number:05}.wav", _one_second(spoken, None, None))
        return len(spoken) > 0

    rows = []
    with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
        for number, audible in enumerate(pool.map(write, enumerate(clips))):
            clip = clips[number]
            if audible:
                names = f"images/{clip.image:04}.png", f"audio/{number:05}.wav"
                rows.append(_Row(*names, LABELS[clip.digit], clip.utterance.speaker, clip.language))
            else:
                notices.append(f"train: left out a clip that is silent: {' '.join(clip.utterance.command)}")
            report("train", number + 1, len(clips))
    return _write_metadata(folder, rows)


def _write_humans(
    folder: Path,
    split: int,
    speakers: tuple[Speaker, ...],
    images: range,
    scans: Scans,
    digits: list[int],
    arguments: dict[str, Any],
    notices: list[str],
    report: Progress,
) -> int:
    """Every image of the split with every speaker saying its digit, each row under noise of its own."""
    _make_folders(folder)
    rows = []
    for order, speaker in enumerate(speakers):
        recordings = [recording(speaker, digit) for digit in range(10)]
        for digit in range(10):
            if not len(recordings[digit]):
                notices.append(f"{folder.name}: left out {speaker.files.format(digit)}: the clip is silent")
        for image in images:
            clip = recordings[digits[image]]
            report(folder.name, order * len(images) + image - images.start + 1, len(speakers) * len(images))
            if not len(clip):
                continue
            random = np.random.default_rng([arguments["seed"], split, order, image])
            name = f"{image:04}-{speaker.name}"
            noisy = scans[image] + random.normal(0.0, arguments["image_noise"], scans[image].shape)
            _write_image(folder / f"images/{name}.png", noisy)
            _write_wav(folder / f"audio/{name}.wav", _one_second(clip, arguments["audio_snr_db"], random))
            label = LABELS[digits[image]]
            rows.append(_Row(f"images/{name}.png", f"audio/{name}.wav", label, speaker.name, speaker.language))
    return _write_metadata(folder, rows)
