"""mmedge run"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmedge.cli.ui import engine_options, json_option, print_json, print_next, print_table

if TYPE_CHECKING:
    from mmedge.runtime import Match, Result, Session

_SHOWN = 5


@click.command()
@click.argument("bundle", type=click.Path())
@click.option("--image", "image_file", type=click.Path(), help="An image file: PNG, JPEG, ...")
@click.option("--audio", "audio_file", type=click.Path(), help="An audio file: WAV, FLAC, OGG, ...")
@click.option("--text", help="Text, such as a question.")
@click.option("--gallery", "gallery_file", type=click.Path(path_type=Path), help="Search this file of embeddings.")
@click.option("--enroll", metavar="NAME", help="Add the embedding to the gallery, which is made if there is none.")
@engine_options
@json_option
def run(
    bundle: str,
    image_file: str | None,
    audio_file: str | None,
    text: str | None,
    gallery_file: Path | None,
    enroll: str | None,
    as_json: bool,
    **engine: Any,
) -> None:
    """Run BUNDLE on files and text; a modality that is not given is absent.

    \b
    Example:
      mmedge run digits.mme --image 7.png --audio seven.wav
      mmedge run shapes.mme --image scene.png --text "Is the red object round?"
      mmedge run speakers.mme --audio ada.wav --gallery people.gallery --enroll Ada
      mmedge run speakers.mme --audio who.wav --gallery people.gallery
    """
    from mmedge.runtime import Session
    from mmedge.runtime.errors import InvalidArgument

    session = Session(bundle, **engine)
    if enroll is not None and gallery_file is None:
        raise InvalidArgument("--enroll adds to a gallery; give one with --gallery FILE")
    inputs = _inputs(session, image_file, audio_file, text)
    result = session.run(**inputs)
    matches = None if gallery_file is None else _search(session, result, gallery_file, enroll)
    if as_json:
        found = result.to_dict()
        if matches is not None:
            found |= {"matches": [match._asdict() for match in matches], "enrolled": enroll}
        print_json({**found, "present": list(inputs), "engine": session.engine})
        return
    _print(result, " and ".join(inputs))
    if matches is not None:
        rows = [[match.name, f"{match.score:.4f}"] for match in matches]
        print_table(f"Nearest in {gallery_file}", ["name", session.manifest.metric or ""], rows)
    if enroll is not None:
        click.echo(f"enrolled {enroll} in {gallery_file}")
    print_table("Time", ["stage", "µs"], [[stage, f"{spent:.0f}"] for stage, spent in result.timings.items()])
    click.echo(session.engine)
    print_next(("mmedge", "serve", bundle))


def _inputs(session: Session, image_file: str | None, audio_file: str | None, text: str | None) -> dict[str, Any]:
    """What was given, decoded, by input name."""
    from mmedge.runtime.errors import InvalidArgument
    from mmedge.runtime.media import decode_audio, decode_image

    inputs: dict[str, Any] = {}
    ways = (("image", image_file, decode_image), ("audio", audio_file, decode_audio), ("text", text, str))
    for modality, given, decode in ways:
        if given is None:
            continue
        names = [entry.name for entry in session.manifest.inputs if entry.modality == modality]
        if len(names) != 1:
            inputs_there = ", ".join(f"{entry.name} ({entry.modality})" for entry in session.manifest.inputs)
            raise InvalidArgument(
                f"--{modality}: {session.manifest.name} has {len(names)} inputs of this modality; expected one; "
                f"its inputs are {inputs_there}"
            )
        inputs[names[0]] = decode(given)
    return inputs


def _search(session: Session, result: Result, file: Path, enroll: str | None) -> list[Match]:
    """The nearest names in the gallery as it was; then the embedding is added to it, if asked for."""
    from mmedge.locking import locked
    from mmedge.runtime import Gallery

    file = file.resolve()  # one file, whichever links lead to it
    # Not the file itself, which every change replaces.
    with locked(file.parent) if enroll is not None else nullcontext():
        gallery = Gallery.for_session(session) if enroll is not None and not file.exists() else Gallery.load(file)
        gallery.check_session(session)
        matches = gallery.search(result.embedding, _SHOWN)
        if enroll is not None:
            gallery.enroll(enroll, result.embedding)
            gallery.save(file)
    return matches


def _print(result: Result, given: str) -> None:
    if result.labels is not None:
        click.echo(f"{', '.join(result.labels) or 'none'}  (from {given})")
    elif result.label is not None:
        click.echo(f"{result.label}  {result.score:.4f}  (from {given})")
    if result.scores:
        rows = [[label, f"{score:.4f}"] for label, score in result.scores.items()][:_SHOWN]
        print_table("Scores", ["label", "score"], rows)
    if result.embedding is not None:
        length = float((result.embedding.astype(float) ** 2).sum() ** 0.5)
        first = "  ".join(f"{value:.4f}" for value in result.embedding[:_SHOWN])
        click.echo(f"embedding of {len(result.embedding)} numbers, length {length:.4f}: {first} ...  (from {given})")
    if result.region is not None:
        if result.region.box is None:
            click.echo(f"no region: no relevance reaches {result.region.threshold:g}")
        else:
            x, y, width, height = result.region.box
            click.echo(
                f"region: {width:.0f} x {height:.0f} pixels at {x:.0f}, {y:.0f}"
                f"  (relevance up to {result.region.score:.4f})"
            )
    if result.input_weights is not None:
        rows = [[name, f"{weight:.4f}"] for name, weight in result.input_weights.items()]
        print_table("Listened to", ["input", "weight"], rows)
