"""Voices that nobody has: variants of espeak-ng with a pitch, a vocal tract and a glottis drawn at random.

espeak-ng is a formant synthesiser; a variant file says how its formants, its pitch and its source differ from the plain
voice. The programme takes a folder with such files through `--path`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmedge.runtime.errors import DataError

# espeak-ng reads the list of its voices into 350 places, and there are languages too.
_VARIANTS_PER_FOLDER = 150
_FORMANTS = 9
_PITCHES = (65.0, 230.0)  # Hz, where a voice's range begins


def invent(random: np.random.Generator) -> str:
    """The file of a variant drawn at random, without its name."""
    low, high = np.log(_PITCHES)
    pitch = np.exp(random.uniform(low, high))
    # A higher voice mostly has a shorter vocal tract, whose formants are higher.
    tract = np.clip(0.88 + 0.22 * (np.log(pitch) - low) / (high - low) + random.normal(0.0, 0.06), 0.82, 1.3)
    lines = ["language variant", f"pitch {pitch:.0f} {pitch * random.uniform(1.15, 1.7):.0f}"]
    for formant in range(_FORMANTS):
        frequency = 100 * tract * random.normal(1.0, 0.05) if formant else 100 * random.uniform(0.9, 1.1)
        strength, width = random.uniform(55, 130), random.uniform(60, 170)
        lines.append(f"formant {formant} {frequency:.0f} {strength:.0f} {width:.0f}")
    if random.random() < 0.3:
        lines.append(f"klatt {random.integers(1, 6)}")
    if random.random() < 0.4:
        lines.append("breath " + " ".join(str(level) for level in random.integers(0, 8, 8)))
    lines.append(f"roughness {random.integers(0, 5)}")
    lines.append(f"flutter {random.integers(0, 5)}")
    lines.append(f"voicing {random.integers(60, 130)}")
    lines.append(f"consonants {random.integers(60, 130)} {random.integers(60, 130)}")
    tone = [
        (random.integers(100, 600), random.integers(170, 256)),
        (random.integers(900, 1600), random.integers(60, 256)),
        (random.integers(2000, 3600), random.integers(30, 256)),
    ]
    lines.append("tone " + " ".join(f"{hertz} {level}" for hertz, level in tone))
    return "\n".join(lines) + "\n"


@contextmanager
def installed(variants: Sequence[str]) -> Iterator[list[Path]]:
    """For each of `variants`, files as of `invent`, the folder for espeak-ng's `--path`; there variant n is "v{n}".
    The folders are gone afterwards.

    Raises:
        DataError: espeak-ng does not say where its data are.
    """
    version = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True).stdout
    data = Path(version.partition("Data at:")[2].strip())
    if not (data / "phondata").is_file():
        raise DataError(f"found no data of espeak-ng at {data}; expected what its package espeak-ng-data brings")
    with TemporaryDirectory(prefix="espeak-") as root:
        folders = []
        for number, variant in enumerate(variants):
            folder = Path(root) / str(number // _VARIANTS_PER_FOLDER)
            voices = folder / "espeak-ng-data" / "voices" / "!v"
            if not voices.exists():
                voices.mkdir(parents=True)
                for part in data.iterdir():
                    if part.name != "voices":
                        (folder / "espeak-ng-data" / part.name).symlink_to(part)
            (voices / f"v{number}").write_text(f"name v{number}\n{variant}")
            folders.append(folder)
        yield folders
