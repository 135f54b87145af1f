"""What `mmedge calibrate` and `mmedge export --precision` share: options, and what they tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mmedge.cli.ui import megabytes, print_table

if TYPE_CHECKING:
    from mmedge.calibrating import CalibratedBundle
    from mmedge.calibration.search import Point

Command = Callable[..., Any]


def calibration_options(precisions: Sequence[str], default: str) -> Callable[[Command], Command]:
    """The options of `Settings`, but for the split that accuracy is measured on."""

    def add(command: Command) -> Command:
        for option in (
            click.option(
                "--method",
                type=click.Choice(["minmax", "entropy", "percentile", "mse"]),
                default="mse",
                show_default=True,
                help="How the range of a tensor follows from its values.",
            ),
            click.option(
                "--calibration-split", default="train", show_default=True, help="The split to take ranges from."
            ),
            click.option("--samples", default=200, show_default=True, help="Rows to take ranges from, spread over it."),
            click.option(
                "--max-accuracy-drop",
                default=0.5,
                show_default=True,
                help="Points of a hundred that accuracy may fall, with all modalities and on average.",
            ),
            click.option(
                "--ranges",
                type=click.Path(path_type=Path),
                help="Take no ranges, but read them from this calibration.json, or the bundle it is in: for another "
                "budget without a second pass. They must be of the same model, rows and method.",
            ),
            click.option("--precision", type=click.Choice(precisions), default=default, show_default=True),
        ):
            command = option(command)
        return command

    return add


def refuse_options_not_read(precision: str) -> None:
    """Raise where the command was given an option that does nothing with this precision: FP16 takes no ranges, and FP32
    has no budget either.
    """
    from mmedge.runtime.errors import InvalidArgument

    of_ranges = ("ranges", "samples", "calibration_split", "method")
    idle = {"fp32": (*of_ranges, "max_accuracy_drop"), "fp16": of_ranges}.get(precision, ())
    context = click.get_current_context()
    given = [name for name in idle if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        wanted = "int8, fp16 or auto" if given == ["max_accuracy_drop"] else "int8 or auto"
        raise InvalidArgument(f"{options} with --precision {precision}: these need --precision {wanted}")


def tell_point(point: Point) -> None:
    """Say what a choice of layers came to, as soon as it is known."""
    speed = f"{point.speedup:.2f} times as fast"
    click.echo(f"{len(point.layers):4} layers in INT8: {point.drop:+.2f} points lost, {speed}", err=True)


def print_calibrated(made: CalibratedBundle) -> None:
    """Print what was written, and the accuracy of each of its graphs by subset of modalities."""
    from mmedge.calibration.table import told_nans

    before, cpu, tensorrt = map(megabytes, made.bytes)
    here, there = (graph.precision for graph in made.manifest.graphs)
    evidence = made.manifest.evidence["calibration"]
    click.echo(f"{made.path}: {here} for ONNX Runtime ({before} -> {cpu}), {there} for TensorRT ({tensorrt})")
    if made.search is not None:
        chosen = made.search.chosen
        own, other = (len(graph["int8"]) for graph in evidence["graphs"].values())
        click.echo(
            f"{own} of {evidence['layers']} layers in INT8 for ONNX Runtime, {chosen.speedup:.2f} times as fast; "
            f"{other} for TensorRT"
        )
        if not own:
            click.echo("No choice of layers is faster on this CPU within the budget: its graph is the one it was.")
        if not other:
            click.echo(f"No choice of layers holds the budget in TensorRT's graph: it is {there}, without INT8.")
    if "nans" in evidence:
        click.echo(f"NaN left out of ranges, in so many values: {told_nans(evidence['nans'])}. Look at the model.")
    given_back = [block for graph in evidence["graphs"].values() for block in graph.get("float32", ())]
    if given_back:
        click.echo(f"FP32 for TensorRT where it is not INT8, as FP16 loses too much there: {', '.join(given_back)}.")
    print_table(
        f"Accuracy on {evidence['accuracy_fp32']['data']} ({made.drop:+.2f} points lost at most)",
        ["modalities", "metric", "before", "ONNX Runtime", "TensorRT, on CPU", "samples"],
        [
            [
                " + ".join(scores[0].modalities),
                scores[0].main.name,
                *("undefined" if s.main.value is None else f"{s.main.value:.4f}" for s in scores),
                str(scores[0].report.samples),
            ]
            for scores in zip(made.before.subsets, made.after.subsets, made.tensorrt.subsets, strict=True)
        ],
    )
