"""mmedge build"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from mmedge.cli.ui import json_option, megabytes, print_json, print_table, progress_bar


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    help="What compiles it: tensorrt for the GPU that is here, tensorrt-rtx for GPUs that need not be here. The default"
    " is tensorrt where its Python package is installed.",
)
@click.option(
    "--compute-capability",
    "compute_capabilities",
    multiple=True,
    help="Of the GPUs that tensorrt-rtx builds for: 8.6 is a GeForce 30, 8.9 a GeForce 40, 12.0 a GeForce 50. May be"
    " repeated; by default 8.6 and 12.0.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="The largest batch; it is tuned for one sample.",
)
@click.option(
    "--workspace",
    type=click.IntRange(1),
    metavar="MIB",
    help="The most memory that a kernel may work with; the GPU's by default.",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="0 builds fastest, 5 searches longest; TensorRT's own default is 3.",
)
@click.option(
    "--version-compatible", is_flag=True, help="Newer TensorRT of the same major version run it too (tensorrt only)."
)
@click.option("--hardware-compatible", is_flag=True, help="Other GPUs, Ampere and newer, run it too (tensorrt only).")
@click.option("--plugin", is_flag=True, help="Fused operators run mmedge's plugin, not their bodies (tensorrt only).")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Where engines are kept; default ~/.cache/mmedge/engines."
)
@json_option
def build(
    bundle: Path,
    target: str | None,
    compute_capabilities: tuple[str, ...],
    max_batch: int,
    workspace: int | None,
    optimization_level: int | None,
    version_compatible: bool,
    hardware_compatible: bool,
    plugin: bool,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Compile BUNDLE's graph to an engine, with TensorRT or TensorRT-RTX.

    Takes the graph that is written for TensorRT, or the only one. The engine goes to a cache, never into the bundle: it
    is for this graph, these GPUs and this version of its builder. What is there already is not built again, unless
    --workspace or --optimization-level is given. Ctrl-C ends a build and leaves nothing of it.

    \b
    Example:
      mmedge build digits-int8.mme
      mmedge build digits-int8.mme --target tensorrt-rtx --compute-capability 8.9 --max-batch 4
    """
    from mmedge.building import build_bundle
    from mmedge.export.builders import EngineOptions, default_target

    options = EngineOptions(
        target=target or default_target(),
        compute_capabilities=compute_capabilities,
        max_batch=max_batch,
        workspace=workspace,
        optimization_level=optimization_level,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        plugin=plugin,
    )
    with progress_bar() as progress:
        built = build_bundle(bundle, options, cache=cache, progress=progress)
    if as_json:
        print_json(asdict(built))
        return
    for warning, count in Counter(built.warnings).items():
        times = f" ({count} times)" if count > 1 else ""
        click.echo(f"{built.title} warns{times}: {warning}", err=True)
    how = "in the cache already, built" if built.cached else "built"
    click.echo(
        f"{built.engine}: {megabytes(built.size)}, {how} in {built.seconds:.1f} s of {built.graph} ({built.precision})"
        f" for {built.gpu and f'{built.gpu}, '}compute capability {', '.join(built.compute_capabilities)},"
        f" with {built.title}"
    )
    if built.max_abs is not None:
        click.echo(f"Largest difference of any output from ONNX Runtime's: {built.max_abs:.2e}")
    print_table("Kernels", ["computing in", "kernels"], [[kind, str(count)] for kind, count in built.kernels.items()])
