"""What the docs say of installing is what the repository can do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_command_takes_mmedge_from_an_index(page: Path) -> None:
    text = page.read_text()
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    .+$", text, flags=re.MULTILINE)
    for command in (*fenced, *indented):
        assert not re.search(r'pip install "?mmedge(?!-)', command)


def test_what_the_library_is_built_with_is_named() -> None:
    section = (ROOT / "docs/install.md").read_text().split("\n## The C library alone\n")[1].split("\n## ")[0]
    cmake = (ROOT / "runtime/CMakeLists.txt").read_text()
    needed = set(re.findall(r"^find_path\((\w+)_INCLUDE_DIR", cmake, re.MULTILINE)) - {"TENSORRT"}  # not needed
    assert "ONNXRUNTIME" in needed
    named = re.sub(r"[ -]", "", section).lower()
    assert [name for name in needed if name.replace("_", "").lower() not in named] == []
    for script in re.findall(r"scripts/[\w-]+\.sh", section):
        assert (ROOT / script).is_file()
