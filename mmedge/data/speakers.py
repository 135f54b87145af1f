"""Speakers: is it the same person on the telephone, whatever is said and in whatever language?

The voices to train on are synthetic: variants of espeak-ng, most of them invented for the purpose, and those of flite
at several sizes, all saying words that mean nothing. `validation` and `test` are people recorded for telephone systems,
in prompts of 1 to 4 s; nobody is in two splits, and each split has people who share a language and a sex. Every clip
has been through GSM 06.10, the telephone's codec, so that nobody is told apart by theirs. Everything comes from
Debian's packages; nothing is downloaded. `test` is there to be looked at once, when all choices are made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.data.invented_voices import installed, invent
from mmedge.data.making import MadeSet, Progress, check_not_negative, make_set
from mmedge.data.voices import (
    FLITE_VOICES,
    SAMPLE_RATE,
    SOUNDS,
    VARIANTS,
    Clip,
    Utterance,
    check_packages,
    speak,
    trim,
)

# espeak-ng's names
LANGUAGES = "en-us en-gb es fr-fr it ru de nl pl pt-br cs sv da fi hu ro tr el hr sk ca id sw eo lv lt et"
FACTORS = (0.8, 0.85, 0.9, 0.95, 1.0, 1.06, 1.12, 1.18, 1.25)
SECONDS = (1.0, 4.0)

_ONSETS = "b d f g k l m n p r s t v z sh ch tr st pl kr br gl sp nd rt"
_VOWELS = "a e i o u ai au ei ou ie"
_CODAS = ("", "", "n", "s", "r", "l")
_NOT_SPEECH = {"ascending-2tone", "beep", "beeperr", "descending-2tone", "tt-monkeys"}
_HEADERLESS = {"samplerate": SAMPLE_RATE, "channels": 1, "format": "RAW"}
_FORMATS: dict[str, dict[str, Any]] = {
    ".au": {**_HEADERLESS, "subtype": "ULAW"},
    ".gsm": {**_HEADERLESS, "subtype": "GSM610"},
    ".wav": {},
}
_CLIPS_JOINED = 3  # a single word of saytime's is too short
_FORMAT = 2


@dataclass(frozen=True)
class Recordings:
    """What a person recorded in a language: the sound files under `folder`."""

    speaker: str
    language: str
    sex: str
    package: str
    folder: Path


VALIDATION_SPEAKERS = (
    Recordings("armelle", "fr", "female", "asterisk-prompt-fr-armelle", SOUNDS / "fr"),
    Recordings("carlo", "it", "male", "asterisk-core-sounds-it-wav", SOUNDS / "it_IT_m_Carlo"),
    Recordings("june", "fr", "female", "asterisk-core-sounds-fr-wav", SOUNDS / "fr_CA_f_June"),
    Recordings("paola", "it", "female", "asterisk-prompt-it-menardi-wav", SOUNDS / "it_IT_f_Menardi"),
)
TEST_SPEAKERS = (
    Recordings("allison", "en", "female", "asterisk-core-sounds-en-wav", SOUNDS / "en_US_f_Allison"),
    Recordings("allison", "es", "female", "asterisk-core-sounds-es-wav", SOUNDS / "es_MX_f_Allison"),
    Recordings("dawson", "en", "male", "saytime", Path("/usr/share/saytime")),
    Recordings("ivrvoice", "ru", "female", "asterisk-core-sounds-ru-wav", SOUNDS / "ru_RU_f_IvrvoiceRU"),
    Recordings("july", "es", "female", "asterisk-prompt-es-co", SOUNDS / "es"),
)


def build(
    out: Path | str,
    *,
    seed: int = 0,
    invented_voices: int = 240,
    clips_per_voice: int = 12,
    pairs: int = 3000,
    progress: Progress | None = None,
) -> MadeSet:
    """Write `train`, `validation` and `test`, each with its metadata.jsonl and pairs.jsonl, and a README.md to `out`.

    `clips_per_voice` clips are spoken by each synthetic voice, `invented_voices` of which are invented. `pairs` pairs
    of rows of one speaker are drawn in each split, and as many of two; fewer where there are no more. The same
    arguments give the same bytes on the same machine.

    The set is built beside `out` and moved there when complete. A set made earlier with the same arguments
    is kept, one made with others replaced; any other non-empty `out` raises DataError, as does a missing
    program or sound package. InvalidArgument: a number is negative.
    """
    check_not_negative(seed=seed, invented_voices=invented_voices, clips_per_voice=clips_per_voice, pairs=pairs)
    arguments = {
        "format": _FORMAT,
        "seed": seed,
        "invented_voices": invented_voices,
        "clips_per_voice": clips_per_voice,
        "pairs": pairs,
    }
    report = progress or (lambda stage, done, total: None)

    def write(folder: Path) -> tuple[dict[str, int], list[str]]:
        everyone = (*VALIDATION_SPEAKERS, *TEST_SPEAKERS)
        check_packages(
            "speakers", ("espeak-ng", "flite"), {person.package for person in everyone if not person.folder.is_dir()}
        )
        readme = Path(__file__).with_name("speakers_readme.md").read_text(encoding="utf-8")
        (folder / "README.md").write_text(readme.format(**arguments), encoding="utf-8")
        notices: list[str] = []
        splits = {
            "train": _write_train(folder / "train", seed, invented_voices, clips_per_voice, notices, report),
            "validation": _write_humans(folder / "validation", VALIDATION_SPEAKERS, seed, report),
            "test": _write_humans(folder / "test", TEST_SPEAKERS, seed, report),
        }
        for number, (split, rows) in enumerate(splits.items()):
            _write_lines(folder / split / "metadata.jsonl", map(asdict, rows))
            drawn = draw_pairs(rows, pairs, np.random.default_rng([seed, 1, number]))
            _write_lines(folder / split / "pairs.jsonl", drawn)
        return {split: len(rows) for split, rows in splits.items()}, notices

    return make_set(out, "speakers", arguments, write)


@dataclass(frozen=True)
class Row:
    """A row of metadata.jsonl. What a person says is not written down, nor the sex of a synthetic voice."""

    audio_file_name: str
    label: str
    language: str
    sex: str | None = None
    text: str | None = None


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_clip(path: Path, clip: Clip) -> None:
    """The clip at -23 dB of full scale, in GSM 06.10."""
    import soundfile

    # The codec works on blocks, the last of which is filled up with zeros.
    level = 10 ** (-23 / 20) / np.sqrt(np.mean(clip**2))
    soundfile.write(path, np.clip(clip * level, -1.0, 1.0), SAMPLE_RATE, format="WAV", subtype="GSM610")


# Synthetic voices


def _words(random: np.random.Generator) -> str:
    """Three to five words that mean nothing."""
    return " ".join(
        "".join(
            str(random.choice(_ONSETS.split()) + random.choice(_VOWELS.split())) for _ in range(random.integers(1, 4))
        )
        + str(random.choice(_CODAS))
        for _ in range(random.integers(3, 6))
    )


@dataclass(frozen=True)
class _Clip:
    utterance: Utterance
    language: str
    text: str


def _espeak(speaker: str, voice: str, path: Path | None, random: np.random.Generator) -> _Clip:
    language, text = str(random.choice(LANGUAGES.split())), _words(random)
    speed, pitch = random.integers(120, 200), round(float(np.clip(random.normal(50, 8), 30, 70)))
    where = () if path is None else (f"--path={path}",)
    options = "-v", f"{language}+{voice}", "-s", str(speed), "-p", str(pitch), "--stdout"
    return _Clip(Utterance(speaker, ("espeak-ng", *where, *options, text)), language, text)


def _flite(voice: str, factor: float, random: np.random.Generator) -> _Clip:
    text, stretch = _words(random), random.uniform(0.9, 1.3) * factor
    command = "flite", "-voice", voice, "-t", text, "--setf", f"duration_stretch={stretch:.2f}", "-o", "/dev/stdout"
    return _Clip(Utterance(f"flite {voice} x {factor}", command, factor), "en", text)


def _clips(seed: int, folders: Sequence[Path], clips_per_voice: int) -> Iterator[_Clip]:
    random = np.random.default_rng([seed, 0])
    for _ in range(clips_per_voice):
        for number, folder in enumerate(folders):
            yield _espeak(f"invented {number:03}", f"v{number}", folder, random)
        for variant in VARIANTS.split():
            yield _espeak(f"espeak {variant}", variant, None, random)
        for voice in FLITE_VOICES:
            if voice != "kal16":  # kal at another rate
                for factor in FACTORS:
                    yield _flite(voice, factor, random)


def _write_train(
    folder: Path, seed: int, invented_voices: int, clips_per_voice: int, notices: list[str], report: Progress
) -> list[Row]:
    (folder / "audio").mkdir(parents=True)
    longest = round(SECONDS[1] * SAMPLE_RATE)

    def write(numbered: tuple[int, _Clip]) -> Row | None:
        number, clip = numbered
        spoken = speak(clip.utterance)[:longest]
        if len(spoken) < SECONDS[0] * SAMPLE_RATE:
            return None
        name = f"audio/{number:05}.wav"
        _write_clip(folder / name, spoken)
        return Row(name, clip.utterance.speaker, clip.language, text=clip.text)

    rows = []
    variants = [invent(np.random.default_rng([seed, 2, number])) for number in range(invented_voices)]
    with installed(variants) as folders, ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
        clips = list(_clips(seed, folders, clips_per_voice))
        for number, row in enumerate(pool.map(write, enumerate(clips))):
            if row is not None:
                rows.append(row)
            report("train", number + 1, len(clips))
    if len(rows) < len(clips):
        notices.append(f"train: {len(clips) - len(rows)} of {len(clips)} clips left out: shorter than {SECONDS[0]:g} s")
    return rows


# People


def _recorded(path: Path) -> Clip:
    import soundfile

    clip, rate = soundfile.read(path, **_FORMATS[path.suffix])
    assert rate == SAMPLE_RATE
    return trim(clip)


def prompts(person: Recordings, seed: int) -> Iterator[tuple[str, Clip]]:
    """Everything of the right length that the person says, with the name of its file; of saytime's short words, three
    in a row of their own.
    """
    files = sorted(
        path
        for path in person.folder.rglob("*")
        if path.suffix in _FORMATS and path.stem not in _NOT_SPEECH and path.parent.name != "silence"
    )
    if person.package == "saytime":
        files = [files[index] for index in np.random.default_rng([seed, 3]).permutation(len(files))]
        groups = [files[start : start + _CLIPS_JOINED] for start in range(0, len(files), _CLIPS_JOINED)]
    else:
        groups = [[file] for file in files]
    heard = set()
    for group in groups:
        clip = np.concatenate([_recorded(file) for file in group])
        if SECONDS[0] <= len(clip) / SAMPLE_RATE <= SECONDS[1] and clip.tobytes() not in heard:
            heard.add(clip.tobytes())
            yield (
                "-".join(str(file.relative_to(person.folder).with_suffix("")).replace("/", "-") for file in group),
                clip,
            )


def _write_humans(folder: Path, people: Sequence[Recordings], seed: int, report: Progress) -> list[Row]:
    (folder / "audio").mkdir(parents=True)
    rows = []
    for done, person in enumerate(people):
        for name, clip in prompts(person, seed):
            file = f"audio/{person.speaker}-{person.language}-{name}.wav"
            _write_clip(folder / file, clip)
            rows.append(Row(file, person.speaker, person.language, person.sex))
            report(folder.name, done, len(people))
    report(folder.name, len(people), len(people))
    return rows


# Pairs


def draw_pairs(rows: Sequence[Row], count: int, random: np.random.Generator) -> list[dict[str, Any]]:
    """About `count` pairs of one speaker, evenly over the speakers, then as many of two, evenly over the pairs of
    speakers; no pair twice. {"first", "second": line of metadata.jsonl, "same": bool, "same_language": bool,
    "same_sex": bool or, where it is not known, None}.
    """
    line = {row.audio_file_name: number for number, row in enumerate(rows, start=1)}
    by_speaker: dict[str, list[Row]] = {}
    for row in rows:
        by_speaker.setdefault(row.label, []).append(row)
    same = [
        pair
        for mine, share in _shared(sorted(by_speaker), count, random)
        for pair in _choose(list(combinations(by_speaker[mine], 2)), share, random)
    ]
    different = [
        pair
        for (mine, yours), share in _shared(list(combinations(sorted(by_speaker), 2)), len(same), random)
        for pair in _choose([(a, b) for a in by_speaker[mine] for b in by_speaker[yours]], share, random)
    ]
    return [
        {
            "first": line[first.audio_file_name],
            "second": line[second.audio_file_name],
            "same": first.label == second.label,
            "same_language": first.language == second.language,
            "same_sex": None if first.sex is None or second.sex is None else first.sex == second.sex,
        }
        for first, second in same + different
    ]


def _shared(groups: Sequence[Any], count: int, random: np.random.Generator) -> Iterator[tuple[Any, int]]:
    """`count` shared out over `groups`; where they are more, over as many of them."""
    for position, index in enumerate(random.permutation(len(groups))[:count]):
        share, more = divmod(count, min(count, len(groups)))
        yield groups[index], share + (position < more)


def _choose(pairs: Sequence[tuple[Row, Row]], count: int, random: np.random.Generator) -> list[tuple[Row, Row]]:
    return [pairs[index] for index in random.choice(len(pairs), min(count, len(pairs)), replace=False)]
