"""mmedge data"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mmedge.cli.ui import json_option, print_json, print_next, progress_bar
from mmedge.data.making import MadeSet


@click.group()
def data() -> None:
    """Make a data set.

    \b
    Example:
      mmedge data av-digits data/av-digits
    """


@data.command(name="av-digits")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Seed of every choice and all noise.")
@click.option(
    "--image-noise",
    default=0.3,
    show_default=True,
    help="Sigma of the test images' noise, of the full range.",
)
@click.option("--audio-snr-db", default=10.0, show_default=True, help="Signal-to-noise ratio of the test clips.")
@json_option
def av_digits(out: Path, seed: int, image_noise: float, audio_snr_db: float, as_json: bool) -> None:
    """Handwritten digits with spoken ones: synthetic voices to train on, human recordings to test on.

    Needs espeak-ng, flite, sox and Debian's recordings of spoken digits; scikit-learn brings the scans.

    \b
    Example:
      mmedge data av-digits data/av-digits
    """
    from mmedge.data.av_digits import build

    with progress_bar() as progress:
        made = build(out, seed=seed, image_noise=image_noise, audio_snr_db=audio_snr_db, progress=progress)
    _print_made(made, as_json, "recipes/av-digits.yaml")


@data.command(name="sort-of-clevr")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Seed of every choice.")
@json_option
def sort_of_clevr(out: Path, seed: int, as_json: bool) -> None:
    """Questions about six coloured shapes, in words, each with its answer and the objects that decide it.

    \b
    Example:
      mmedge data sort-of-clevr data/sort-of-clevr
    """
    from mmedge.data.sort_of_clevr import build

    with progress_bar() as progress:
        made = build(out, seed=seed, progress=progress)
    _print_made(made, as_json, "recipes/sort-of-clevr.yaml")


@data.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Seed of every choice.")
@click.option("--invented-voices", default=240, show_default=True, help="Synthetic voices made up for training.")
@json_option
def speakers(out: Path, seed: int, invented_voices: int, as_json: bool) -> None:
    """Who is speaking: synthetic voices to train on, people to test on, and pairs of clips to tell apart.

    Needs espeak-ng, flite and Debian's recorded telephone prompts.

    \b
    Example:
      mmedge data speakers data/speakers
    """
    from mmedge.data.speakers import build

    with progress_bar() as progress:
        made = build(out, seed=seed, invented_voices=invented_voices, progress=progress)
    _print_made(made, as_json, "recipes/speakers.yaml")


def _print_made(made: MadeSet, as_json: bool, recipe: str) -> None:
    if as_json:
        print_json({key: str(value) if isinstance(value, Path) else value for key, value in asdict(made).items()})
        return
    for notice in made.notices:
        click.echo(notice)
    rows = ", ".join(f"{split} {count}" for split, count in made.rows.items())
    click.echo(f"{made.path}: {'already there' if made.reused else 'made'}; rows: {rows}")
    print_next(("mmedge", "train", recipe))
