"""What comes of it: `score`, `report`, `info`.

Stages are imported inside the bodies, so that `--help` and `--version` load none of torch, zarr and numpy.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.tables import results as tables
from histoxai.core import registry
from histoxai.core.errors import UsageError
from histoxai.core.s3_paths import with_s3_urls
from histoxai.core.safe_text import escape_nested


def score(
    maps: Annotated[Path, typer.Argument(help="Store made by `explain`.")],
    masks: Annotated[Path, typer.Option(help="Store made by `masks`.")],
    output: options.Output,
    profile: Annotated[str, typer.Option(help="corrected, or thesis (the study's computation).")] = "corrected",
    map_threshold: Annotated[
        float, typer.Option(help="A map's pixels above it are ones.")
    ] = settings.Score.map_threshold,
    mask_threshold: Annotated[float, typer.Option(help="A mask's pixels above it are ones.")] = (
        settings.Score.mask_threshold
    ),
    sure: Annotated[float, typer.Option(help="Probability that parts cases 1, 3 from 2, 4.")] = settings.Score.sure,
    sign: Annotated[
        str, typer.Option(help="Evidence that is ranked: positive, absolute, or own (what a method's authors show).")
    ] = settings.Score.sign,
    tolerance: Annotated[float, typer.Option(help="Of the pointing game, in pixels.")] = settings.Score.tolerance,
    top_k: Annotated[float, typer.Option(help="Share of a map's pixels that `top_k` takes.")] = settings.Score.top_k,
    measures: Annotated[
        str, typer.Option(help="all, or counts: IoU and its kin at the fixed threshold, in a fraction of the time.")
    ] = settings.Score.measures,
    primary: Annotated[
        str | None, typer.Option(help="The measure that methods are compared by (auroc; thesis: iou).")
    ] = settings.Statistics.primary,
    repetitions: Annotated[
        int, typer.Option(help="Of the cluster bootstrap; by default more where many methods need it.")
    ] = settings.Statistics.repetitions,
    level: Annotated[float, typer.Option(help="Of intervals.")] = settings.Statistics.level,
    margin: Annotated[float, typer.Option(help="A difference that means nothing.")] = settings.Statistics.margin,
    cancer: Annotated[str | None, typer.Option(help="Classes with tumor (all but A, N, BG, T, normal, ...).")] = None,
    empty: Annotated[str, typer.Option(help="What 0/0 is: exclude, zero or one.")] = settings.Statistics.empty,
    export: Annotated[
        list[Path],
        typer.Option(help="Also write a table: means*.csv or .parquet the means, any other name one row per patch."),
    ] = [],  # noqa: B006
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Test the maps on the model too (--model): --probes.")
    ] = False,
    model: Annotated[Path | None, typer.Option(help="Run folder of the classifier that was explained.")] = None,
    patches: Annotated[Path | None, typer.Option(help="Its patches, if they were moved.")] = None,
    probes: Annotated[str, typer.Option(help=", ".join(settings.PROBES) + ".")] = ",".join(
        settings.Faithfulness.probes
    ),
    steps: Annotated[int, typer.Option(help="Of deletion and insertion.")] = settings.Faithfulness.steps,
    infill: Annotated[
        str, typer.Option(help="In place of deleted pixels: " + ", ".join(settings.INFILLS) + ".")
    ] = settings.Faithfulness.infill,
    squares: Annotated[int, typer.Option(help="Of infidelity.")] = settings.Faithfulness.squares,
    perturbations: Annotated[int, typer.Option(help="Of sensitivity.")] = settings.Faithfulness.perturbations,
    sanity: Annotated[
        int, typer.Option(help="Patches on which layers are drawn anew, one after the other (--model).")
    ] = settings.Faithfulness.sanity,
    device: options.Device = "auto",
    shard_size: options.ShardSize = settings.Score.shard_size,
    shard: options.Shard = None,
    one_indexed: options.OneIndexed = False,
    count_shards: options.CountShards = False,
    missing: options.Missing = False,
    allow_partial: options.AllowPartial = False,
    verify: options.Verify = False,
    workers: options.Workers = settings.Work.workers,
    seed: options.Seed = settings.Statistics.seed,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON row per patch.")] = False,
) -> None:
    """How well maps and masks agree, beside chance, with intervals and tests."""
    if json and jsonl:
        raise UsageError("score: --json and --jsonl exclude each other")
    registry.resolve_name("profile", profile)
    chosen = settings.Score(map_threshold, mask_threshold, sure, sign, tolerance, top_k, measures, shard_size)
    named = options.words(cancer, "--cancer") if cancer is not None else None
    statistics = settings.Statistics(repetitions, level, seed, primary, margin, named, empty)
    only = options.only_one(count=count_shards, missing=missing, check=dry_run)
    if export and (shard is not None or only in ("count", "missing")):
        raise UsageError("--export: tables are of all shards; leave out --shard, --count-shards and --missing")
    if (faithfulness or sanity) and model is None:
        raise UsageError("--faithfulness and --sanity test maps on their model; name its run folder with --model")
    if model is not None and not (faithfulness or sanity):
        raise UsageError("--model: is what maps are tested on; ask for --faithfulness or --sanity")
    chosen_probes = options.words(probes, "--probes") if faithfulness else ()
    tested = settings.Faithfulness(chosen_probes, steps, infill, squares, perturbations, sanity=sanity, device=device)
    used = terminal.use_threads(threads, workers)
    work = settings.Work(shard, one_indexed, only, force, verify, workers, used)
    with terminal.progress(quiet or count_shards or missing) as progress:
        from histoxai.score import scores_store
        from histoxai.stages import score as stage

        tests = None if model is None else stage.FaithfulnessInputs(tested, model, patches)
        inputs = stage.ScoreInputs(maps, masks, allow_partial, tests)
        sums = stage.Summary(profile, statistics, export, with_means=not jsonl)
        summary = stage.score(inputs, output, chosen, sums, progress, work)
    if only is not None or shard is not None:
        terminal.show_work(summary, only, json)
    elif jsonl:
        for row in scores_store.patch_rows(output, profile, empty):
            terminal.emit(row)
    elif json:
        terminal.emit(summary)
    else:
        for table in tables.scored(escape_nested(summary)):
            terminal.out().print(table)


def report(
    scores: Annotated[list[Path], typer.Argument(help="Store made by `score`; several are compared with the first.")],
    output: options.Output,
    patches: Annotated[Path | None, typer.Option(help="The patch store, if it was moved.")] = None,
    maps: Annotated[Path | None, typer.Option(help="The maps store, if it was moved.")] = None,
    masks: Annotated[Path | None, typer.Option(help="The masks store, if it was moved.")] = None,
    model: Annotated[Path | None, typer.Option(help="The classifier's run folder, if it was moved.")] = None,
    segmenter: Annotated[Path | None, typer.Option(help="The segmenter's run folder, if it was moved.")] = None,
    title: Annotated[str | None, typer.Option(help="Heads the page.")] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Tables as CSV, LaTeX, Markdown; figures as SVG, PDF, PNG; methods; slides."),
    ] = None,
    colours: Annotated[
        str, typer.Option(help="Of overlays: safe (colour-blind readers tell them apart), or study.")
    ] = settings.Report.colours,
    examples: Annotated[
        int, typer.Option(help="Patches that can be looked at on the page.")
    ] = settings.Report.examples,
    show: Annotated[
        list[str], typer.Option(metavar="ID", help="A patch that has to be among them; as often as wanted.")
    ] = [],  # noqa: B006
    limit: Annotated[float, typer.Option(help="Of the page, in MB.")] = settings.Report.limit,
    primary: Annotated[
        str | None, typer.Option(help="The measure that methods are compared by (auroc).")
    ] = settings.Report.primary,
    cancer: Annotated[str | None, typer.Option(help="Classes with tumor (all but A, N, BG, T, normal, ...).")] = None,
    slides: Annotated[
        bool,
        typer.Option(
            "--slides/--no-slides",
            help="Export slides for QuPath too, where patches know their place.",
        ),
    ] = True,
    allow_partial: options.AllowPartial = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that draw figures (as many as cores, at most 4).")
    ] = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """One self-contained HTML page with all tables and figures; of several stores, one that compares them."""
    moved = {"patches": patches, "maps": maps, "masks": masks, "model": model, "segmenter": segmenter}
    named = options.words(cancer, "--cancer") if cancer is not None else None
    chosen = settings.Report(title or settings.Report.title, colours, examples, tuple(show), limit, primary, named)
    several = len(scores) > 1
    if several and (wrong := "--no-slides" if not slides else _only_of_one(moved, chosen)):
        raise UsageError(f"report: {wrong} is of a report of one store; leave it out to compare several")
    used = terminal.use_threads(threads)
    with terminal.progress(quiet) as progress:
        from histoxai.report.request import ReportRequest

        request = ReportRequest(output, export, slides, workers or min(4, used), force, dry_run, allow_partial)
        if several:
            from histoxai.stages.compare import compare

            asked = settings.Comparison(title or settings.Comparison.title, primary)
            summary = compare(scores, request, asked, progress)
        else:
            from histoxai.stages.report import report as stage

            summary = stage(scores[0], request, chosen, progress, moved)
    if json:
        terminal.emit(summary)
    else:
        sys.stdout.write("checked; nothing written\n" if dry_run else f"{with_s3_urls(summary['page'])}\n")


def _only_of_one(moved: Mapping[str, Path | None], chosen: settings.Report) -> str | None:
    # a flag that means nothing where stores are compared
    default = settings.Report()
    given = [name for name, path in moved.items() if path is not None]
    given += [
        k for k in ("colours", "examples", "show", "limit", "cancer") if getattr(chosen, k) != getattr(default, k)
    ]
    return f"--{given[0]}" if given else None


def info(
    path: Annotated[Path, typer.Argument(help="Any store or run folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Recompute all checksums; exit 1 where one fails.")] = False,
    json: options.Json = False,
) -> None:
    """Contents, lineage and completeness of any store or run folder."""
    from histoxai.stages import info as stage

    summary = stage.info(path, verify)
    if json:
        terminal.emit(summary)
    else:
        for table in tables.store(escape_nested(with_s3_urls(summary))):
            terminal.out().print(table)
    sys.stdout.flush()
    stage.raise_if_damaged(summary)
