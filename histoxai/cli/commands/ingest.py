"""`histoxai ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.progress_display import display
from histoxai.cli.tables.ingest import counts
from histoxai.core.errors import UsageError


@options.sharded(
    settings.Ingest,
    examples=(
        "histoxai ingest DiagSet/ -o patches.zarr --classes A,N,R1,R2,R3,R4,R5",
        "histoxai ingest slides/ -o patches.zarr --mpp 0.5 --annotations geojson/",
    ),
)
def ingest(
    source: Annotated[Path, options.argument("File or folder to read.")],
    output: options.Output,
    settings: settings.Ingest,
    work: settings.Work,
    contact_sheet: Annotated[
        Path | None, options.path_option("Then draw some patches of each class there.", metavar="DIR")
    ] = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Read images into a patch store and count the classes."""
    if contact_sheet is not None and (work.only or work.shard is not None):
        raise UsageError("--contact-sheet: shows a whole store; ask for it in a call without --shard and the like")
    work = terminal.with_threads(work)
    with display(quiet or work.prints_shards) as progress:
        from histoxai.stages.ingest import ingest as stage

        if contact_sheet is not None:
            from histoxai.stages.sheets import check_folder, contact_sheets

            check_folder(contact_sheet, source, output)
        summary = stage(source, output, settings, progress, work)
        if contact_sheet is not None:
            summary["contact_sheets"] = [str(path) for path in contact_sheets(output, contact_sheet, progress)]
    if work.prints_shards and not json:
        terminal.show_work(summary, work.only, json)
    else:
        terminal.show(summary, json, counts)
