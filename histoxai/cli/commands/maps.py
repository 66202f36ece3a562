"""What networks say of patches: `masks`, `predict`, `explain`.

Stages are imported inside the bodies, so that `--help` and `--version` load none of torch, zarr and numpy.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.tables import maps as tables
from histoxai.core.safe_text import told


def masks(
    patches: Annotated[Path, typer.Argument(help="Store made by `augment`.")],
    model: Annotated[Path, typer.Option(help="Run folder of `train-seg`.")],
    output: options.Output,
    split: options.Split = settings.Masks.split,
    rescale: Annotated[bool, typer.Option("--rescale", help="Bring patches to the segmenter's mpp.")] = False,
    micro_batch: options.MicroBatch = settings.Masks.micro_batch,
    shard_size: options.ShardSize = settings.Masks.shard_size,
    shard: options.Shard = None,
    one_indexed: options.OneIndexed = False,
    count_shards: options.CountShards = False,
    missing: options.Missing = False,
    verify: options.Verify = False,
    workers: options.Workers = settings.Work.workers,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Tumor and non-tumor probability planes for every patch of a split."""
    chosen = settings.Masks(split, rescale, micro_batch, device, shard_size)
    only = options.only_one(count=count_shards, missing=missing, check=dry_run)
    used = terminal.use_threads(threads, workers)
    work = settings.Work(shard, one_indexed, only, force, verify, workers, used)
    with terminal.progress(quiet or count_shards or missing) as progress:
        from histoxai.stages.masks import masks as stage

        summary = stage(patches, model, output, chosen, progress, work)
    terminal.show_work(summary, only, json)


def predict(
    patches: Annotated[Path, typer.Argument(help="Any store of patches; they need no labels.")],
    model: Annotated[Path, typer.Option(help="Run folder of `train-cls`.")],
    output: options.Output,
    split: options.Split = settings.Predict.split,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Store what the last layer sees, too.")] = False,
    micro_batch: options.MicroBatch = settings.Predict.micro_batch,
    shard_size: options.ShardSize = settings.Predict.shard_size,
    shard: options.Shard = None,
    one_indexed: options.OneIndexed = False,
    count_shards: options.CountShards = False,
    missing: options.Missing = False,
    verify: options.Verify = False,
    workers: options.Workers = settings.Work.workers,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Logits, predicted class and its probability of every patch."""
    chosen = settings.Predict(split, embeddings, micro_batch, device, shard_size)
    only = options.only_one(count=count_shards, missing=missing, check=dry_run)
    used = terminal.use_threads(threads, workers)
    work = settings.Work(shard, one_indexed, only, force, verify, workers, used)
    with terminal.progress(quiet or count_shards or missing) as progress:
        from histoxai.stages.predict import predict as stage

        summary = stage(patches, model, output, chosen, progress, work)
    terminal.show_work(summary, only, json)


def _list(asked: bool) -> None:
    # before anything else is asked for, so without the other flags: `--list --json` is told by the words themselves
    if asked:
        from histoxai.explain.catalogue import method_rows

        rows = method_rows()
        terminal.show({"schema": "histoxai.methods/1", "rows": rows}, "--json" in sys.argv, tables.methods)
        raise typer.Exit


def explain(
    patches: Annotated[Path, typer.Argument(help="Store made by `augment`.")],
    model: Annotated[Path, typer.Option(help="Run folder of `train-cls`.")],
    output: options.Output,
    method: Annotated[str, typer.Option(help="Methods, or NAME=METHOD to run one twice.")] = ",".join(
        settings.Explain.methods
    ),
    option: Annotated[list[str], typer.Option("-O", "--option", help="NAME.OPTION=VALUE, say ig.steps=300.")] = [],  # noqa: B006
    split: options.Split = settings.Explain.split,
    per_class: Annotated[int | None, typer.Option(help="Only K patches of each class.")] = None,
    target: Annotated[str, typer.Option(help="predicted, label, or a class.")] = settings.Explain.target,
    masks: Annotated[Path | None, typer.Option(help="Store made by `masks`, for -O lime.segments=nuclei.")] = None,
    random_weights: Annotated[
        str, typer.Option(help="Of --method those that explain the network with weights drawn anew.")
    ] = "",
    precision: Annotated[str, typer.Option(help="fp32, bf16, or tf32 (GPUs).")] = settings.Explain.precision,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile for LIME and its kin.")] = False,
    micro_batch: Annotated[
        int | None, typer.Option(help="Patches in one pass (what the output has, else what pays; on a GPU what fits).")
    ] = settings.Explain.micro_batch,
    shard_size: options.ShardSize = settings.Explain.shard_size,
    shard: options.Shard = None,
    one_indexed: options.OneIndexed = False,
    count_shards: options.CountShards = False,
    missing: options.Missing = False,
    list_: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="Every method, its paper, its cost.")
    ] = False,
    check_parity: Annotated[
        int | None, typer.Option(min=1, help="Compare K patches with the libraries and write nothing.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Time a few patches: hours, GB, files, and an #SBATCH block.")
    ] = False,
    verify: options.Verify = False,
    workers: options.Workers = settings.Work.workers,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Attribution maps: where the classifier looked."""
    chosen = settings.Explain(
        options.words(method, "--method"),
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
        options.words(random_weights, "--random-weights") if random_weights else (),
    )
    only = options.only_one(
        count=count_shards, missing=missing, estimate=estimate, parity=check_parity is not None, check=dry_run
    )
    used = terminal.use_threads(threads, workers)
    work = settings.Work(shard, one_indexed, only, force, verify, workers, used, parity=check_parity or 0)
    with terminal.progress(quiet or count_shards or missing) as progress:
        from histoxai.stages import explain as stage

        summary = stage.explain(patches, model, output, chosen, progress, work, masks)
    if only == "estimate" and not json:
        terminal.out().print(tables.estimate(told(summary)))
        sys.stdout.write(summary["sbatch"])
    elif only == "parity":
        terminal.show(summary, json, tables.parity)
        stage.complain(summary)
    else:
        terminal.show_work(summary, only, json)
        if not json and summary.get("checks"):
            terminal.out().print(tables.checks(told(summary["checks"])))
