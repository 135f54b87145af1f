"""mmedge export"""

from __future__ import annotations

from pathlib import Path

import click

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
@click.option("--parity-samples", default=100, show_default=True, help="Samples to compare, spread over the split.")
@click.option("--tolerance", default=1e-4, show_default=True, help="Largest absolute difference of any output.")
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
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export CHECKPOINT to a bundle, if it computes what the model computes.

    The parity gate runs real samples through torch and through the bundle in the C runtime, with every subset of the
    modalities present. Over the tolerance the exit code is 1 and nothing is written.

    \b
    Example:
      mmedge export runs/av-digits -o digits.mme
    """
    from mmedge.export.targets import find_target
    from mmedge.exporting import export_checkpoint, training_data

    with progress_bar() as progress:
        made = export_checkpoint(
            checkpoint,
            output,
            data=data or training_data(checkpoint),
            split=split,
            target=find_target(target),
            parity_samples=parity_samples,
            tolerance=tolerance,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        print_json({"bundle": str(made.path), "bytes": made.size, "evidence": made.manifest.evidence})
        return
    graph = made.manifest.graphs[0]
    click.echo(f"{made.path}: {megabytes(made.size)}, opset {graph.opset}, IR version {graph.ir_version}, for {target}")
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
    print_next(f"mmedge inspect {output}", f"mmedge evaluate {output} DATA", f"mmedge serve {output}")
