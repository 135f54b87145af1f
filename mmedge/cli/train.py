"""mmedge train"""

from __future__ import annotations

from pathlib import Path

import click

from mmedge.cli.ui import json_option, print_evaluation, print_json, print_next, progress_bar


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where the model goes; the recipe's by default.")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@json_option
def train(recipe: Path, output: Path | None, resume: bool, as_json: bool) -> None:
    """Train the model that RECIPE, a YAML file, describes, and score it on the validation split.

    \b
    Example:
      mmedge train recipes/av-digits.yaml
      torchrun --nproc_per_node 2 -m mmedge train recipes/av-digits.yaml
      tensorboard --logdir runs/av-digits/tensorboard
    """
    from mmedge.training.recipe import read_recipe

    parsed = read_recipe(recipe)

    from accelerate import PartialState

    from mmedge.training.train import train as run

    with progress_bar() as progress:
        result = run(parsed, output, resume=resume, progress=progress)
    if not PartialState().is_main_process:
        return
    if as_json:
        print_json(
            {
                "output": str(result.output),
                "seconds": result.seconds,
                "validation": result.evaluation.to_dict(),
            }
        )
        return
    click.echo(
        f"{result.output}: {len(result.losses)} steps in {result.seconds:.0f} s, last loss {result.losses[-1]:.4f}"
    )
    print_evaluation(result.evaluation, per_class=False)
    print_next(f"mmedge export {result.output} -o {result.output.name}.mme")
