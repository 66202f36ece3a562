"""Images to patches, patches to splits: `ingest`, `augment`.

Stages are imported inside the bodies, so that `--help` and `--version` load none of torch, zarr and numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.tables import prepare as tables
from histoxai.core import registry
from histoxai.core.errors import UsageError
from histoxai.core.safe_text import told


def ingest(
    source: Annotated[Path, typer.Argument(help="File or folder to read.")],
    output: options.Output,
    format: Annotated[
        str, typer.Option(help="auto, " + ", ".join(registry.names("reader")) + ".")
    ] = settings.Ingest.format,
    classes: Annotated[str | None, typer.Option(help="Classes in order: A,N,R1.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of tiles, px (slides: 256; else images as they are).")] = None,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = settings.Ingest.overlap,
    tumor: Annotated[str | None, typer.Option(help="Mask types in the tumor plane [PanNuke: neoplastic].")] = None,
    non_tumor: Annotated[
        str | None, typer.Option(help="Mask types in the non-tumor plane [PanNuke: connective].")
    ] = None,
    class_map: Annotated[str | None, typer.Option(help="What mask values mean: 3=epithelial,4=spindle.")] = None,
    images: Annotated[str | None, typer.Option(help="Folder, ending, dataset or file of the images.")] = None,
    masks: Annotated[str | None, typer.Option(help="The same of the masks.")] = None,
    labels: Annotated[str | None, typer.Option(help="The same of the labels.")] = None,
    magnification: Annotated[str, typer.Option(help="DiagSet's: 5x, 10x, 20x, 40x.")] = settings.Ingest.magnification,
    partition: Annotated[
        str | None, typer.Option(help="DiagSet's folder of partitions, where there are several.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="GeoJSON (QuPath) or mask TIFF of slides, or a folder of them.")
    ] = None,
    min_overlap: Annotated[
        float, typer.Option(help="Share of a tile that an annotation has to cover.")
    ] = settings.Ingest.min_overlap,
    min_tissue: Annotated[float | None, typer.Option(help="Leave out patches with less tissue (0..1).")] = None,
    metadata: Annotated[Path | None, typer.Option(help="CSV: scan to patient, site, label.")] = None,
    stain: Annotated[str, typer.Option(help="Normalise stains: none, macenko, reinhard.")] = settings.Ingest.stain,
    stain_reference: Annotated[Path | None, typer.Option(help="Image or patch store whose stains to match.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out what cannot be read, and list it.")] = False,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Then draw some patches of each class, a PNG a class.")
    ] = None,
    shard_size: options.ShardSize = settings.Ingest.shard_size,
    shard: options.Shard = None,
    one_indexed: options.OneIndexed = False,
    count_shards: options.CountShards = False,
    missing: options.Missing = False,
    verify: options.Verify = False,
    workers: options.Workers = settings.Work.workers,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Read images into a patch store and count the classes."""
    chosen = settings.Ingest(
        format=format,
        classes=options.words(classes, "--classes") if classes is not None else None,
        mpp=mpp,
        tumor=options.words(tumor, "--tumor") if tumor is not None else None,
        non_tumor=options.words(non_tumor, "--non-tumor") if non_tumor is not None else None,
        shard_size=shard_size,
        size=size,
        overlap=overlap,
        class_map=options.words(class_map, "--class-map") if class_map is not None else (),
        images=images,
        masks=masks,
        labels=labels,
        magnification=magnification,
        partition=partition,
        annotations=annotations,
        min_overlap=min_overlap,
        min_tissue=min_tissue,
        metadata=metadata,
        stain=stain,
        stain_reference=stain_reference,
        skip_bad=skip_bad,
    )
    only = options.only_one(count=count_shards, missing=missing, check=dry_run)
    if contact_sheet is not None and (only or shard is not None):
        raise UsageError("--contact-sheet: shows a whole store; ask for it in a call without --shard and the like")
    work = settings.Work(shard, one_indexed, only, force, verify, workers, terminal.use_threads(threads, workers))
    with terminal.progress(quiet or count_shards or missing) as progress:
        from histoxai.stages.ingest import ingest as stage

        if contact_sheet is not None:
            from histoxai.stages.sheets import check_folder, contact_sheets

            check_folder(contact_sheet, source, output)
        summary = stage(source, output, chosen, progress, work)
        if contact_sheet is not None:
            summary["contact_sheets"] = [str(p) for p in contact_sheets(output, contact_sheet, progress)]
    if only in ("count", "missing") and not json:
        terminal.show_work(summary, only, json)
    else:
        terminal.show(summary, json, tables.counts)


def audit(
    patches: Annotated[Path, typer.Argument(help="Store made by `augment` or `ingest`.")],
    near: Annotated[
        int | None, typer.Option(help="Look for near duplicates too: perceptual hashes differ in at most so many bits.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="A classifier's run folder: what was leakage worth to it?")] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Relatives on both sides of a split: scans, rotated copies, duplicates, overlapping tiles."""
    from histoxai.stages.audit import audit as stage

    summary = stage(patches, run, settings.Audit(near), settings.Statistics(seed=seed))
    if json:
        terminal.emit(summary)
    else:
        for table in tables.audit(told(summary)):
            terminal.out().print(table)


def augment(
    source: Annotated[Path, typer.Argument(metavar="PATCHES", help="Store made by `ingest`.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="What to write.")] = None,
    fractions: Annotated[str, typer.Option(help="Train, validation, test.")] = ",".join(
        map(str, settings.Augment.fractions)
    ),
    split_by: Annotated[
        str, typer.Option(help="group (no leakage), scan, patient, site, patch (the study's rule), or source.")
    ] = settings.Augment.split_by,
    folds: Annotated[int | None, typer.Option(help="Cut into so many equal parts instead; with --fold.")] = None,
    fold: Annotated[int | None, typer.Option(help="The part that is test, from 0; the next one is validation.")] = None,
    hold_out: Annotated[str | None, typer.Option(help="Sites that are the test split, commas between.")] = None,
    near: Annotated[
        int | None,
        typer.Option(help="Near duplicates stay together too: perceptual hashes differ in at most so many bits."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the table, write nothing.")] = False,
    preview: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw patches of each class and split; of any store, without -o.")
    ] = None,
    shown: Annotated[
        str, typer.Option("--with", envvar="HISTOXAI_AUGMENT_WITH", help="Training's --augment that the preview shows.")
    ] = "none",
    shard_size: options.ShardSize = settings.Augment.shard_size,
    verify: options.Verify = False,
    seed: options.Seed = settings.Augment.seed,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Split into train, validation and test; rotate and balance."""
    chosen = settings.Augment(
        options.shares(fractions),
        split_by,
        seed,
        shard_size,
        folds,
        fold,
        options.words(hold_out, "--hold-out") if hold_out is not None else None,
        near,
    )
    changes = options.augmentation(shown, "--with")
    if preview is not None and preview.suffix.lower() != ".png":
        raise UsageError(f"--preview {preview}: is a picture; name it .png")
    if changes is not None and preview is None:
        raise UsageError("--with: says what --preview shows; training has --augment")
    written = None if plan or dry_run else output
    if written is None and not (plan or dry_run or preview):
        raise UsageError("augment: name the output with -o, or ask for --plan or --preview")
    only = "check" if dry_run else None
    work = settings.Work(only=only, force=force, verify=verify, threads=terminal.use_threads(threads))
    with terminal.progress(quiet) as progress:
        from histoxai.stages import augment as stage

        if written is not None or preview is None or dry_run:
            summary = stage.augment(source, written, chosen, progress, work)
        if preview is not None and not dry_run:
            looked = stage.preview(written or source, preview, chosen, changes, progress)
            summary = looked | {"output": None if written is None else str(written)}
    terminal.show(summary, json, tables.plan)
