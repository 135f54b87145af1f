"""What the commands share: JSON, tables and progress bars."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mmedge.evaluation import Evaluation

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of `Session` that a command hands through: provider, threads, cache."""
    for option in (
        click.option("--cache", type=click.Path(), metavar="DIR", help="Keep what the engine makes of the graph here."),
        click.option(
            "--threads",
            type=click.IntRange(1, 1024),
            default=1,
            show_default=True,
            help="Threads inside one run.",
        ),
        click.option(
            "--provider",
            type=click.Choice(["cpu", "cuda", "tensorrt"]),
            default="cpu",
            show_default=True,
            help="What runs the graph; never another in its place.",
        ),
    ):
        command = option(command)
    return command


def print_json(value: Any) -> None:
    """Print a value as strict JSON."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; the first column is left-aligned, the others right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_next(*commands: str) -> None:
    """Print the commands one would type next."""
    click.echo("\nNext:\n" + "\n".join(f"  {command}" for command in commands))


def print_evaluation(scores: Evaluation, *, per_class: bool) -> None:
    """Print accuracy per subset of modalities, and, if asked, precision, recall and F1 per class."""
    print_table(
        "Accuracy",
        ["modalities", "accuracy", "macro F1", "samples"],
        [
            [
                " + ".join(s.modalities),
                f"{s.report.accuracy:.4f}",
                f"{s.report.macro_f1:.4f}",
                str(s.report.samples),
            ]
            for s in scores.subsets
        ],
    )
    for subset in scores.subsets if per_class else ():
        print_table(
            "Per class, " + " + ".join(subset.modalities),
            ["class", "precision", "recall", "F1", "samples"],
            [
                [c.label, *(_score(value) for value in (c.precision, c.recall, c.f1)), str(c.support)]
                for c in subset.report.classes
            ],
        )
    if any(subset.groups for subset in scores.subsets):
        groups = sorted({group for subset in scores.subsets for group in subset.groups})
        print_table(
            "Accuracy by group",
            ["group", *(" + ".join(subset.modalities) for subset in scores.subsets)],
            [[group, *(_score(subset.groups.get(group)) for subset in scores.subsets)] for group in groups],
        )


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar per stage on stderr: call what it gives with the stage's name, how much is done, of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield update
