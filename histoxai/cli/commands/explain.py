"""`histoxai explain`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.progress_display import display
from histoxai.cli.tables import explain as tables
from histoxai.core.safe_text import escape_nested
from histoxai.settings.base import METHOD


def _list(ctx: typer.Context, asked: bool) -> None:
    # comes before the other options are parsed, so `--list --json` is seen in the words of the command line
    if asked:
        from histoxai.explain.catalogue import method_rows

        summary = {"schema": "histoxai.methods/1", "rows": method_rows()}
        terminal.show(summary, "--json" in ctx.meta["words"], tables.methods)
        raise typer.Exit


_LIST = typer.Option(
    "--list", callback=_list, is_eager=True, help="Every method, its paper, its cost.", rich_help_panel=METHOD
)


@options.sharded(
    settings.Explain,
    modes=("count", "missing", "estimate", "parity", "check"),
    examples=(
        "histoxai explain balanced.zarr --model cls/ -o maps.zarr --per-class 50",
        "histoxai explain balanced.zarr --model cls/ -o maps.zarr --method ig,ig300=ig -O ig300.steps=300",
    ),
)
def explain(
    patches: Annotated[Path, options.argument("Store made by `augment`.")],
    model: Annotated[Path, options.path_option("Run folder of `train-cls`.", metavar="DIR")],
    output: options.Output,
    settings: settings.Explain,
    work: settings.Work,
    masks: Annotated[
        Path | None, options.path_option("Store made by `masks`, for -O lime.segments=nuclei.", metavar="STORE")
    ] = None,
    list_: Annotated[bool, _LIST] = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Write attribution maps: where the classifier looked."""
    work = terminal.with_threads(work)
    with display(quiet or work.prints_shards) as progress:
        from histoxai.explain.inputs import ExplainInputs
        from histoxai.stages import explain as stage

        summary = stage.explain(ExplainInputs(patches, model, masks), output, settings, progress, work)
    _show(summary, work.only, json)
    if work.only == "parity":
        stage.raise_if_parity_fails(summary)


def _show(summary: dict[str, Any], only: str | None, json: bool) -> None:
    if only == "estimate" and not json:
        terminal.out().print(tables.estimate(escape_nested(summary)))
        sys.stdout.write(summary["sbatch"])
    elif only == "parity":
        terminal.show(summary, json, tables.parity)
    else:
        terminal.show_work(summary, only, json)
        if not json and summary.get("checks"):
            terminal.out().print(tables.checks(escape_nested(summary["checks"])))
