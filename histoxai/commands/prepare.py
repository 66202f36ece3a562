"""Images to patches, patches to splits: `ingest`, `augment`.

Stages are imported inside the bodies, so that `--help` and `--version` load none of torch, zarr and numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histoxai import flags, registry, settings, tables, terminal
from histoxai.errors import UsageError


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
