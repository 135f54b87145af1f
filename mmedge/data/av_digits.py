"""AV-digits: real handwritten digits paired with the same digit spoken in five languages.

Images are the 8 x 8 scans of scikit-learn's `load_digits`. The training voices are synthetic (espeak-ng, and flite for
half of the English ones), the voices of `validation` and `test` are people never heard in training, and no speaker is
in two splits. `validation` and `test` show the same held-out scans, each under noise of its own. Everything comes from
packages of Debian and PyPI; nothing is downloaded. `test` is there to be looked at once, when all choices are made.
"""

from __future__ import annotations

import json
import os
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmedge.data.making import MadeSet, Progress, check_not_negative, make_set
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
from mmedge.runtime.errors import InvalidArgument

IMAGE_SIZE = 64
_TRAIN_IMAGES, _HELD_OUT_IMAGES = range(1257), range(1257, 1797)

_FORMAT = 3

Scans = NDArray[np.float64]


def build(
    out: Path | str,
    *,
    seed: int = 0,
    image_noise: float = 0.3,
    audio_snr_db: float = 10.0,
    clips_per_word: int = 120,
    progress: Progress | None = None,
) -> MadeSet:
    """Write `train`, `validation` and `test`, each with its metadata.jsonl, and a README.md to `out`.

    `train` is clean; in the other two every row has its own noise baked in. `image_noise` is the standard
    deviation of Gaussian noise on the 8 x 8 scan as a fraction of its full range; `audio_snr_db` the level
    of the spoken part over that of white noise filling the whole second. `clips_per_word` synthetic clips
    are spoken of each digit in each language. `progress(stage, done, total)` is called often. The same
    arguments give the same bytes on the same machine.

    The set is built beside `out` and moved there when complete. A set made earlier with the same arguments
    is kept, one made with others replaced; any other non-empty `out` raises DataError, as does a missing
    program or sound package. InvalidArgument: a number is negative or not finite, or the ratio outside -100 to 100 dB.
    """
    check_not_negative(seed=seed, image_noise=image_noise, clips_per_word=clips_per_word)
    if not -100 <= audio_snr_db <= 100:  # 16 bits hold no more
        raise InvalidArgument(f"audio_snr_db is {audio_snr_db}; expected -100 to 100")
    arguments = {
        "format": _FORMAT,
        "seed": seed,
        "image_noise": float(image_noise),
        "audio_snr_db": float(audio_snr_db),
        "clips_per_word": clips_per_word,
    }
    report = progress or (lambda stage, done, total: None)

    def write(folder: Path) -> tuple[dict[str, int], list[str]]:
        check_sources()
        readme = Path(__file__).with_name("av_digits_readme.md").read_text(encoding="utf-8")
        (folder / "README.md").write_text(readme.format(**arguments), encoding="utf-8")
        scans, digits = _scans()
        notices: list[str] = []
        rows = {"train": _write_train(folder / "train", scans, digits, seed, clips_per_word, notices, report)}
        for number, (split, speakers) in enumerate((("validation", VALIDATION_SPEAKERS), ("test", TEST_SPEAKERS)), 1):
            rows[split] = _write_humans(
                folder / split, number, speakers, _HELD_OUT_IMAGES, scans, digits, arguments, notices, report
            )
        return rows, notices

    return make_set(out, "av-digits", arguments, write)


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
