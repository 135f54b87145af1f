"""What the commands share: JSON, tables and progress bars."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mmedge.evaluation import Evaluation

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of `Session` that a command hands through: engine, provider, threads, cache."""
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
            type=click.Choice(["cpu", "cuda", "tensorrt", "tensorrt-rtx"]),
            help="Of ONNX Runtime, what runs the graph, by default cpu; never another in its place.",
        ),
        click.option(
            "--engine",
            type=click.Choice(["onnxruntime", "tensorrt"]),
            default="onnxruntime",
            show_default=True,
            help="tensorrt runs what mmedge build compiled.",
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
    Console(markup=False, emoji=False).print(table)


def print_next(*commands: tuple[str | Path, ...]) -> None:
    """Print the commands one would type next, given in words, as a shell takes them."""
    click.echo("\nNext:\n" + "\n".join(f"  {shlex.join(map(str, command))}" for command in commands))


def print_evaluation(scores: Evaluation, *, per_class: bool) -> None:
    """Print the summary per subset of modalities, and, if asked, precision, recall and F1 per class."""
    subsets = [(" + ".join(subset.modalities), subset) for subset in scores.subsets]
    columns = list(dict.fromkeys(name for _, subset in subsets for name in subset.summary))
    print_table(
        "Scores",
        ["modalities", *columns, "samples"],
        [
            [name, *(_cell(subset.summary, column) for column in columns), str(subset.report.samples)]
            for name, subset in subsets
        ],
    )
    for name, subset in subsets if per_class else []:
        classes = getattr(subset.report, "classes", ())
        if classes:
            print_table(
                f"Per class, {name}",
                ["class", "precision", "recall", "F1", "ROC AUC", "samples"],
                [
                    [c.label, *(_score(value) for value in (c.precision, c.recall, c.f1, c.roc_auc)), str(c.support)]
                    for c in classes
                ],
            )
    searches = [(name, found) for _, subset in subsets for name, found in subset.cross_modal.items()]
    if searches:
        print_table(
            "One modality searched for with another",
            ["query->gallery", *(f"recall@{k}" for k in searches[0][1].recall), "queries"],
            [[name, *map(_score, found.recall.values()), str(found.queries)] for name, found in searches],
        )
    groups = sorted({group for _, subset in subsets for group in subset.groups})
    if groups:
        print_table(
            f"By group: {columns[0]}",
            ["group", *(name for name, _ in subsets)],
            [[group, *(_cell(subset.groups, group) for _, subset in subsets)] for group in groups],
        )


def _cell(values: Mapping[str, float | None], name: str) -> str:
    return _score(values[name]) if name in values else "-"


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
