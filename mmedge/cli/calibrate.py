"""mmedge calibrate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mmedge.cli.calibrated import calibration_options, print_calibrated, refuse_options_not_read, tell_point
from mmedge.cli.ui import json_option, print_json, print_next, progress_bar


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The bundle to write, NAME.mme.")
@calibration_options(["auto", "int8", "fp16"], "auto")
@click.option("--split", default="validation", show_default=True, help="The split to measure accuracy on.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@json_option
def calibrate(
    bundle: Path, data: Path, output: Path, split: str, overwrite: bool, as_json: bool, **options: Any
) -> None:
    """Make a faster bundle of BUNDLE that computes in INT8, or FP16, within a budget of accuracy.

    Runs rows of DATA through the bundle's own preprocessing to find the range of every tensor, then looks for the most
    layers in INT8 that are faster on this CPU and cost no more accuracy than allowed. Where INT8 is not faster, the
    graph for the CPU stays in FP32, and that is said. In the graph for TensorRT all layers that accuracy allows are
    INT8, and the rest is FP16, but FP32 in those encoders, the fusion or the head that lose too much in FP16.
    Interrupted while it takes ranges, it goes on when started again.

    With --precision int8 a graph for TensorRT that loses too much, or has no layer in INT8, is an error, and the exit
    code is 1; with auto it becomes FP16 or FP32. With fp16 only TensorRT's graph changes: a CPU computes faster in
    FP32. It takes no ranges.

    \b
    Example:
      mmedge calibrate digits.mme data/av-digits -o digits-int8.mme --max-accuracy-drop 0.5
    """
    from mmedge.calibrating import Settings, calibrate_bundle

    refuse_options_not_read(options["precision"])
    with progress_bar() as progress:
        made = calibrate_bundle(
            bundle,
            output,
            data,
            Settings(evaluation_split=split, **options),
            overwrite=overwrite,
            progress=progress,
            found=tell_point,
        )
    if as_json:
        print_json({"bundle": str(output), "graph_bytes": made.bytes, "evidence": made.manifest.evidence})
        return
    print_calibrated(made)
    print_next(("mmedge", "inspect", output), ("mmedge", "evaluate", output, data), ("mmedge", "serve", output))
