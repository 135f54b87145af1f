"""docs/your-own-data.md is typed in as it stands: its files are written, its commands run, on a few made-up samples.

Only what takes time is less: two `steps`, one of the `--trials`. The commands run in this process, so that torch is
imported once.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from PIL import Image

from mmedge.cli import cli

PAGE = Path(__file__).parents[2] / "docs/your-own-data.md"
SECTIONS = dict(part.split("\n", 1) for part in PAGE.read_text().split("\n## ")[1:])
# The folder, and what is said of it: its rows, then its recipe and commands.
WALKS = {
    "melons": ("The folder", "The recipe", "Evaluate and tune", "Export and run"),
    "blemishes": ("Several labels at once",),
    "questions": ("A question, and the place that answers it",),
    "voices": ("Who is it?",),
}
WRONG = "When a row is wrong"


def blocks(section: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", SECTIONS[section], flags=re.MULTILINE | re.DOTALL)


def block(section: str, kind: str) -> str:
    (only,) = blocks(section, kind)
    return only


def rows_of(section: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in block(section, "json").splitlines()]


def like(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The row again, with files of its own."""
    files = {key: f"{number}-{Path(name).name}" for key, name in row.items() if key.endswith("_file_name") and name}
    return row | files


def write_files(folder: Path, row: dict[str, Any]) -> None:
    """The files that a row names: noise, and a mask of the objects 1 and 2."""
    random = np.random.default_rng(0)
    for key in ("image_file_name", "audio_file_name", "mask_file_name"):
        if not row.get(key):
            continue
        path = folder / row[key]
        path.parent.mkdir(parents=True, exist_ok=True)
        if key == "audio_file_name":
            soundfile.write(path, random.normal(0, 0.1, 12000), 16000)
        elif key == "image_file_name":
            Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
        else:
            mask = np.zeros((60, 80), np.uint8)
            mask[10:30, 10:30], mask[30:50, 40:70] = 1, 2
            Image.fromarray(mask).save(path)


def write_split(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        write_files(folder, row)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_recipe(section: str, name: str) -> None:
    assert f"`{name}.yaml`" in SECTIONS[section]
    text, steps = re.subn(r"steps: \d+", "steps: 2", block(section, "yaml"))
    assert steps == 1
    Path(f"{name}.yaml").write_text(text)


def mmedge(line: str) -> Result:
    return CliRunner().invoke(cli, shlex.split(line.replace("--trials 20", "--trials 1"))[1:])


def type_in(section: str) -> None:
    """Run the commands of a section; a server ends with it."""
    servers: list[subprocess.Popen[str]] = []
    url = ""
    try:
        for line in "".join(blocks(section, "sh")).replace("\\\n", "").splitlines():
            if line.startswith("mmedge serve"):
                command = [sys.executable, "-m", *shlex.split(line), "--port", "0"]
                servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
                assert servers[0].stdout is not None
                url = servers[0].stdout.readline().split(" at ")[1].split()[0]
            elif line.startswith("mmedge"):
                done = mmedge(line)
                assert done.exit_code == 0, f"{line}\n{done.output}"
            else:
                answer = subprocess.check_output(["sh", "-ec", line.replace("http://127.0.0.1:8000", url)], text=True)
                assert "label" in json.loads(answer)
    finally:
        for server in servers:
            server.terminate()
            server.communicate(timeout=20)


def test_every_section_is_tested() -> None:
    assert {section for walk in WALKS.values() for section in walk} | {WRONG} == SECTIONS.keys()


@pytest.mark.parametrize("name", WALKS)
def test_the_page_can_be_typed_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = rows_of(WALKS[name][0])
    rows = [*shown, *(like(row, number) for number in range(4) for row in shown)]
    for split in ("train", "validation", "test"):
        write_split(Path(name, split), rows)
    if name == "voices":  # the people shown are of the validation split
        people = [like(row, number) | {"label": f"{row['label']} {number}"} for number in range(4) for row in shown]
        write_split(Path(name, "train"), people)
    for section in WALKS[name]:
        if blocks(section, "yaml"):
            write_recipe(section, name)
        type_in(section)
    assert Path(f"{name}.mme/manifest.json").is_file()


def test_wrong_rows_are_listed_as_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation"):
        write_split(Path("melons", split), rows_of("The folder"))
    with Path("melons/train/metadata.jsonl").open("a") as file:
        file.write(block(WRONG, "json"))
    Path("melons/train/images/empty.jpg").touch()
    write_recipe("The recipe", "melons")
    done = mmedge(block(WRONG, "sh"))
    assert done.exit_code == 2
    assert done.stderr.lstrip() == block(WRONG, "text")
