"""The command line. A command's function parses, calls the library, prints; it is imported when it is used."""

from __future__ import annotations

import errno
import sys
import traceback
from importlib import import_module
from typing import Any, NoReturn

import click

# In the order of the pipeline. Kept apart from the commands, so that --help imports none of them.
_COMMANDS = {
    "data": "Make a data set.",
    "train": "Train a model from a recipe.",
    "tune": "Search a recipe's values for the best.",
    "evaluate": "Measure a bundle or a checkpoint on a data set.",
    "export": "Export a checkpoint to a bundle, through the parity gate.",
    "calibrate": "Make a faster bundle in INT8, within a budget of accuracy.",
    "build": "Compile a bundle's graph for GPUs, ahead of time.",
    "diff": "Find where two bundles of one model part.",
    "inspect": "Show what a bundle holds.",
    "run": "Run a bundle on files.",
    "serve": "Serve a bundle over HTTP.",
}

_INTERRUPTED = 130  # as shells have it

# Which extra brings a package that only some commands need.
_EXTRAS = {
    "accelerate": "train",
    "jinja2": "evaluate",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "optuna": "train",
    "python_multipart": "serve",
    "safetensors": "train",
    "scipy": "train",
    "sklearn": "evaluate",
    "tensorboard": "train",
    "tokenizers": "train",
    "torch": "train",
    "transformers": "train",
    "uvicorn": "serve",
    "yaml": "train",
}


class _Pipeline(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command = getattr(import_module(f"mmedge.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"no such command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        from mmedge.runtime.errors import MmedgeError

        try:
            return super().invoke(ctx)
        except MmedgeError as error:
            click.echo(f"mmedge: {error}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno == errno.EPIPE:  # nobody reads the output any more
                raise
            click.echo(f"mmedge: {error}", err=True)
            ctx.exit(MmedgeError.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("Aborted!", err=True)
            ctx.exit(_INTERRUPTED)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package not in _EXTRAS:
                raise
            extra = _EXTRAS[package]
            click.echo(f'mmedge: this needs {package}, which is not installed: pip install "mmedge[{extra}]"', err=True)
            ctx.exit(MmedgeError.exit_code)


def _print_version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        import mmedge

        click.echo(f"mmedge {mmedge.__version__}")
        ctx.exit()


@click.group(cls=_Pipeline)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def cli() -> None:
    """Train models that see, hear and read; run them on edge devices.

    \b
    Example:
      mmedge data av-digits data/av-digits
      mmedge train recipes/av-digits.yaml
      mmedge export runs/av-digits -o digits.mme
      mmedge run digits.mme --image 7.png --audio seven.wav
    """


def main() -> NoReturn:
    """The `mmedge` command. Exit codes: 0 done, 1 a gate failed, 130 interrupted, 2 anything else."""
    try:
        cli()
    except Exception:
        traceback.print_exc()
        sys.exit(2)
    raise AssertionError("click's main does not return")
