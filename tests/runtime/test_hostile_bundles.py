"""Bundles whose hashes are right and that were written to harm."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from mmedge import Session
from mmedge.runtime.errors import EngineError

PUSH_TWICE = """
import resource, sys
import numpy as np
from mmedge import Session
from mmedge.runtime import Audio
from mmedge.runtime.errors import MmedgeError
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
session = Session(sys.argv[1])
for _ in range(2):
    try:
        session.push_audio("audio", Audio(np.zeros(4000, np.float32), 8000))
    except MmedgeError as error:
        print("refused:", error)
"""


def write(folder: Path, like: Path, model: onnx.ModelProto, **changes: Any) -> Path:
    graph = model.SerializeToString()
    manifest = json.loads((like / "manifest.json").read_text()) | changes
    manifest["files"] = {"model.onnx": {"size": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}}
    text = json.dumps(manifest)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(graph)
    (folder / "manifest.json").write_text(text)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n")
    return folder


def test_weights_are_not_taken_from_the_directory_of_the_process(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(digits_bundle / "model.onnx")
    weight = max(model.graph.initializer, key=lambda entry: len(entry.raw_data))
    (tmp_path / "weight.bin").write_bytes(weight.raw_data)
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weight.bin")
    weight.external_data.add(key="length", value=str(len(weight.raw_data)))
    weight.ClearField("raw_data")
    bundle = write(tmp_path / "external.mme", digits_bundle, model)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=r"weight\.bin"):
        Session(bundle)


def test_a_live_window_larger_than_memory_is_refused_every_time(digits_bundle: Path, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["presence"], ["logits"], to=TensorProto.FLOAT)],
        "live",
        [
            helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["batch", "mels", "frames"]),
            helper.make_tensor_value_info("presence", TensorProto.BOOL, ["batch", 1]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    inputs = json.loads((digits_bundle / "manifest.json").read_text())["inputs"]
    (audio,) = [entry for entry in inputs if entry["modality"] == "audio"]
    audio["preprocess"] |= {"samples": 1 << 26, "hop_length": 1, "n_mels": 1024}
    audio["shape"] = [1024, (1 << 26) + 1]
    outputs = [{"name": "logits", "kind": "logits", "dtype": "float32", "shape": [1]}]
    bundle = write(tmp_path / "live.mme", digits_bundle, model, inputs=[audio], outputs=outputs, labels=["a"])
    done = subprocess.run([sys.executable, "-c", PUSH_TWICE, bundle], capture_output=True, text=True, timeout=120)
    assert done.stdout.count("refused: ") == 2, (done.returncode, done.stdout, done.stderr)
