"""Engines beside ONNX Runtime, on a host that plays the GPU."""

from pathlib import Path

import onnx
from host_gpu import needs_host_gpu, run_on_host_gpu, write_engine
from onnx import numpy_helper

CHECK = """
    import sys
    from pathlib import Path
    from mmedge import Session
    from mmedge.building import check_engine

    bundle, engine, precision = sys.argv[1:]
    session = Session(bundle, engine="tensorrt", engines=engine)
    print(check_engine(Path(bundle), session, precision).max_abs)
"""


def changed(bundle: Path, factor: float) -> bytes:
    """The bundle's graph, the largest weights of which are not what they should be."""
    model = onnx.load(bundle / "model.onnx")
    largest = max(model.graph.initializer, key=lambda entry: numpy_helper.to_array(entry).size)
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * factor, largest.name))
    return model.SerializeToString()


@needs_host_gpu
def test_an_engine_that_computes_the_same_passes(digits_bundle: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, digits_bundle, (digits_bundle / "model.onnx").read_bytes())
    done = run_on_host_gpu(CHECK, digits_bundle, engine, "fp32")
    assert done.stdout == "0.0\n", done.stderr


@needs_host_gpu
def test_an_engine_that_computes_something_else_is_refused(digits_bundle: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, digits_bundle, changed(digits_bundle, 1.01))
    done = run_on_host_gpu(CHECK, digits_bundle, engine, "fp32")
    assert "ParityError: sample 'random sample" in done.stderr
    # In few bits so much is rounding, but not this.
    assert run_on_host_gpu(CHECK, digits_bundle, engine, "int8").returncode == 0
    engine = write_engine(tmp_path, digits_bundle, changed(digits_bundle, -1.0))
    done = run_on_host_gpu(CHECK, digits_bundle, engine, "int8")
    assert "expected at least .99" in done.stderr
