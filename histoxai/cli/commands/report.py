"""`histoxai report`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.progress_display import display
from histoxai.core.errors import UsageError
from histoxai.core.s3_paths import with_s3_urls
from histoxai.settings.base import DEVICE

_WORKERS = typer.Option(min=1, help="Processes that draw. [the cores, at most 4]", rich_help_panel=DEVICE, metavar="N")


def _moved(what: str, metavar: str) -> Any:
    return options.path_option(f"{what}, if moved.", metavar=metavar)


@options.verb(
    settings.Report,
    work=("threads", "force"),
    modes=("check",),
    examples=(
        "histoxai report scores.zarr -o report/",
        "histoxai report scores.zarr -o report/ --export paper/",
        "histoxai report a/scores.zarr b/scores.zarr -o compared/",
    ),
)
def report(
    scores: Annotated[list[Path], options.argument("Store made by `score`; several are compared with the first.")],
    output: options.Output,
    settings: settings.Report,
    work: settings.Work,
    patches: Annotated[Path | None, _moved("The patch store", "STORE")] = None,
    maps: Annotated[Path | None, _moved("The maps store", "STORE")] = None,
    masks: Annotated[Path | None, _moved("The masks store", "STORE")] = None,
    model: Annotated[Path | None, _moved("The classifier's run folder", "DIR")] = None,
    segmenter: Annotated[Path | None, _moved("The segmenter's run folder", "DIR")] = None,
    export: Annotated[
        Path | None,
        options.path_option("Also write tables, figures, methods text and slides for a paper.", metavar="DIR"),
    ] = None,
    slides: Annotated[
        bool, typer.Option("--slides/--no-slides", help="Export slides for QuPath too.", rich_help_panel="Page")
    ] = True,
    allow_partial: options.AllowPartial = False,
    workers: Annotated[int | None, _WORKERS] = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Write one self-contained HTML page with all tables and figures; of several stores, one that compares them."""
    moved = {"patches": patches, "maps": maps, "masks": masks, "model": model, "segmenter": segmenter}
    several = len(scores) > 1
    if several and (wrong := "--no-slides" if not slides else _only_of_one(moved, settings)):
        raise UsageError(f"report: {wrong} applies only to a report of a single store; remove it to compare several")
    work = terminal.with_threads(work)
    with display(quiet) as progress:
        from histoxai.report.output import ReportRequest

        drawing = workers or min(4, work.threads)
        request = ReportRequest(output, export, slides, drawing, work.force, work.only == "check", allow_partial)
        if several:
            from histoxai.stages.compare import compare

            summary = compare(scores, request, settings.for_comparison(), progress)
        else:
            from histoxai.stages.report import report as stage

            summary = stage(scores[0], request, settings, progress, moved)
    if json:
        terminal.emit(summary)
    else:
        sys.stdout.write("checked; nothing written\n" if work.only else f"{with_s3_urls(summary['page'])}\n")


def _only_of_one(moved: Mapping[str, Path | None], chosen: settings.Report) -> str | None:
    # an option that means nothing where stores are compared
    given = [name for name, path in moved.items() if path is not None]
    compared = {entry.name for entry in fields(chosen.for_comparison())}
    default = type(chosen)()
    given += [
        entry.name
        for entry in fields(chosen)
        if entry.name not in compared and getattr(chosen, entry.name) != getattr(default, entry.name)
    ]
    return f"--{given[0]}" if given else None
