"""Where voices come from: espeak-ng and flite speak, people were recorded for Debian packages.

A clip is float64 mono at `SAMPLE_RATE`, full scale 1, trimmed to what is spoken; empty if it is silent.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmedge.runtime.errors import DataError

Clip = NDArray[np.float64]

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SAMPLE_RATE = 8000

WORDS = {
    "en": LABELS,
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    "it": ("zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"),
    "ru": ("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"),
}
ACCENTS = {
    "en": ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029"),
    "es": ("es", "es-419"),
    "fr": ("fr-fr", "fr-be", "fr-ch"),
    "it": ("it",),
    "ru": ("ru",),
}
VARIANTS = (
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael "
    "Mike Storm adam anika antonio aunty belinda benjamin boris caleb david ed edward edward2 f1 f2 f3 "
    "f4 f5 grandma grandpa gustave iven iven2 iven3 iven4 john kaukovalta klatt klatt2 klatt3 klatt4 "
    "linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel norbert pablo paul pedro quincy rob robert "
    "sandro shelby steph steph2 steph3 travis victor zac"
)
FLITE_VOICES = ("awb", "kal", "kal16", "rms", "slt")  # English, built from recordings of people

SOUNDS = Path("/usr/share/asterisk/sounds")
_HEADERLESS_ULAW = ("-t", "ul", "-r", "8000", "-c", "1")


@dataclass(frozen=True)
class Speaker:
    """A recorded voice: `files` is the path of each digit's recording; `sox_input` tells sox their format."""

    name: str
    language: str
    package: str
    files: str
    sox_input: tuple[str, ...] = ()


VALIDATION_SPEAKERS = (
    Speaker("allison-en", "en", "asterisk-core-sounds-en-wav", f"{SOUNDS}/en_US_f_Allison/digits/{{}}.wav"),
    Speaker("allison-es", "es", "asterisk-core-sounds-es-wav", f"{SOUNDS}/es_MX_f_Allison/digits/{{}}.wav"),
    Speaker("june-fr", "fr", "asterisk-core-sounds-fr-wav", f"{SOUNDS}/fr_CA_f_June/digits/{{}}.wav"),
    Speaker("carlo-it", "it", "asterisk-core-sounds-it-wav", f"{SOUNDS}/it_IT_m_Carlo/digits/{{}}.wav"),
    Speaker("ivrvoice-ru", "ru", "asterisk-core-sounds-ru-wav", f"{SOUNDS}/ru_RU_f_IvrvoiceRU/digits/{{}}.wav"),
)
TEST_SPEAKERS = (
    Speaker("july-es", "es", "asterisk-prompt-es-co", f"{SOUNDS}/es/digits/{{}}.gsm"),
    Speaker("armelle-fr", "fr", "asterisk-prompt-fr-armelle", f"{SOUNDS}/fr/digits/{{}}.gsm"),
    Speaker("paola-it", "it", "asterisk-prompt-it-menardi-wav", f"{SOUNDS}/it_IT_f_Menardi/digits/{{}}.wav"),
    Speaker("dawson-en", "en", "saytime", "/usr/share/saytime/{}.au", _HEADERLESS_ULAW),
)


def check_sources() -> None:
    """DataError, naming the Debian packages to install, if a program or a recording is missing."""
    speakers = (*VALIDATION_SPEAKERS, *TEST_SPEAKERS)
    check_packages(
        "AV-digits",
        ("espeak-ng", "flite", "sox"),
        {
            speaker.package
            for speaker in speakers
            if not all(Path(speaker.files.format(digit)).is_file() for digit in range(10))
        },
    )


def check_packages(name: str, programs: Iterable[str], missing: set[str]) -> None:
    """DataError if any package is in `missing` or a program is, which packages are named after: what the set `name`
    needs and how to install it.
    """
    packages = sorted(missing | {program for program in programs if shutil.which(program) is None})
    if packages:
        raise DataError(
            f"{name} needs Debian packages that are not installed: {', '.join(packages)}. "
            f"Install them: apt-get install {' '.join(packages)}"
        )


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except subprocess.CalledProcessError as error:
        message = error.stderr.decode(errors="replace").strip()
        raise DataError(f"{' '.join(command)} failed with exit code {error.returncode}: {message}") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{' '.join(command)} gave no answer within 60 s") from error


@dataclass(frozen=True)
class Utterance:
    """Words by a synthetic voice: its name, and the command that writes them to stdout as a WAV stream. It is played
    `factor` times as fast, which moves its pitch and its formants alike, as another size of speaker would.
    """

    speaker: str
    command: tuple[str, ...]
    factor: float = 1.0


def espeak(voice: str, speed: int, pitch: int, word: str) -> Utterance:
    """espeak-ng's `voice` (accent+variant); `speed` in words a minute, `pitch` 0 to 99."""
    return Utterance(
        f"espeak {voice}", ("espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word)
    )


def flite(voice: str, stretch: float, pitch: int, word: str) -> Utterance:
    """flite's `voice`, `stretch` times as slow as it is recorded, at a mean pitch of `pitch` Hz."""
    settings = ("--setf", f"duration_stretch={stretch:.2f}", "--setf", f"int_f0_target_mean={pitch}")
    return Utterance(f"flite {voice}", ("flite", "-voice", voice, "-t", word, *settings, "-o", "/dev/stdout"))


def speak(utterance: Utterance) -> Clip:
    """What the voice says."""
    from scipy.signal import resample_poly

    stream = _run(list(utterance.command))
    # The header of a stream was written before its length was known: take the rate from its 44 bytes and drop them.
    rate = int.from_bytes(stream[24:28], "little") or SAMPLE_RATE
    clip = np.frombuffer(stream[44 : len(stream) - len(stream) % 2], dtype="<i2") / 32768.0
    return trim(resample_poly(clip, round(SAMPLE_RATE / utterance.factor), rate) if len(clip) else clip)


def recording(speaker: Speaker, digit: int) -> Clip:
    """The speaker saying `digit`."""
    source = speaker.files.format(digit)
    raw = ("-t", "raw", "-e", "signed", "-b", "16", "-c", "1", "-r", str(SAMPLE_RATE), "-L")
    # -D: no dither, which would differ from run to run.
    stream = _run(["sox", "-D", *speaker.sox_input, source, *raw, "-"])
    return trim(np.frombuffer(stream, dtype="<i2") / 32768.0)


def trim(clip: Clip) -> Clip:
    """From the first to the last 10 ms within 30 dB of the loudest, and 20 ms more on each side."""
    hop = SAMPLE_RATE // 100
    padded = np.pad(clip, (0, -len(clip) % hop))
    level = np.sqrt(np.mean(padded.reshape(-1, hop) ** 2, axis=1))
    if len(level) == 0 or level.max() < 1e-3:
        return clip[:0]
    loud = np.flatnonzero(level > level.max() * 10 ** (-30 / 20))
    return clip[max(0, (loud[0] - 2) * hop) : (loud[-1] + 3) * hop]
