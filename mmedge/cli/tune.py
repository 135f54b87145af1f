"""mmedge tune"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mmedge.cli.ui import json_option, print_json, print_next, print_table, progress_bar


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--trials", type=click.IntRange(min=1), default=20, show_default=True, help="How many more to train.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Begin none after this."
)
@click.option(
    "--storage",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the study is kept; tune/study.db in the run's folder by default.",
)
@json_option
def tune(recipe: Path, trials: int, timeout: float | None, storage: Path | None, as_json: bool) -> None:
    """Search the values under `tune:` in RECIPE, a YAML file, for those that score best on the validation split.

    The study goes on where it was left, also after Ctrl+C. The recipe of the best trial is written as best.yaml.

    \b
    Example:
      mmedge tune recipes/av-digits.yaml --trials 30
      mmedge train runs/av-digits/tune/best.yaml
    """
    from mmedge.training.recipe import read_recipe

    parsed = read_recipe(recipe)

    from mmedge.training.tune import tune as run

    with progress_bar() as progress:
        result = run(parsed, trials=trials, storage=storage, timeout=timeout, progress=progress)
    if as_json:
        print_json(
            {
                "metric": result.metric,
                "trials": [asdict(trial) for trial in result.trials],
                "best": None if result.best is None else result.best.number,
                "recipe": None if result.recipe is None else str(result.recipe),
            }
        )
    else:
        keys = list(parsed.tune)
        print_table(
            "Trials",
            ["trial", "state", result.metric or "score", *keys],
            [
                [
                    f"{trial.number} (best)" if trial == result.best else str(trial.number),
                    trial.state,
                    "" if trial.score is None else f"{trial.score:.4f}",
                    *(_shown(trial.values.get(key)) for key in keys),
                ]
                for trial in result.trials
            ],
        )
        for trial in result.trials:
            if trial.problem is not None:
                click.echo(f"trial {trial.number}: {trial.problem}")
        if result.recipe is not None:
            print_next(("mmedge", "train", result.recipe))
    if result.interrupted:
        click.get_current_context().exit(130)


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
