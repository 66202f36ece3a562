"""The `histoxai` command: its subcommands by name, in the order of the pipeline."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from histoxai import __version__
from histoxai.cli import terminal
from histoxai.cli.command import Command
from histoxai.cli.commands import (
    audit,
    augment,
    explain,
    info,
    ingest,
    masks,
    predict,
    report,
    score,
    train_cls,
    train_seg,
)

app = typer.Typer(
    cls=terminal.Boundary,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"auto_envvar_prefix": "HISTOXAI", "help_option_names": ["-h", "--help"]},
    help="Shows where a tissue classifier looked and measures whether that is where the tumor is.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"histoxai {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, allow_from_autoenv=False, help="Print the version."
        ),
    ] = False,
) -> None:
    """Runs before every command."""


for _command in (
    ingest.ingest,
    augment.augment,
    audit.audit,
    train_cls.train_cls,
    train_seg.train_seg,
    masks.masks,
    predict.predict,
    explain.explain,
    score.score,
    report.report,
    info.info,
):
    app.command(_command.__name__.replace("_", "-"), cls=Command)(_command)


def main() -> None:
    """The `histoxai` command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")  # names and signs that a locale lacks
    os.environ.setdefault("TERM", "dumb")  # without one nobody knows how to move a cursor
    try:
        app(prog_name="histoxai")
    except OSError as error:  # such as a full disk while help is printed; `Boundary` reports the errors of commands
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more may fail at the end
        print(f"histoxai: stdout: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
