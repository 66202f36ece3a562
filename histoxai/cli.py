"""The commands: flags -> settings -> stage.

Stages are imported inside the bodies, so that `--help` and `--version` load none of torch, zarr and numpy.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from histoxai import __version__, flags, registry, settings, tables, terminal
from histoxai.errors import UsageError

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


@app.command()
def ingest(
    source: Annotated[Path, typer.Argument(help="Folder to read.")],
    output: flags.Output,
    format: Annotated[
        str, typer.Option(help="auto, " + ", ".join(registry.names("reader")) + ".")
    ] = settings.Ingest.format,
    classes: Annotated[str | None, typer.Option(help="Classes in order: A,N,R1.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel.")] = None,
    tumor: Annotated[str, typer.Option(help="PanNuke types in the tumor mask.")] = ",".join(settings.Ingest.tumor),
    non_tumor: Annotated[str, typer.Option(help="PanNuke types in the non-tumor mask.")] = ",".join(
        settings.Ingest.non_tumor
    ),
    shard_size: flags.ShardSize = settings.Ingest.shard_size,
    shard: flags.Shard = None,
    one_indexed: flags.OneIndexed = False,
    count_shards: flags.CountShards = False,
    missing: flags.Missing = False,
    verify: flags.Verify = False,
    workers: flags.Workers = settings.Work.workers,
    threads: flags.Threads = None,
    quiet: flags.Quiet = False,
    force: flags.Force = False,
    dry_run: flags.DryRun = False,
    json: flags.Json = False,
) -> None:
    """Read images into a patch store and count the classes."""
    chosen = settings.Ingest(
        format=format,
        classes=flags.words(classes, "--classes") if classes is not None else None,
        mpp=mpp,
        tumor=flags.words(tumor, "--tumor"),
        non_tumor=flags.words(non_tumor, "--non-tumor"),
        shard_size=shard_size,
    )
    only = flags.only_one(count=count_shards, missing=missing, check=dry_run)
    work = settings.Work(shard, one_indexed, only, force, verify, workers, terminal.use_threads(threads, workers))
    with terminal.progress(quiet or count_shards or missing) as progress:
        from histoxai.stages.ingest import ingest as stage

        summary = stage(source, output, chosen, progress, work)
    if only in ("count", "missing") and not json:
        terminal.show_work(summary, only, json)
    else:
        terminal.show(summary, json, tables.counts)


@app.command()
def augment(
    source: Annotated[Path, typer.Argument(metavar="PATCHES", help="Store made by `ingest`.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="What to write.")] = None,
    fractions: Annotated[str, typer.Option(help="Train, validation, test.")] = ",".join(
        map(str, settings.Augment.fractions)
    ),
    split_by: Annotated[str, typer.Option(help="group (no leakage), patch (the study's rule), or source.")] = (
        settings.Augment.split_by
    ),
    plan: Annotated[bool, typer.Option("--plan", help="Print the table, write nothing.")] = False,
    shard_size: flags.ShardSize = settings.Augment.shard_size,
    verify: flags.Verify = False,
    seed: flags.Seed = settings.Augment.seed,
    threads: flags.Threads = None,
    quiet: flags.Quiet = False,
    force: flags.Force = False,
    dry_run: flags.DryRun = False,
    json: flags.Json = False,
) -> None:
    """Split into train, validation and test; rotate and balance."""
    chosen = settings.Augment(flags.shares(fractions), split_by, seed, shard_size)
    plan = plan or dry_run
    if output is None and not plan:
        raise UsageError("augment: name the output with -o, or ask for --plan")
    terminal.use_threads(threads)
    with terminal.progress(quiet) as progress:
        from histoxai.stages.augment import augment as stage

        summary = stage(source, None if plan else output, chosen, progress, force=force, verify=verify)
    terminal.show(summary, json, tables.plan)


@app.command("train-cls")
def train_cls(
    patches: Annotated[Path, typer.Argument(help="Store made by `augment`.")],
    output: flags.Output,
    arch: Annotated[str, typer.Option(help=", ".join(registry.names("classifier")) + ".")] = settings.TrainCls.arch,
    epochs: Annotated[int, typer.Option(help="At most this many.")] = settings.TrainCls.epochs,
    batch_size: int = settings.TrainCls.batch_size,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = settings.TrainCls.lr,
    patience: Annotated[int, typer.Option(help="Epochs without a lower validation loss.")] = settings.TrainCls.patience,
    seed: flags.Seed = 0,
    device: flags.Device = "auto",
    threads: flags.Threads = None,
    quiet: flags.Quiet = False,
    force: flags.Force = False,
    dry_run: flags.DryRun = False,
    json: flags.Json = False,
) -> None:
    """Train a classifier; keep the weights with the lowest validation loss."""
    chosen = settings.TrainCls(epochs, batch_size, lr, patience, seed, device, arch)
    terminal.use_threads(threads)
    with terminal.progress(quiet) as progress:
        from histoxai.stages.train_cls import train_cls as stage

        summary = stage(patches, output, chosen, progress, force=force, dry_run=dry_run)
    terminal.show(summary, json, tables.accuracy)


@app.command("train-seg")
def train_seg(
    patches: Annotated[Path, typer.Argument(help="Store with masks, made by `ingest` (PanNuke).")],
    output: flags.Output,
    width: Annotated[int, typer.Option(help="Channels of the first U-Net block.")] = settings.TrainSeg.width,
    dice: Annotated[str, typer.Option(help="plain (the study's code) or squared (its text).")] = settings.TrainSeg.dice,
    epochs: Annotated[int, typer.Option(help="At most this many.")] = settings.TrainSeg.epochs,
    batch_size: int = settings.TrainSeg.batch_size,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = settings.TrainSeg.lr,
    patience: Annotated[int, typer.Option(help="Epochs without a lower validation loss.")] = settings.TrainSeg.patience,
    seed: flags.Seed = 0,
    device: flags.Device = "auto",
    threads: flags.Threads = None,
    quiet: flags.Quiet = False,
    force: flags.Force = False,
    dry_run: flags.DryRun = False,
    json: flags.Json = False,
) -> None:
    """Train the U-Net that marks tumor and non-tumor nuclei."""
    chosen = settings.TrainSeg(epochs, batch_size, lr, patience, seed, device, width=width, dice=dice)
    terminal.use_threads(threads)
    with terminal.progress(quiet) as progress:
        from histoxai.stages.train_seg import train_seg as stage

        summary = stage(patches, output, chosen, progress, force=force, dry_run=dry_run)
    terminal.show(summary, json, tables.segmentation)


@app.command()
def masks(
    patches: Annotated[Path, typer.Argument(help="Store made by `augment`.")],
    model: Annotated[Path, typer.Option(help="Run folder of `train-seg`.")],
    output: flags.Output,
    split: flags.Split = settings.Masks.split,
    rescale: Annotated[bool, typer.Option("--rescale", help="Bring patches to the segmenter's mpp.")] = False,
    micro_batch: flags.MicroBatch = settings.Masks.micro_batch,
    shard_size: flags.ShardSize = settings.Masks.shard_size,
    shard: flags.Shard = None,
    one_indexed: flags.OneIndexed = False,
    count_shards: flags.CountShards = False,
    missing: flags.Missing = False,
    verify: flags.Verify = False,
    workers: flags.Workers = settings.Work.workers,
    device: flags.Device = "auto",
    threads: flags.Threads = None,
    quiet: flags.Quiet = False,
    force: flags.Force = False,
    dry_run: flags.DryRun = False,
    json: flags.Json = False,
) -> None:
    """Tumor and non-tumor probability planes for every patch of a split."""
    chosen = settings.Masks(split, rescale, micro_batch, device, shard_size)
    only = flags.only_one(count=count_shards, missing=missing, check=dry_run)
    used = terminal.use_threads(threads, workers)
    work = settings.Work(shard, one_indexed, only, force, verify, workers, used)
    with terminal.progress(quiet or count_shards or missing) as progress:
        from histoxai.stages.masks import masks as stage

        summary = stage(patches, model, output, chosen, progress, work)
    terminal.show_work(summary, only, json)


def _list(asked: bool) -> None:
    # before anything else is asked for, so without the other flags: `--list --json` is told by the words themselves
    if asked:
        from histoxai.explainers.methods import listed

        rows = listed()
        terminal.show({"schema": "histoxai.methods/1", "rows": rows}, "--json" in sys.argv, tables.methods)
        raise typer.Exit


@app.command()
def explain(
    patches: Annotated[Path, typer.Argument(help="Store made by `augment`.")],
    model: Annotated[Path, typer.Option(help="Run folder of `train-cls`.")],
    output: flags.Output,
    method: Annotated[str, typer.Option(help="Methods, or NAME=METHOD to run one twice.")] = ",".join(
        settings.Explain.methods
    ),
    option: Annotated[list[str], typer.Option("-O", "--option", help="NAME.OPTION=VALUE, say ig.steps=300.")] = [],  # noqa: B006
    split: flags.Split = settings.Explain.split,
    per_class: Annotated[int | None, typer.Option(help="Only K patches of each class.")] = None,
    target: Annotated[str, typer.Option(help="predicted, label, or a class.")] = settings.Explain.target,
    masks: Annotated[Path | None, typer.Option(help="Store made by `masks`, for -O lime.segments=nuclei.")] = None,
    random_weights: Annotated[
        str, typer.Option(help="Of --method those that explain the network with weights drawn anew.")
    ] = "",
    precision: Annotated[str, typer.Option(help="fp32, bf16, or tf32 (GPUs).")] = settings.Explain.precision,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile for LIME and its kin.")] = False,
    micro_batch: Annotated[
        int | None, typer.Option(help="Patches in one pass [what the output has, else what pays; on a GPU what fits].")
    ] = settings.Explain.micro_batch,
    shard_size: flags.ShardSize = settings.Explain.shard_size,
    shard: flags.Shard = None,
    one_indexed: flags.OneIndexed = False,
    count_shards: flags.CountShards = False,
    missing: flags.Missing = False,
    list_: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="Every method, its paper, its cost.")
    ] = False,
    check_parity: Annotated[
        int | None, typer.Option(min=1, help="Compare K patches with the libraries and write nothing.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Time a few patches: hours, GB, files, and an #SBATCH block.")
    ] = False,
    verify: flags.Verify = False,
    workers: flags.Workers = settings.Work.workers,
    seed: flags.Seed = 0,
    device: flags.Device = "auto",
    threads: flags.Threads = None,
    quiet: flags.Quiet = False,
    force: flags.Force = False,
    dry_run: flags.DryRun = False,
    json: flags.Json = False,
) -> None:
    """Attribution maps: where the classifier looked."""
    chosen = settings.Explain(
        flags.words(method, "--method"),
        split,
        per_class,
        target,
        tuple(option),
        seed,
        micro_batch,
        device,
        shard_size,
        precision,
        compile,
        flags.words(random_weights, "--random-weights") if random_weights else (),
    )
    only = flags.only_one(
        count=count_shards, missing=missing, estimate=estimate, parity=check_parity is not None, check=dry_run
    )
    used = terminal.use_threads(threads, workers)
    work = settings.Work(shard, one_indexed, only, force, verify, workers, used, parity=check_parity or 0)
    with terminal.progress(quiet or count_shards or missing) as progress:
        from histoxai.stages import explain as stage

        summary = stage.explain(patches, model, output, chosen, progress, work, masks)
    if only == "estimate" and not json:
        terminal.out().print(tables.estimate(summary))
        sys.stdout.write(summary["sbatch"])
    elif only == "parity":
        terminal.show(summary, json, tables.parity)
        stage.complain(summary)
    else:
        terminal.show_work(summary, only, json)
        if not json and summary.get("checks"):
            terminal.out().print(tables.checks(summary["checks"]))


@app.command()
def score(
    maps: Annotated[Path, typer.Argument(help="Store made by `explain`.")],
    masks: Annotated[Path, typer.Option(help="Store made by `masks`.")],
    output: flags.Output,
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
        str | None, typer.Option(help="The measure that methods are compared by [auroc; thesis: iou].")
    ] = settings.Statistics.primary,
    repetitions: Annotated[int, typer.Option(help="Of the cluster bootstrap.")] = settings.Statistics.repetitions,
    level: Annotated[float, typer.Option(help="Of intervals.")] = settings.Statistics.level,
    margin: Annotated[float, typer.Option(help="A difference that means nothing.")] = settings.Statistics.margin,
    cancer: Annotated[str | None, typer.Option(help="Classes with tumor [all but A, N, BG, T, normal, ...].")] = None,
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
    perturbations: Annotated[
        int, typer.Option(help="Of infidelity and sensitivity.")
    ] = settings.Faithfulness.perturbations,
    sanity: Annotated[
        int, typer.Option(help="Patches on which layers are drawn anew, one after the other (--model).")
    ] = settings.Faithfulness.sanity,
    device: flags.Device = "auto",
    shard_size: flags.ShardSize = settings.Score.shard_size,
    shard: flags.Shard = None,
    one_indexed: flags.OneIndexed = False,
    count_shards: flags.CountShards = False,
    missing: flags.Missing = False,
    allow_partial: flags.AllowPartial = False,
    verify: flags.Verify = False,
    workers: flags.Workers = settings.Work.workers,
    seed: flags.Seed = settings.Statistics.seed,
    threads: flags.Threads = None,
    quiet: flags.Quiet = False,
    force: flags.Force = False,
    dry_run: flags.DryRun = False,
    json: flags.Json = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON row per patch.")] = False,
) -> None:
    """How well maps and masks agree, beside chance, with intervals and tests."""
    if json and jsonl:
        raise UsageError("score: --json and --jsonl exclude each other")
    registry.resolve_name("profile", profile)
    chosen = settings.Score(map_threshold, mask_threshold, sure, sign, tolerance, top_k, measures, shard_size)
    named = flags.words(cancer, "--cancer") if cancer is not None else None
    statistics = settings.Statistics(repetitions, level, seed, primary, margin, named, empty)
    only = flags.only_one(count=count_shards, missing=missing, check=dry_run)
    if export and (shard is not None or only in ("count", "missing")):
        raise UsageError("--export: tables are of all shards; leave out --shard, --count-shards and --missing")
    if (faithfulness or sanity) and model is None:
        raise UsageError("--faithfulness and --sanity test maps on their model; name its run folder with --model")
    chosen_probes = flags.words(probes, "--probes") if faithfulness else ()
    tested = settings.Faithfulness(chosen_probes, steps, infill, perturbations, sanity=sanity, device=device)
    used = terminal.use_threads(threads, workers)
    work = settings.Work(shard, one_indexed, only, force, verify, workers, used)
    with terminal.progress(quiet or count_shards or missing) as progress:
        from histoxai.stages import score as stage

        probe = stage.Probe(tested, model, patches) if model is not None and (faithfulness or sanity) else None

        stage.check(maps, output, chosen, profile, statistics, export, with_means=not jsonl)
        made = stage.score(maps, masks, output, chosen, progress, work, allow_partial, probe)
        if only is None and shard is None:
            summary = None if jsonl else stage.summary(output, profile, statistics, progress)
            for path in export:
                stage.export(output, profile, statistics, path, summary)
    if only is not None or shard is not None:
        terminal.show_work(made, only, json)
    elif jsonl:
        for row in stage.patch_rows(output, profile, empty):
            terminal.emit(row)
    elif json:
        terminal.emit(summary)
    elif summary is not None:
        for table in tables.scored(summary):
            terminal.out().print(table)


@app.command()
def report(
    scores: Annotated[Path, typer.Argument(help="Store made by `score`.")],
    output: flags.Output,
    patches: Annotated[Path | None, typer.Option(help="The patch store, if it was moved.")] = None,
    maps: Annotated[Path | None, typer.Option(help="The maps store, if it was moved.")] = None,
    masks: Annotated[Path | None, typer.Option(help="The masks store, if it was moved.")] = None,
    model: Annotated[Path | None, typer.Option(help="The classifier's run folder, if it was moved.")] = None,
    segmenter: Annotated[Path | None, typer.Option(help="The segmenter's run folder, if it was moved.")] = None,
    title: Annotated[str, typer.Option(help="Heads the page.")] = settings.Report.title,
    allow_partial: flags.AllowPartial = False,
    threads: flags.Threads = None,
    quiet: flags.Quiet = False,
    force: flags.Force = False,
    dry_run: flags.DryRun = False,
    json: flags.Json = False,
) -> None:
    """One self-contained HTML page with all tables and figures."""
    moved = {"patches": patches, "maps": maps, "masks": masks, "model": model, "segmenter": segmenter}
    terminal.use_threads(threads)
    with terminal.progress(quiet) as progress:
        from histoxai.stages.report import report as stage

        summary = stage(
            *(scores, output, settings.Report(title), progress),
            moved=moved,
            force=force,
            dry_run=dry_run,
            allow_partial=allow_partial,
        )
    if json:
        terminal.emit(summary)
    else:
        sys.stdout.write("checked; nothing written\n" if dry_run else f"{summary['page']}\n")


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="Any store or run folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Recompute all checksums; exit 1 where one fails.")] = False,
    json: flags.Json = False,
) -> None:
    """Contents, lineage and completeness of any store or run folder."""
    from histoxai.stages import info as stage

    summary = stage.info(path, verify)
    if json:
        terminal.emit(summary)
    else:
        for table in tables.store(summary):
            terminal.out().print(table)
    sys.stdout.flush()
    stage.complain(summary)


def main() -> None:
    """The `histoxai` command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    app(prog_name="histoxai")
