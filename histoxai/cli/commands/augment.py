"""`histoxai augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.progress_display import display
from histoxai.cli.tables.augment import plan as table
from histoxai.core.errors import UsageError
from histoxai.settings.base import BEHAVIOUR, INPUT
from histoxai.settings.train import parse_augmentation

_WITH = typer.Option(
    "--with",
    envvar="HISTOXAI_AUGMENT_WITH",
    help="Training's --augment that --preview shows.",
    rich_help_panel=BEHAVIOUR,
    metavar="TRANSFORMS",
)


@options.verb(
    settings.Augment,
    work=("force", "verify", "threads"),
    modes=("plan", "check"),
    examples=(
        "histoxai augment patches.zarr -o balanced.zarr",
        "histoxai augment patches.zarr --plan --folds 5 --fold 0",
    ),
)
def augment(
    source: Annotated[Path, options.argument("Store made by `ingest`.", metavar="PATCHES")],
    settings: settings.Augment,
    work: settings.Work,
    output: Annotated[Path | None, options.path_option("Where to write.", "-o", "--output")] = None,
    preview: Annotated[
        Path | None,
        options.path_option(
            "Draw patches of each class and split; of any store, without -o.", panel=INPUT, metavar="PNG"
        ),
    ] = None,
    shown: Annotated[str, _WITH] = "none",
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Split into train, validation and test; rotate and balance."""
    changes = parse_augmentation(shown, "--with")
    if preview is not None and preview.suffix.lower() != ".png":
        raise UsageError(f"--preview {preview}: is a picture; name it .png")
    if changes is not None and preview is None:
        raise UsageError("--with: says what --preview shows; training has --augment")
    written = None if work.only else output
    if written is None and not (work.only or preview):
        raise UsageError("augment: name the output with -o, or ask for --plan or --preview")
    work = terminal.with_threads(work)
    with display(quiet) as progress:
        from histoxai.stages import augment as stage

        if written is not None or preview is None or work.only == "check":
            summary = stage.augment(
                source, written, settings, progress, force=work.force, verify=work.verify, threads=work.threads
            )
        if preview is not None and work.only != "check":
            summary = stage.preview(written or source, preview, settings, changes, progress)
            summary["output"] = None if written is None else str(written)
    terminal.show(summary, json, table)
