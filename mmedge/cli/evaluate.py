"""mmedge evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mmedge.cli.ui import json_option, print_evaluation, print_json, print_next, progress_bar


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--split", default="validation", show_default=True, help="The split of DATA to score on.")
@click.option("--group-by", help="A column of the data to give accuracies by, such as speaker.")
@json_option
def evaluate(model: Path, data: Path, split: str, group_by: str | None, as_json: bool) -> None:
    """Score MODEL, a bundle (through the C runtime) or a checkpoint (in torch), on a split of DATA.

    \b
    Example:
      mmedge evaluate digits.mme data/av-digits --group-by speaker
    """
    from mmedge.data.folder import read_split
    from mmedge.evaluation import evaluate as score

    predict: Any
    if model.suffix == ".mme":
        from mmedge.runtime import Session

        session = Session(model)
        modalities, labels = [entry.name for entry in session.manifest.inputs], session.labels

        def predict(inputs: dict[str, Any]) -> str:
            return session.run(**inputs).label
    else:
        from mmedge.models import load_checkpoint
        from mmedge.training.inference import predictor

        network = load_checkpoint(model)
        modalities, labels = list(network.config.modalities), network.config.labels
        predict = predictor(network)
    with progress_bar() as progress:
        samples = read_split(data, split, modalities, labels)
        scores = score(
            predict,
            samples,
            modalities,
            labels,
            group_by=group_by,
            progress=lambda done, total: progress("evaluate", done, total),
        )
    if as_json:
        print_json(scores.to_dict())
        return
    print_evaluation(scores, per_class=True)
    print_next(f"mmedge serve {model}" if model.suffix == ".mme" else f"mmedge export {model} -o {model.name}.mme")
