"""mmedge train"""

from __future__ import annotations

from pathlib import Path

import click

from mmedge.cli.ui import json_option, print_evaluation, print_json, print_next, progress_bar


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where the model goes; by default the recipe's, or FROM with -qat appended.",
)
@click.option(
    "--qat",
    "start",
    type=click.Path(path_type=Path),
    metavar="FROM",
    help="Fine-tune the checkpoint FROM with the roundings of INT8.",
)
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@json_option
def train(recipe: Path | None, output: Path | None, start: Path | None, resume: bool, as_json: bool) -> None:
    """Train the model that RECIPE, a YAML file, describes, and score it on the validation split.

    With --qat a finished model learns to live with INT8, where mmedge calibrate cannot keep its accuracy: ranges are
    taken as that takes them, every layer rounds to them, and training goes on. Without RECIPE that takes a tenth of the
    steps and of the learning rate of its first training. The scores are those with the roundings; mmedge export
    --precision int8 of the result uses the same ranges.

    \b
    Example:
      mmedge train recipes/av-digits.yaml
      mmedge train --qat runs/av-digits
      torchrun --nproc_per_node 2 -m mmedge train recipes/av-digits.yaml
      tensorboard --logdir runs/av-digits/tensorboard
    """
    from mmedge.training.recipe import read_recipe

    if recipe is None and start is None:
        raise click.MissingParameter(param_hint="RECIPE", param_type="argument")
    parsed = None if recipe is None else read_recipe(recipe)

    from accelerate import PartialState

    from mmedge.training.train import train as run

    qat = None
    if start is not None:
        from mmedge.training.qat import QuantizationAware, qat_recipe

        parsed, qat = qat_recipe(start, parsed), QuantizationAware(start)
    assert parsed is not None
    with progress_bar() as progress:
        result = run(parsed, output, resume=resume, progress=progress, qat=qat)
    if not PartialState().is_main_process:
        return
    if as_json:
        print_json(
            {
                "output": str(result.output),
                "seconds": result.seconds,
                "validation": result.evaluation.to_dict(),
                **({"float_layers": result.float_layers} if qat else {}),
            }
        )
        return
    click.echo(
        f"{result.output}: {len(result.losses)} steps in {result.seconds:.0f} s, last loss {result.losses[-1]:.4f}"
    )
    if result.float_layers:
        click.echo(f"In float, for no module was found: {', '.join(result.float_layers)}")
    print_evaluation(result.evaluation, per_class=False)
    precision = ("--precision", "int8") if qat else ()
    print_next(("mmedge", "export", result.output, "-o", f"{result.output.resolve().name}.mme", *precision))
