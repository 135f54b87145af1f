"""Data sets on disk: a folder per split with a `metadata.jsonl` naming each row's files (the convention of
HF's folder sets). docs/your-own-data.md walks through it. Nothing here imports torch.

A row is a JSON object. Its keys, each left out or null where a row lacks it:

    image_file_name, audio_file_name   paths relative to the metadata file
    text                               a string
    label | labels                     a string | a list of strings; every row has one of the two
    mask_file_name                     a PNG of 8-bit instance numbers (0: background), as large as the image
    mask_values                        the instances that decide the answer; left out: every one but 0

and any others, which become the sample's columns.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmedge.runtime.errors import DataError
from mmedge.runtime.inputs import LEAST_RATE, MOST_RATE
from mmedge.runtime.media import decode_audio, decode_image

METADATA = "metadata.jsonl"
MODALITIES = ("image", "audio", "text")

_DECODERS: dict[str, Callable[[Path], Any]] = {"image": decode_image, "audio": decode_audio}
_KEYS = {"image_file_name", "audio_file_name", "text", "label", "labels", "mask_file_name", "mask_values"}
_MOST_PROBLEMS_SHOWN = 100
_LARGEST_SAMPLE = 1e9  # of audio, as the runtime takes it


def decode_file(kind: str, path: Path) -> Any:
    """The file of a modality as `Sample.load` gives it, or of a "mask": uint8 [H, W], the number of the instance.

    Raises:
        DataError: it is gone or damaged.
    """
    return _decode_mask(path) if kind == "mask" else _DECODERS[kind](path)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a split, of the modalities that were asked for.

    `files` has the path of each modality that is a file; `text` is None without one. `modalities` are those present,
    in the order asked for. `labels` is one label, or of a multi-label row any number. `mask_values` None: all but 0.
    `columns` are the keys that the format does not know, `line` the row's line in the metadata file.
    """

    files: Mapping[str, Path]
    text: str | None
    modalities: tuple[str, ...]
    labels: tuple[str, ...]
    mask_file: Path | None
    mask_values: tuple[int, ...] | None
    columns: Mapping[str, Any]
    line: int

    @property
    def label(self) -> str:
        """The only label, or the first of several.

        Raises:
            DataError: a multi-label row with an empty list.
        """
        if not self.labels:
            raise DataError(f"line {self.line} of the split's {METADATA}: found no label in labels; expected one")
        return self.labels[0]

    def load(self, decode: Callable[[str, Path], Any] = decode_file) -> dict[str, Any]:
        """The inputs by modality: "image" uint8 [H, W] or [H, W, 3], "audio" an `mmedge.Audio`, "text" a string.

        `decode` may remember files, since rows share them.

        Raises:
            DataError: a file is gone or damaged.
        """
        return {name: self.text if name == "text" else decode(name, self.files[name]) for name in self.modalities}

    def mask(self, decode: Callable[[str, Path], Any] = decode_file) -> npt.NDArray[np.bool_] | None:
        """Where the image holds what decides the answer: bool [H, W]; None if the row has no mask.

        Raises:
            DataError: the file is gone or damaged.
        """
        if self.mask_file is None:
            return None
        instances = decode("mask", self.mask_file)
        if self.mask_values is None:
            return np.asarray(instances != 0)
        decides = np.zeros(256, np.bool_)
        decides[list(self.mask_values)] = True
        return np.asarray(decides[instances])


def read_split(
    root: Path | str, split: str, modalities: Sequence[str], labels: Sequence[str] | None = None
) -> list[Sample]:
    """The rows of `root`/`split`, every distinct file decoded once to see that it can be.

    `modalities` are those to read, in this order: "image", "audio", "text"; others are left alone, and so are masks
    without "image". `labels` are the labels allowed (None: any).

    Raises:
        DataError: no such split, an empty one, or bad rows: all of them, each with its line number.
    """
    unknown = [modality for modality in modalities if modality not in MODALITIES]
    if unknown or not modalities:
        raise DataError(f"found modalities {list(modalities)}; a folder holds {', '.join(MODALITIES)}")
    metadata = Path(root) / split / METADATA
    try:
        lines = metadata.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise DataError(
            f"cannot read {metadata}: {error.strerror}. Expected a folder per split, with one JSON "
            f"object per line in its {METADATA}"
        ) from error

    rows = _Rows(metadata.parent, tuple(modalities), None if labels is None else frozenset(labels))
    samples = [
        sample
        for number, line in enumerate(lines, start=1)
        if line.strip() and (sample := rows.read(number, line)) is not None
    ]
    problems = sorted([*rows.problems, *_file_problems(samples)])
    if problems:
        raise DataError(_list_problems(metadata, problems))
    if not samples:
        raise DataError(f"{metadata} holds no rows; expected one JSON object per line")
    return samples


def content_hash(rows: Sequence[Sample]) -> str:
    """SHA-256 of what the rows hold."""
    digest = hashlib.sha256()
    for sample in rows:
        digest.update(json.dumps([sample.text, sorted(sample.files)]).encode())
        for _, path in sorted(sample.files.items()):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """So many of `samples`, or all, in their order: one drawn by a fixed seed from each of `count` equal parts. (Every
    n-th would be all of one kind where the rows come in a round of kinds.)
    """
    count = min(count, len(samples))
    ends = np.arange(count + 1) * len(samples) // max(count, 1)
    return [samples[number] for number in np.random.default_rng(0).integers(ends[:-1], ends[1:])]


class _Rows:
    """Turns lines into samples and collects what is wrong with them. A name is looked up on disk once."""

    def __init__(self, folder: Path, modalities: tuple[str, ...], allowed: frozenset[str] | None) -> None:
        self.problems: list[tuple[int, str]] = []
        self._line = 0
        self._folder, self._modalities, self._allowed = folder, modalities, allowed
        self._found: dict[str, Path | str] = {}

    def read(self, number: int, line: bytes) -> Sample | None:
        self._line, before = number, len(self.problems)
        try:
            row = json.loads(line.decode())
            if b"\\u" in line:  # an escape may be half of a pair, and no UTF-8 can be made of that
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            self._report(f"found the lone surrogate {error.object[error.start]!a}; expected characters")
        except (ValueError, RecursionError) as error:  # includes bytes that are not UTF-8
            self._report(f"not JSON: {error}")
        else:
            if isinstance(row, dict):
                sample = self._sample(row)
                return sample if len(self.problems) == before else None
            self._report(f"found {type(row).__name__}, expected a JSON object")
        return None

    def _report(self, problem: str) -> None:
        self.problems.append((self._line, problem))

    def _sample(self, row: dict[str, Any]) -> Sample:
        labels = self._labels(row)
        files: dict[str, Path] = {}
        text, present = None, []
        for modality in self._modalities:
            if modality == "text":
                text = row.get("text")
                given = text is not None
                if given and not isinstance(text, str):
                    self._report(f"text {text!r} is not a string")
            else:
                given = row.get(f"{modality}_file_name") is not None
                path = self._file(row, f"{modality}_file_name")
                if path is not None:
                    files[modality] = path
            if given:
                present.append(modality)
        if not present:
            keys = (modality if modality == "text" else f"{modality}_file_name" for modality in self._modalities)
            self._report(f"no modality: none of {', '.join(keys)}")
        mask_file, mask_values = self._mask(row) if "image" in self._modalities else (None, None)
        columns = {key: value for key, value in row.items() if key not in _KEYS}
        return Sample(files, text, tuple(present), labels, mask_file, mask_values, columns, self._line)

    def _labels(self, row: dict[str, Any]) -> tuple[str, ...]:
        label, labels = row.get("label"), row.get("labels")
        if label is not None and labels is not None:
            self._report("both label and labels; expected one of them")
        elif labels is not None:
            if isinstance(labels, list) and all(isinstance(each, str) for each in labels):
                if len(set(labels)) < len(labels):
                    self._report(f"labels {labels!r} has a label twice")
                return self._allow(tuple(labels))
            self._report(f"labels {labels!r} is not a list of strings")
        elif label is None:
            self._report("no label")
        elif isinstance(label, str):
            return self._allow((label,))
        else:
            self._report(f"label {label!r} is not a string")
        return ()

    def _allow(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        if self._allowed is not None:
            for label in labels:
                if label not in self._allowed:
                    self._report(f"unknown label {label!r}; expected one of {', '.join(sorted(self._allowed))}")
        return labels

    def _mask(self, row: dict[str, Any]) -> tuple[Path | None, tuple[int, ...] | None]:
        values = row.get("mask_values")
        if row.get("mask_file_name") is None:
            if values is not None:
                self._report("mask_values without a mask_file_name")
            return None, None
        if row.get("image_file_name") is None:
            self._report("mask_file_name without an image_file_name")
        if values is not None and not (
            isinstance(values, list) and values and all(type(value) is int and 1 <= value <= 255 for value in values)
        ):
            self._report(f"mask_values {values!r} is not a list of integers from 1 to 255")
            values = None
        return self._file(row, "mask_file_name"), None if values is None else tuple(values)

    def _file(self, row: dict[str, Any], key: str) -> Path | None:
        name = row.get(key)
        if name is None:
            return None
        if not isinstance(name, str) or not name:
            self._report(f"{key} {name!r}: expected a relative path")
            return None
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._look_up(name)
        if isinstance(found, str):
            self._report(f"{key} {name!r}: {found}")
            return None
        return found

    def _look_up(self, name: str) -> Path | str:
        """The file's path, or what is wrong with its name."""
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == "..":
            return f"lies outside the folder; expected a path inside {self._folder}"
        path = self._folder / name
        return path if os.path.isfile(path) else "no such file"


def _decode_mask(path: Path) -> npt.NDArray[np.uint8]:
    """uint8 [H, W]: the number of the instance at each pixel; of a palette image the index, not the colour."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode, instances = image.mode, np.asarray(image)
    except Exception as error:  # a damaged file can fail anywhere inside its decoder
        raise DataError(f"{path}: not a readable PNG: {error}") from error
    if mode not in ("L", "P"):
        raise DataError(f"{path}: found pixels of mode {mode}; expected a mask of 8 bits, grey or with a palette")
    return instances


# Files: each distinct one is decoded once, and what rows say of it is compared with what was seen


@dataclass(frozen=True, slots=True)
class _Seen:
    """A file that was decoded: what is wrong with it, the size of an image or mask, the instances of a mask."""

    problem: str | None = None
    size: tuple[int, ...] = ()
    instances: frozenset[int] = frozenset()


def _look_at(file: tuple[str, Path]) -> _Seen:
    kind, path = file
    try:
        if kind == "mask":
            mask = decode_file(kind, path)
            return _Seen(size=mask.shape, instances=frozenset(np.flatnonzero(np.bincount(mask.ravel())).tolist()) - {0})
        decoded = decode_file(kind, path)
        if kind == "image":
            return _Seen(size=decoded.shape[:2])
        if not LEAST_RATE <= decoded.sample_rate <= MOST_RATE:
            expected = f"expected {LEAST_RATE} to {MOST_RATE}"
            return _Seen(problem=f"{path}: found a sample rate of {decoded.sample_rate} Hz; {expected}")
        good = np.abs(decoded.samples) <= _LARGEST_SAMPLE  # false for NaN
        if good.all():
            return _Seen()
        first = int(np.argmin(good))
        expected = f"expected a finite number within +-{_LARGEST_SAMPLE:g}"
        return _Seen(problem=f"{path}: sample {first} is {decoded.samples[first]:g}; {expected}")
    except DataError as error:
        return _Seen(problem=str(error))


def _file_problems(samples: Sequence[Sample]) -> Iterator[tuple[int, str]]:
    files = dict.fromkeys(file for sample in samples for file in sample.files.items())
    masks = dict.fromkeys(("mask", sample.mask_file) for sample in samples if sample.mask_file is not None)
    everything = [*files, *masks]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = dict(zip(everything, pool.map(_look_at, everything), strict=True))
    for sample in samples:
        for file in sample.files.items():
            if (problem := seen[file].problem) is not None:
                yield sample.line, problem
        if sample.mask_file is not None:
            mask, image = seen["mask", sample.mask_file], seen["image", sample.files["image"]]
            if mask.problem is not None:
                yield sample.line, mask.problem
            elif image.problem is None:
                yield from ((sample.line, problem) for problem in _mask_problems(sample, mask, image))


def _mask_problems(sample: Sample, mask: _Seen, image: _Seen) -> Iterator[str]:
    if mask.size != image.size:
        (height, width), (rows, columns) = mask.size, image.size
        yield f"{sample.mask_file}: found {width} x {height} pixels; expected the image's {columns} x {rows}"
    if sample.mask_values is not None and mask.instances.isdisjoint(sample.mask_values):
        found = ", ".join(map(str, sorted(mask.instances))) or "none"
        yield f"{sample.mask_file}: none of the mask_values {list(sample.mask_values)} occurs; found {found}"


def _list_problems(metadata: Path, problems: Sequence[tuple[int, str]]) -> str:
    shown = [f"  line {number}: {problem}" for number, problem in problems[:_MOST_PROBLEMS_SHOWN]]
    if len(problems) > len(shown):
        shown.append(f"  and {len(problems) - len(shown)} more")
    rows = len({number for number, _ in problems})
    return "\n".join([f"{metadata}: {rows} bad {'row' if rows == 1 else 'rows'}; correct or remove them", *shown])
