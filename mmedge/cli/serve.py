"""`mmedge serve`: a bundle over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mmedge.cli.ui import engine_options

if TYPE_CHECKING:
    from mmedge.runtime import Manifest


@click.command()
@click.argument("bundle", type=click.Path())
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 picks a free port.")
@click.option(
    "--max-body-mib",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Longest request body, in MiB.",
)
@engine_options
def serve(bundle: str, host: str, port: int, max_body_mib: int, **engine: Any) -> None:
    """Serve BUNDLE over HTTP until interrupted.

    Speaks the Open Inference Protocol (KServe v2) with JSON tensors, and takes plain files at
    /v2/models/NAME/predict, clips of up to ten minutes.

    \b
    Example:
      mmedge serve digits.mme --port 8000
      curl -F image=@7.png -F audio=@seven.wav http://127.0.0.1:8000/v2/models/digits/predict
    """
    from mmedge.server.limits import MIB, Limits
    from mmedge.server.run import serve as run

    body_bytes = max_body_mib * MIB
    limits = Limits(body_bytes=body_bytes, held_bytes=8 * body_bytes)
    run(bundle, host=host, port=port, limits=limits, engine=engine, on_ready=_announce)


def _announce(url: str, manifest: Manifest) -> None:
    from urllib.parse import quote

    examples = {"image": "@FILE.png", "audio": "@FILE.wav", "text": "TEXT"}
    files = " ".join(f"-F {entry.name}={examples[entry.modality]}" for entry in manifest.inputs)
    click.echo(f"Serving {manifest.name} at {url} (Ctrl+C stops it). Try:")
    click.echo(f"  curl {files} {url}/v2/models/{quote(manifest.name)}/predict")
