"""mmedge build: engines of a real bundle, by TensorRT-RTX itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mmedge.cli import cli
from mmedge.export import tensorrt_rtx


def build(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, ["build", *(str(argument) for argument in arguments)])


def test_an_engine_is_built_once_and_kept_beside_what_it_is(digits_bundle: Path, tmp_path: Path) -> None:
    cache = tmp_path / "deeper" / "engines"
    arguments = (digits_bundle, "--compute-capability", "8.9", "--max-batch", 4, "--cache", cache, "--json")
    first = json.loads(build(*arguments).stdout)
    engine = Path(first["engine"])
    assert engine.parent == cache
    assert engine.stat().st_size > 1000
    assert (first["precision"], first["compute_capabilities"], first["max_batch"]) == ("fp32", ["8.9"], 4)
    assert first["version"] in engine.name
    assert not first["cached"]
    assert first["kernels"]["Float"] > 3
    assert "Half" not in first["kernels"]

    written = engine.stat().st_mtime_ns
    again = json.loads(build(*arguments).stdout)
    assert again == first | {"cached": True}
    assert engine.stat().st_mtime_ns == written

    other = json.loads(build(digits_bundle, "--compute-capability", "8.6", "--cache", cache, "--json").stdout)
    assert other["engine"] != first["engine"]
    assert len(list(cache.iterdir())) == 4  # nothing half-written


def test_the_table_says_where_the_engine_is_and_what_it_computes_in(digits_bundle: Path, tmp_path: Path) -> None:
    result = build(digits_bundle, "--compute-capability", "12.0", "--cache", tmp_path)
    assert result.exit_code == 0, result.output
    assert ".engine" in result.output
    assert "compute capability 12.0" in result.output
    assert "Float" in result.output


def test_what_cannot_be_built_is_said_and_leaves_nothing(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "engines"
    for unknown in ("7.2", "ada"):
        result = build(digits_bundle, "--compute-capability", unknown, "--cache", cache)
        assert result.exit_code
        assert f"'{unknown}'" in result.output
        assert "8.6" in result.output
    damaged = tmp_path / "damaged.mme"
    shutil.copytree(digits_bundle, damaged)
    graph = next(damaged.glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1])
    result = build(damaged, "--cache", cache)
    assert result.exit_code
    assert graph.name in result.output
    monkeypatch.setattr(tensorrt_rtx, "_BINDINGS", "no_such_bindings")
    result = build(digits_bundle, "--cache", cache)
    assert result.exit_code
    assert "pip install" in result.output
    assert not cache.exists()
