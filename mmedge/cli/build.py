"""mmedge build"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mmedge.cli.ui import json_option, megabytes, print_json, print_table


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--compute-capability",
    "compute_capabilities",
    multiple=True,
    default=("8.6", "12.0"),
    show_default=True,
    help="Of the GPUs it is to run on: 8.6 is a GeForce 30, 8.9 a GeForce 40, 12.0 a GeForce 50. May be repeated.",
)
@click.option("--max-batch", default=1, show_default=True, help="The largest batch; it is tuned for one sample.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Where engines are kept; default ~/.cache/mmedge/engines."
)
@json_option
def build(
    bundle: Path, compute_capabilities: tuple[str, ...], max_batch: int, cache: Path | None, as_json: bool
) -> None:
    """Compile BUNDLE's graph with TensorRT-RTX for GPUs that need not be here.

    Takes the graph that is written for TensorRT, or the only one. The engine goes to a cache, never into the bundle: it
    is for these GPUs, this graph and this version of TensorRT-RTX. What is there already is not built again.

    \b
    Example:
      mmedge build digits-int8.mme --compute-capability 8.9 --max-batch 4
    """
    from rich.console import Console

    from mmedge.building import build_bundle

    with Console(stderr=True).status("Compiling with TensorRT-RTX (minutes for a large graph)"):
        built = build_bundle(bundle, compute_capabilities=compute_capabilities, max_batch=max_batch, cache=cache)
    if as_json:
        print_json(asdict(built))
        return
    for warning in built.warnings:
        click.echo(f"TensorRT-RTX warns: {warning}", err=True)
    how = "in the cache already, built" if built.cached else "built"
    size = megabytes(Path(built.engine).stat().st_size)
    click.echo(
        f"{built.engine}: {size}, {how} in {built.seconds:.1f} s of {built.graph} ({built.precision}) for compute"
        f" capability {', '.join(built.compute_capabilities)} with TensorRT-RTX {built.version}"
    )
    print_table("Kernels", ["computing in", "kernels"], [[kind, str(count)] for kind, count in built.kernels.items()])
