from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)


def test_pages_are_made_of_the_help_and_stale_ones_are_found(tmp_path: Path) -> None:
    script = Path(shutil.copy(DOCS / "generate_cli.py", tmp_path))
    assert run(script, "--check").returncode == 1
    assert not (tmp_path / "cli").exists()
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli/gone.md").write_text("a command that is no more")
    assert run(script).returncode == 0
    assert run(script, "--check").returncode == 0
    assert not (tmp_path / "cli/gone.md").exists()
    data = (tmp_path / "cli/data.md").read_text()
    assert "## mmedge data av-digits" in data
    assert "--image-noise" in data
    assert "(evaluate.md)" in (tmp_path / "cli/README.md").read_text()
    (tmp_path / "cli/data.md").write_text(data.replace("--image-noise", "--noise"))
    stale = run(script, "--check")
    assert stale.returncode == 1
    assert "+  --image-noise" in stale.stderr
    assert "run `make docs`" in stale.stderr
