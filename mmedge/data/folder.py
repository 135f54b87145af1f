"""Data sets on disk: a folder per split with a `metadata.jsonl` naming each row's files (the convention of
HF's folder sets).

A row is a JSON object: `image_file_name`, `audio_file_name` (paths relative to the metadata file; absent or
null where the row lacks the modality), `label`, and any other columns. Nothing here imports torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmedge.runtime.errors import DataError
from mmedge.runtime.media import decode_audio, decode_image

METADATA = "metadata.jsonl"

_DECODERS: dict[str, Callable[[Path], Any]] = {"image": decode_image, "audio": decode_audio}
_MOST_PROBLEMS_SHOWN = 100


@dataclass(frozen=True)
class Sample:
    """One row: its file per modality (absent modalities are not in `files`), its label and its other
    columns.
    """

    files: Mapping[str, Path]
    label: str
    columns: Mapping[str, Any]
    line: int

    def load(self) -> dict[str, Any]:
        """The decoded files: "image" uint8 [H, W] or [H, W, 3], "audio" an `mmedge.Audio`.

        Raises:
            DataError: a file is gone or damaged.
        """
        return {modality: _DECODERS[modality](path) for modality, path in self.files.items()}


def read_split(
    root: Path | str, split: str, modalities: Sequence[str], labels: Sequence[str] | None = None
) -> list[Sample]:
    """The rows of `root`/`split`, every file decoded once to see that it can be.

    `modalities` are those to read, in this order: "image", "audio"; files of others are left alone.
    `labels` are the labels allowed (None: any).

    Raises:
        DataError: no such split, an empty one, or bad rows: all of them, each with its line number.
    """
    unknown = [modality for modality in modalities if modality not in _DECODERS]
    if unknown or not modalities:
        raise DataError(f"found modalities {list(modalities)}; a folder holds {', '.join(_DECODERS)}")
    metadata = Path(root) / split / METADATA
    try:
        lines = metadata.read_bytes().splitlines()
    except OSError as error:
        raise DataError(
            f"cannot read {metadata}: {error.strerror}. Expected a folder per split, with one JSON "
            f"object per line in its {METADATA}"
        ) from error

    samples: list[Sample] = []
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            sample, found = _read_row(metadata.parent, number, line, modalities, labels)
            problems += [(number, problem) for problem in found]
            if sample is not None:
                samples.append(sample)
    problems += _unreadable(samples)
    if problems:
        raise DataError(_list_problems(metadata, sorted(problems)))
    if not samples:
        raise DataError(f"{metadata} holds no rows; expected one JSON object per line")
    return samples


def _read_row(
    folder: Path, number: int, line: bytes, modalities: Sequence[str], labels: Sequence[str] | None
) -> tuple[Sample | None, list[str]]:
    try:
        row = json.loads(line)
    except ValueError as error:  # includes bytes that are not UTF-8
        return None, [f"not JSON: {error}"]
    if not isinstance(row, dict):
        return None, [f"found {type(row).__name__}, expected a JSON object"]
    problems = []
    label = row.get("label")
    if not isinstance(label, str):
        problems.append("no label" if label is None else f"label {label!r} is not a text")
    elif labels is not None and label not in labels:
        problems.append(f"unknown label {label!r}; expected one of {', '.join(labels)}")
    files = {}
    for modality in modalities:
        key = f"{modality}_file_name"
        name = row.get(key)
        if name is None:
            continue
        problem = _file_problem(folder, name)
        if problem is None:
            files[modality] = folder / name
        else:
            problems.append(f"{key} {name!r}: {problem}")
    if not files and not problems:
        problems.append("no modality: none of " + ", ".join(f"{modality}_file_name" for modality in modalities))
    if problems:
        return None, problems
    columns = {key: value for key, value in row.items() if key != "label" and not key.endswith("_file_name")}
    return Sample(files, str(label), columns, number), []


def _file_problem(folder: Path, name: object) -> str | None:
    if not isinstance(name, str) or not name:
        return "expected a relative path"
    if os.path.isabs(name) or os.path.normpath(name).startswith(".."):
        return f"lies outside the folder; expected a path inside {folder}"
    return None if (folder / name).is_file() else "no such file"


def _unreadable(samples: Sequence[Sample]) -> Iterator[tuple[int, str]]:
    rows_of: dict[tuple[str, Path], list[int]] = {}
    for sample in samples:
        for modality, path in sample.files.items():
            rows_of.setdefault((modality, path), []).append(sample.line)

    def problem(file: tuple[str, Path]) -> str | None:
        modality, path = file
        try:
            _DECODERS[modality](path)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for lines, found in zip(rows_of.values(), pool.map(problem, rows_of), strict=True):
            if found is not None:
                yield from ((line, found) for line in lines)


def _list_problems(metadata: Path, problems: Sequence[tuple[int, str]]) -> str:
    shown = [f"  line {number}: {problem}" for number, problem in problems[:_MOST_PROBLEMS_SHOWN]]
    if len(problems) > len(shown):
        shown.append(f"  and {len(problems) - len(shown)} more")
    rows = len({number for number, _ in problems})
    return "\n".join([f"{metadata}: {rows} bad {'row' if rows == 1 else 'rows'}; correct or remove them", *shown])
