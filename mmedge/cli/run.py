"""mmedge run"""

from __future__ import annotations

from typing import Any

import click

from mmedge.cli.ui import engine_options, json_option, print_json, print_next, print_table


@click.command()
@click.argument("bundle", type=click.Path())
@click.option("--image", "image_file", type=click.Path(), help="An image file: PNG, JPEG, ...")
@click.option("--audio", "audio_file", type=click.Path(), help="An audio file: WAV, FLAC, OGG, ...")
@engine_options
@json_option
def run(bundle: str, image_file: str | None, audio_file: str | None, as_json: bool, **engine: Any) -> None:
    """Run BUNDLE on files; a modality that is not given is absent.

    \b
    Example:
      mmedge run digits.mme --image 7.png --audio seven.wav
    """
    from mmedge.runtime import Session
    from mmedge.runtime.errors import InvalidArgument
    from mmedge.runtime.media import decode_audio, decode_image

    session = Session(bundle, **engine)
    inputs: dict[str, Any] = {}
    for modality, file, decode in (("image", image_file, decode_image), ("audio", audio_file, decode_audio)):
        if file is None:
            continue
        names = [entry.name for entry in session.manifest.inputs if entry.modality == modality]
        if len(names) != 1:
            raise InvalidArgument(f"--{modality}: {bundle} has {len(names)} inputs of this modality; expected one")
        inputs[names[0]] = decode(file)
    result = session.run(**inputs)
    if as_json:
        print_json(
            {
                "label": result.label,
                "score": result.score,
                "scores": result.scores,
                "present": list(inputs),
                "timings_us": result.timings,
                "engine": session.engine,
            }
        )
        return
    click.echo(f"{result.label}  {result.score:.4f}  (from {' and '.join(inputs)})")
    print_table("Scores", ["label", "score"], [[label, f"{score:.4f}"] for label, score in result.scores.items()][:5])
    print_table("Time", ["stage", "µs"], [[stage, f"{spent:.0f}"] for stage, spent in result.timings.items()])
    click.echo(session.engine)
    print_next(f"mmedge serve {bundle}")
