"""`histoxai info`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from histoxai.cli import options, terminal
from histoxai.cli.tables.info import store


@options.verb(examples=("histoxai info maps.zarr", "histoxai info maps.zarr --verify"))
def info(
    path: Annotated[Path, options.argument("Any store or run folder.")],
    verify: Annotated[bool, options.switch("--verify", "Recompute all checksums; exit 1 where one fails.")] = False,
    json: options.Json = False,
) -> None:
    """Describe any store or run folder: contents, lineage, completeness."""
    from histoxai.stages import info as stage

    summary = stage.info(path, verify)
    terminal.show(summary, json, store)
    sys.stdout.flush()
    stage.raise_if_damaged(summary)
