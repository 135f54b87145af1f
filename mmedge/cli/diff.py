"""mmedge diff"""

from __future__ import annotations

from pathlib import Path

import click

from mmedge.cli.ui import json_option, print_json, print_table


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="A data set for both.")
@click.option("--split", default="validation", show_default=True, help="The split of the data to use.")
@click.option("--samples", default=20, show_default=True, help="Rows to compare on, spread over the split.")
@click.option(
    "--tolerance",
    default=0.01,
    show_default=True,
    help="Power of the difference over that of the values, from which two tensors part.",
)
@click.option(
    "--target",
    type=click.Choice(["onnxruntime", "tensorrt"]),
    default="onnxruntime",
    show_default=True,
    help="Which graph of a bundle with several; both are computed on this CPU.",
)
@click.option("--save", type=click.Path(path_type=Path), metavar="DIR", help="Write the smallest graphs that show it.")
@json_option
def diff(
    first: Path,
    second: Path,
    data: Path,
    split: str,
    samples: int,
    tolerance: float,
    target: str,
    save: Path | None,
    as_json: bool,
) -> None:
    """Find the first tensor where the bundles FIRST and SECOND of one model part.

    Runs both graphs on the same tensors, made of rows of the data, under every subset of their modalities, and compares
    each tensor that both compute. Bundles whose preprocessing differs are refused. Names the node that makes the first
    tensor too far off, and whose weights it uses. The exit code is 1 where they part.

    \b
    Example:
      mmedge diff digits.mme digits-int8.mme --data data/av-digits
    """
    from mmedge.diffing import diff_bundles

    found = diff_bundles(
        first, second, data, split=split, samples=samples, tolerance=tolerance, target=target, save=save
    )
    if as_json:
        print_json(found.to_dict())
    else:
        loudest = sorted(found.tensors, key=lambda entry: -entry.noise)[:10]
        shown = [entry for entry in found.tensors if entry in loudest or entry == found.first]
        print_table(
            f"{len(found.tensors)} tensors in common; the furthest apart",
            ["tensor", "noise", "worst sample"],
            [[entry.tensor, f"{entry.noise:.2e}", entry.worst] for entry in shown],
        )
        if found.first is None:
            click.echo(f"They stay within {tolerance:g} of each other.")
        else:
            click.echo(
                f"They part at {found.first.tensor}, made by {found.operator} {found.node} of {found.module} "
                f"({found.block}): noise {found.first.noise:.2e}, the tolerance is {tolerance:g}."
            )
            if save is not None:
                click.echo(f"{save}: first.onnx and second.onnx with first.npz and second.npz show it.")
    if found:
        click.get_current_context().exit(1)
