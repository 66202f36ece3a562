"""`histoxai audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.tables.audit import audit as tables

_SEED = typer.Option(help="Seed of the bootstrap.", envvar="HISTOXAI_SEED", metavar="N", rich_help_panel="Method")


@options.verb(
    settings.Audit,
    examples=("histoxai audit balanced.zarr", "histoxai audit balanced.zarr --near 4 --run cls/ --json"),
)
def audit(
    patches: Annotated[Path, options.argument("Store made by `augment` or `ingest`.")],
    settings: settings.Audit,
    run: Annotated[
        Path | None, options.path_option("A classifier's run folder: what was leakage worth to it?", metavar="DIR")
    ] = None,
    seed: Annotated[int, _SEED] = 0,
    json: options.Json = False,
) -> None:
    """Find relatives on both sides of a split: scans, rotated copies, duplicates, overlapping tiles."""
    from histoxai.settings import Statistics
    from histoxai.stages.audit import audit as stage

    summary = stage(patches, run, settings, Statistics(seed=seed))
    terminal.show(summary, json, tables)
