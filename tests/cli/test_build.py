"""mmedge build: engines of a real bundle, by TensorRT-RTX itself."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from processes import children, ends

import mmedge.runtime
from mmedge.building import plugin_library
from mmedge.cli import cli
from mmedge.export.builders import TensorRtRtx
from mmedge.export.errors import BuilderMissing


def build(*arguments: Any, target: str | None = "tensorrt-rtx") -> Result:
    chosen = [] if target is None else ["--target", target]
    return CliRunner().invoke(cli, ["build", *(str(argument) for argument in arguments), *chosen])


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
    monkeypatch.setattr(TensorRtRtx, "bindings", "no_such_bindings")
    result = build(digits_bundle, "--cache", cache)
    assert result.exit_code
    assert "pip install" in result.output
    assert not cache.exists()


def test_a_warning_is_printed_once_with_its_count(digits_bundle: Path, tmp_path: Path) -> None:
    arguments = (digits_bundle, "--compute-capability", "8.9", "--cache", tmp_path)
    record = Path(json.loads(build(*arguments, "--json").stdout)["engine"]).with_suffix(".json")
    found = json.loads(record.read_text())
    record.write_text(json.dumps(found | {"warnings": ["range missing", "slow", "range missing"]}))
    lines = [line.partition(" warns")[2] for line in build(*arguments).stderr.splitlines() if " warns" in line]
    assert lines == [" (2 times): range missing", ": slow"]


@pytest.mark.parametrize(
    "damage", ["engine cut", "engine changed", "record gone", "record cut", "record of another format"]
)
def test_what_is_not_whole_in_the_cache_is_built_anew(digits_bundle: Path, tmp_path: Path, damage: str) -> None:
    arguments = (digits_bundle, "--compute-capability", "8.9", "--cache", tmp_path, "--json")
    first = json.loads(build(*arguments).stdout)
    engine = Path(first["engine"])
    record, plan = engine.with_suffix(".json"), engine.read_bytes()
    written = record.read_text()
    if damage == "engine cut":
        engine.write_bytes(plan[:-1])
    elif damage == "engine changed":
        engine.write_bytes(plan[:-1] + bytes([plan[-1] ^ 1]))
    elif damage == "record gone":
        record.unlink()
    elif damage == "record cut":
        record.write_text(written[: len(written) // 2])
    else:
        record.write_text(written.replace('"format": 2', '"format": 1'))
    again = json.loads(build(*arguments).stdout)
    assert not again["cached"]
    assert hashlib.sha256(engine.read_bytes()).hexdigest() == again["sha256"]
    assert json.loads(build(*arguments).stdout)["cached"]


def test_the_record_beside_an_engine_says_all_that_its_reader_checks(digits_bundle: Path, tmp_path: Path) -> None:
    built = build(digits_bundle, "--compute-capability", "12.0", "--compute-capability", "8.6", "--cache", tmp_path)
    assert built.exit_code == 0, built.output
    engine, record = sorted(tmp_path.iterdir())
    graph = digits_bundle / "model.onnx"
    sha256 = hashlib.sha256(graph.read_bytes()).hexdigest()
    rtx = version("tensorrt-rtx-cu13-bindings")
    assert engine.name == f"{sha256[:16]}-fp32-tensorrt-rtx{rtx}-sm86+sm120-batch1.engine"
    assert record.name == engine.with_suffix(".json").name
    found = json.loads(record.read_text())
    assert found.pop("seconds") > 0
    assert found.pop("kernels")["Float"] > 3
    assert found == {
        "format": 2,
        "builder": "tensorrt-rtx",
        "version": rtx,
        "graph": "model.onnx",
        "graph_sha256": sha256,
        "precision": "fp32",
        "compute_capabilities": ["8.6", "12.0"],
        "gpu": "",
        "version_compatible": False,
        "hardware_compatible": False,
        "plugin": False,
        "max_batch": 1,
        "size": engine.stat().st_size,
        "sha256": hashlib.sha256(engine.read_bytes()).hexdigest(),
        "warnings": [],
        "max_abs": None,
    }


def test_what_no_record_tells_is_built_anew(digits_bundle: Path, tmp_path: Path) -> None:
    arguments = (digits_bundle, "--compute-capability", "8.6", "--cache", tmp_path, "--json")
    assert not json.loads(build(*arguments).stdout)["cached"]
    assert not json.loads(build(*arguments, "--optimization-level", 1).stdout)["cached"]
    assert not json.loads(build(*arguments, "--workspace", 512).stdout)["cached"]
    assert json.loads(build(*arguments).stdout)["cached"]


def test_a_cache_that_cannot_be_written_is_told_before_the_build(digits_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = build(digits_bundle, "--cache", tmp_path / "file" / "engines")
    assert result.exit_code == 2
    assert f"{tmp_path / 'file'} is no folder" in result.output
    assert "%" not in result.output  # No build had begun.


def test_a_capability_named_twice_is_one(digits_bundle: Path, tmp_path: Path) -> None:
    result = build(digits_bundle, *["--compute-capability", "8.6"] * 2, "--cache", tmp_path, "--json")
    assert json.loads(result.stdout)["compute_capabilities"] == ["8.6"]


def test_too_little_workspace_names_the_option_and_leaves_nothing(digits_bundle: Path, tmp_path: Path) -> None:
    cache = tmp_path / "engines"
    result = build(digits_bundle, "--workspace", 1, "--cache", cache)
    assert result.exit_code == 2
    assert "raise --workspace" in result.output
    assert not cache.exists()


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_where_tensorrt_is_not_installed_its_target_says_so_and_the_other_is_the_default(
    digits_bundle: Path, tmp_path: Path
) -> None:
    result = build(digits_bundle, "--cache", tmp_path, target="tensorrt")
    assert result.exit_code == 2
    assert "--target tensorrt-rtx" in result.output
    assert "with TensorRT-RTX" in build(digits_bundle, "--cache", tmp_path, target=None).output


@pytest.mark.skipif(
    any(Path(folder, "libmmedge_tensorrt_plugin.so").exists() for folder in mmedge.runtime.__path__),
    reason="the plugin is installed",
)
def test_without_the_plugin_the_error_says_how_it_is_built() -> None:
    with pytest.raises(BuilderMissing, match=r"-DMMEDGE_CUDA=ON; or build the engine without --plugin"):
        plugin_library()


# The second is what the kernel's killer does to the command: nobody is left to end the builder.
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_ended_takes_its_builder_with_it(
    digits_bundle: Path, tmp_path: Path, how: signal.Signals
) -> None:
    cache = tmp_path / "engines"
    arguments = ("build", digits_bundle, "--cache", cache, "--target", "tensorrt-rtx")
    command = subprocess.Popen([sys.executable, "-m", "mmedge", *map(str, arguments)], stderr=subprocess.DEVNULL)
    builders: set[int] = set()
    while not builders and command.poll() is None:
        builders = children(command.pid)
    assert builders
    command.send_signal(how)
    assert command.wait(timeout=30)
    assert all(ends(process) for process in builders)
    assert not cache.exists()
