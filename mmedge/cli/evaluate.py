"""mmedge evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmedge.cli.ui import json_option, print_evaluation, print_json, print_next, progress_bar

if TYPE_CHECKING:
    from mmedge.evaluation import Predict


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--split", default="validation", show_default=True, help="The split of DATA to score on.")
@click.option("--group-by", help="A column of the data to give the main metric by, such as speaker.")
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='The pairs that verification looks at, instead of all: lines {"first": LINE, "second": LINE} of the split.',
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write tables, plots and the worst samples here, as one HTML page.",
)
@json_option
def evaluate(
    model: Path, data: Path, split: str, group_by: str | None, pairs: Path | None, report: Path | None, as_json: bool
) -> None:
    """Score MODEL, a bundle (through the C runtime) or a checkpoint (in torch), on a split of DATA.

    Every subset of the modalities is scored, on the samples that have it. Accuracy, F1 and ROC AUC for classes; the
    equal error rate and recall at k for embeddings; the overlap with the true region for answers about images.

    \b
    Example:
      mmedge evaluate digits.mme data/av-digits --group-by speaker --report digits.html
    """
    from mmedge.data.folder import read_split
    from mmedge.evaluation import evaluate as score
    from mmedge.evaluation import read_pairs
    from mmedge.runtime.errors import InvalidArgument

    if report is not None:
        from mmedge.export.writing import check_writable
        from mmedge.report import write_report

        if not report.parent.is_dir():
            raise InvalidArgument(f"--report {report}: no such folder; make it, or give another")
        if report.is_dir():
            raise InvalidArgument(f"--report {report} is a folder; name the file to write")
        check_writable(report.parent)
    predict, modalities, labels, options = _load(model)
    if pairs is not None and options["task"] != "embedding":
        raise InvalidArgument(
            f"--pairs {pairs}: {model} is for {options['task']}, and only embeddings are verified by pairs; "
            "leave it out"
        )
    with progress_bar() as progress:
        samples = read_split(data, split, modalities, labels or None)
        scores = score(
            predict,
            samples,
            modalities,
            labels,
            **options,
            pairs=None if pairs is None else read_pairs(pairs, samples),
            group_by=group_by,
            progress=lambda done, total: progress("evaluate", done, total),
        )
    if report is not None:
        facts = [("model", str(model)), ("data", str(data)), ("split", split), ("rows", str(len(samples)))]
        write_report(report, scores, title=f"{model.stem} on {data.name}", facts=facts)
    if as_json:
        print_json(scores.to_dict())
        return
    print_evaluation(scores, per_class=True)
    if report is not None:
        click.echo(f"{report}: {report.stat().st_size / 1e6:.2f} MB")
    print_next(
        ("mmedge", "serve", model)
        if model.suffix == ".mme"
        else ("mmedge", "export", model, "-o", f"{model.resolve().name}.mme")
    )


def _load(model: Path) -> tuple[Predict, list[str], list[str], dict[str, Any]]:
    """A model as a function, its modalities and labels, and what it is for."""
    if model.suffix == ".mme":
        from mmedge.predicting import bundle_predictor
        from mmedge.runtime.manifest import read_manifest

        predict, modalities, options = bundle_predictor(model)
        return predict, modalities, read_manifest(model).labels, options

    from mmedge.models import load_checkpoint
    from mmedge.training.inference import predictor

    network = load_checkpoint(model)
    config = network.config
    options = {"task": config.head, "multi_label": config.multi_label, "metric": config.metric}
    return predictor(network), list(config.modalities), config.labels, options
