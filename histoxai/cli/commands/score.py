"""`histoxai score`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.progress_display import display
from histoxai.cli.tables import score as tables
from histoxai.core import registry
from histoxai.core.errors import UsageError
from histoxai.settings.score import MEASURES_PANEL, MODEL_PANEL

_PROFILE = typer.Option(
    help="corrected, or thesis (the study's computation). [corrected]", metavar="NAME", rich_help_panel=MEASURES_PANEL
)


@options.sharded(
    settings.Score,
    settings.Statistics,
    settings.Faithfulness,
    examples=(
        "histoxai score maps.zarr --masks masks.zarr -o scores.zarr",
        "histoxai score maps.zarr --masks masks.zarr -o scores.zarr --json | jq .conclusions",
    ),
)
def score(
    maps: Annotated[Path, options.argument("Store made by `explain`.")],
    masks: Annotated[Path, options.path_option("Store made by `masks`.", metavar="STORE")],
    output: options.Output,
    settings: settings.Score,
    statistics: settings.Statistics,
    tests: settings.Faithfulness,
    work: settings.Work,
    profile: Annotated[str, _PROFILE] = "corrected",
    export: Annotated[
        list[Path],
        options.path_option(
            "Also write a table: means*.csv or .parquet the means, any other name one row per patch.", metavar="FILE"
        ),
    ] = [],  # noqa: B006
    faithfulness: Annotated[
        bool, options.switch("--faithfulness", "Test the maps on the model too: --probes.", MODEL_PANEL)
    ] = False,
    model: Annotated[
        Path | None,
        options.path_option("Run folder of the classifier that was explained.", panel=MODEL_PANEL, metavar="DIR"),
    ] = None,
    patches: Annotated[
        Path | None, options.path_option("The explained patches, if they were moved.", metavar="STORE")
    ] = None,
    allow_partial: options.AllowPartial = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    jsonl: Annotated[bool, options.switch("--jsonl", "Print one JSON row per patch.")] = False,
) -> None:
    """Measure how well maps and masks agree, beside chance, with intervals and tests."""
    if json and jsonl:
        raise UsageError("score: --json and --jsonl exclude each other")
    registry.resolve_name("profile", profile)
    if export and (work.shard is not None or work.prints_shards):
        raise UsageError("--export: tables are of all shards; leave out --shard, --count-shards and --missing")
    tests = tests if faithfulness else replace(tests, probes=())
    _check_model(model, faithfulness or tests.sanity > 0)
    work = terminal.with_threads(work)
    with display(quiet or work.prints_shards) as progress:
        from histoxai.score import scores_store
        from histoxai.score.inputs import FaithfulnessInputs, ScoreInputs
        from histoxai.stages import score as stage

        on_model = FaithfulnessInputs(tests, model, patches) if model is not None else None
        inputs = ScoreInputs(maps, masks, allow_partial, on_model, patches)
        requested = stage.Summary(profile, statistics, export, with_means=not jsonl)
        summary = stage.score(inputs, output, settings, requested, progress, work)
    if work.only is not None or work.shard is not None:
        terminal.show_work(summary, work.only, json)
    elif jsonl:
        for row in scores_store.patch_rows(output, profile, statistics.empty):
            terminal.emit(row)
    else:
        terminal.show(summary, json, tables.scored)


def _check_model(model: Path | None, needed: bool) -> None:
    if needed and model is None:
        raise UsageError("--faithfulness and --sanity test maps on their model; name its run folder with --model")
    if model is not None and not needed:
        raise UsageError("--model: is what maps are tested on; ask for --faithfulness or --sanity")
