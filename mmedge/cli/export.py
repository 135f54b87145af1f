"""mmedge export"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import click

from mmedge.cli.calibrated import calibration_options, print_calibrated, refuse_options_not_read, tell_point
from mmedge.cli.ui import json_option, megabytes, print_json, print_next, print_table, progress_bar


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The bundle to write, NAME.mme.")
@click.option("--target", default="onnxruntime", show_default=True, help="The runtime the graph is written for.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Data for the parity gate; what it was trained on by default.",
)
@click.option("--split", default="validation", show_default=True, help="The split of the data to use.")
@click.option(
    "--parity-samples",
    default=100,
    show_default=True,
    help="Samples to compare, spread over the split, and one more for each subset of the modalities that they lack.",
)
@click.option("--tolerance", default=1e-4, show_default=True, help="Largest absolute difference of any output.")
@calibration_options(["fp32", "auto", "int8", "fp16"], "fp32")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@json_option
def export(
    checkpoint: Path,
    output: Path,
    target: str,
    data: Path | None,
    split: str,
    parity_samples: int,
    tolerance: float,
    precision: Literal["fp32", "auto", "int8", "fp16"],
    ranges: Path | None,
    overwrite: bool,
    as_json: bool,
    **calibration: Any,
) -> None:
    """Export CHECKPOINT to a bundle, if it computes what the model computes.

    The parity gate runs real samples through torch and through the bundle in the C runtime, with every subset of the
    modalities present. Over the tolerance the exit code is 1 and nothing is written. With another --precision than fp32
    what passed is then calibrated on the same data, as mmedge calibrate does; a checkpoint of mmedge train --qat keeps
    the ranges it was trained with. For the targets tensorrt and tensorrt-rtx the bundle holds what these read, and
    mmedge build makes its engine.

    \b
    Example:
      mmedge export runs/av-digits -o digits.mme --precision int8 --max-accuracy-drop 0.5
    """
    from mmedge.calibrating import Settings, calibrate_bundle
    from mmedge.calibration.table import CALIBRATION_FILE
    from mmedge.export.targets import find_target
    from mmedge.export.writing import check_destination
    from mmedge.exporting import export_checkpoint, training_data
    from mmedge.runtime.errors import InvalidArgument

    refuse_options_not_read(precision)
    check_destination(output, overwrite)
    written_for = find_target(target)
    if precision != "fp32" and not target.startswith("onnxruntime"):
        raise InvalidArgument(
            f"--precision {precision} with --target {target}: export for onnxruntime, and what comes of it has a graph "
            "for TensorRT too"
        )
    data = data or training_data(checkpoint)
    if ranges is None and (checkpoint / CALIBRATION_FILE).exists():
        ranges = checkpoint / CALIBRATION_FILE
    settings = None
    if precision != "fp32":
        settings = Settings(precision=precision, evaluation_split=split, ranges=ranges, **calibration)
    with progress_bar() as progress, TemporaryDirectory(prefix="mmedge-") as folder:
        made = export_checkpoint(
            checkpoint,
            output if precision == "fp32" else Path(folder, output.name),
            data=data,
            split=split,
            target=written_for,
            parity_samples=parity_samples,
            tolerance=tolerance,
            overwrite=overwrite,
            progress=progress,
        )
        calibrated = settings and calibrate_bundle(
            made.path, output, data, settings, overwrite=overwrite, progress=progress, found=tell_point
        )
    manifest = calibrated.manifest if calibrated else made.manifest
    size = sum(file.stat().st_size for file in output.iterdir())
    if as_json:
        print_json({"bundle": str(output), "bytes": size, "evidence": manifest.evidence})
        return
    graph = manifest.graphs[0]
    click.echo(f"{output}: {megabytes(size)}, opset {graph.opset}, IR version {graph.ir_version}, for {target}")
    print_table(
        f"Parity, torch against the C runtime (tolerance {tolerance:g})",
        ["modalities", "output", "max abs", "max rel", "cosine", "top-1 agreement", "samples"],
        [
            [
                " + ".join(entry.subset),
                entry.output,
                f"{entry.max_abs:.2e}",
                f"{entry.max_rel:.2e}",
                f"{entry.cosine_min:.7f}",
                f"{entry.top1_agreement:.4f}",
                str(entry.samples),
            ]
            for entry in made.parity.outputs
        ],
    )
    if calibrated:
        print_calibrated(calibrated)
    build = [("mmedge", "build", output, "--target", target)] if target.startswith("tensorrt") else []
    print_next(
        *build, ("mmedge", "inspect", output), ("mmedge", "evaluate", output, "DATA"), ("mmedge", "serve", output)
    )
