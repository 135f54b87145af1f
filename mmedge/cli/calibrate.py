"""mmedge calibrate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmedge.cli.ui import json_option, megabytes, print_json, print_next, print_table, progress_bar

if TYPE_CHECKING:
    from mmedge.calibration.search import Point


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The bundle to write, NAME.mme.")
@click.option(
    "--max-accuracy-drop",
    default=0.5,
    show_default=True,
    help="Points of a hundred that the accuracy of any subset of modalities may fall.",
)
@click.option("--samples", default=200, show_default=True, help="Rows to take ranges from, spread over the split.")
@click.option("--calibration-split", default="train", show_default=True, help="The split to take ranges from.")
@click.option("--split", default="validation", show_default=True, help="The split to measure accuracy on.")
@click.option(
    "--method",
    type=click.Choice(["minmax", "entropy", "percentile", "mse"]),
    default="mse",
    show_default=True,
    help="How the range of a tensor follows from its values.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@json_option
def calibrate(
    bundle: Path,
    data: Path,
    output: Path,
    max_accuracy_drop: float,
    samples: int,
    calibration_split: str,
    split: str,
    method: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a faster bundle of BUNDLE that computes in INT8, within a budget of accuracy.

    Runs rows of DATA through the bundle's own preprocessing to find the range of every tensor, then looks for the most
    layers in INT8 that are faster on this machine and cost no more accuracy than allowed. Where INT8 is not faster,
    what is written computes in FP32, and says so. Interrupted while it takes ranges, it goes on when started again.

    \b
    Example:
      mmedge calibrate digits.mme data/av-digits -o digits-int8.mme --max-accuracy-drop 0.5
    """
    from mmedge.calibrating import calibrate_bundle, largest_drop

    with progress_bar() as progress:

        def tell(point: Point) -> None:
            speed = f"{point.speedup:.2f} times as fast"
            click.echo(f"{len(point.layers):4} layers in INT8: {point.drop:+.2f} points lost, {speed}", err=True)

        made = calibrate_bundle(
            bundle,
            output,
            data=data,
            calibration_split=calibration_split,
            evaluation_split=split,
            samples=samples,
            method=method,
            max_accuracy_drop=max_accuracy_drop,
            overwrite=overwrite,
            progress=progress,
            found=tell,
        )
    chosen = made.search.chosen
    if as_json:
        print_json(
            {
                "bundle": str(made.path),
                "graph_bytes": [made.bytes_before, made.bytes_after],
                "evidence": made.manifest.evidence["calibration"],
            }
        )
        return
    precision, layers = made.manifest.graphs[0].precision, made.manifest.evidence["calibration"]["layers"]
    click.echo(
        f"{made.path}: {precision}, {len(chosen.layers)} of {layers} layers in INT8, "
        f"{megabytes(made.bytes_before)} -> {megabytes(made.bytes_after)}, {chosen.speedup:.2f} times as fast"
    )
    if not chosen.layers:
        click.echo("No choice of layers was faster within the budget: the graph is the one it was.")
    print_table(
        f"Accuracy on {data.name}/{split} (largest drop {largest_drop(made.before, made.after):+.2f} points)",
        ["modalities", "metric", "fp32", precision, "samples"],
        [
            [
                " + ".join(old.modalities),
                old.main.name,
                *("undefined" if value is None else f"{value:.4f}" for value in (old.main.value, new.main.value)),
                str(old.report.samples),
            ]
            for old, new in zip(made.before.subsets, made.after.subsets, strict=True)
        ],
    )
    print_next(f"mmedge inspect {output}", f"mmedge evaluate {output} {data}", f"mmedge serve {output}")
