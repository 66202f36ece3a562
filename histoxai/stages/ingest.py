"""ingest: a file or folder of a known format -> patches.zarr."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import provenance, resources
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.core.provenance import file_checksum
from histoxai.core.registry import names, resolve
from histoxai.core.safe_text import require_lines
from histoxai.ingest.describe import DESCRIBED, describe
from histoxai.ingest.formats.base import Index, Readable, Reader, require_source
from histoxai.ingest.metadata import groups, join
from histoxai.ingest.quality_filter import Chosen, survey
from histoxai.ingest.stain_normalisation import STAINED, Staining, left_as_they_were, staining
from histoxai.settings import Ingest, Work
from histoxai.store.create import create_or_match, discard, match
from histoxai.store.jobs.runner import Task, do_items
from histoxai.store.patches import IMAGES, TARGETS, image_item
from histoxai.store.schema import schema
from histoxai.store.shards import Store
from histoxai.store.storage.s3_mirror import fetch_tree

LISTED = 10_000  # of what was left out, so many are named in the store


def ingest(
    source: Path,
    output: Path,
    settings: Ingest,
    progress: Progress,
    work: Work,
) -> dict[str, Any]:
    """Read a source shard by shard into a patch store; memory does not grow with the data.

    Raises InputRefused for anything in the source that cannot be used. Shards that are done stay.
    """
    others = [p for p in (settings.metadata, settings.annotations, settings.stain_reference) if p is not None]
    provenance.keep_apart(output, source, *others)
    for place in (source, *others) if work.feed is None else ():
        fetch_tree(place, progress)
    name, reason = recognise(source, settings.format)
    progress.say(f"{source}: reading as {name} ({reason})")
    reader: Reader = resolve("reader", name)(source, settings)
    digest = reader.index.digest
    if settings.metadata is not None:
        join(reader.index, settings.metadata)
    stain = staining(settings)
    header = _header(source, output, settings, name, reader.index, digest, stain)
    chosen = _chosen(reader, header, output, settings, progress, work)
    index = chosen.index
    resources.keep_freed_memory()
    for note in index.notes:
        progress.say(note)
    for what, why in index.left_out:
        progress.warn(f"left out: {what}: {why}")
    again = partial(ingest, source, output, settings)
    return _summary(output, name, index) | _write(output, settings, header, chosen, stain, again, progress, work)


def recognise(source: Path, wanted: str) -> tuple[str, str]:
    """The reader's name and why; `auto` asks each reader in turn.

    Raises InputRefused where none recognises the folder or file.
    """
    if wanted != "auto":
        resolve("reader", wanted)
        return wanted, "as asked"
    require_source(source)
    for name in names("reader"):
        if reason := resolve("reader", name).recognises(source):
            return name, reason
    raise InputRefused(
        f"{source}: not recognised; expected DiagSet (blobs/S/20x), PanNuke (fold1/images.npy), HDF5, Zarr, .npy, "
        "images/ beside masks/, slides, or <class>/<image> folders; docs/ingest.md shows each, --format names one"
    )


def _header(
    source: Path, output: Path, settings: Ingest, name: str, index: Index, digest: str, stain: Staining | None
) -> dict[str, Any]:
    parents = {"source": provenance.parent(source, output, digest)}
    if settings.metadata is not None:
        parents["metadata"] = provenance.parent(settings.metadata, output, file_checksum(settings.metadata))
    chosen = {
        "format": name,
        "classes": index.classes,
        "mpp": index.mpp,
        "shard_size": settings.shard_size,
        "min_tissue": settings.min_tissue,
        "skip_bad": settings.skip_bad,
        **index.facts,
        **(stain.settings if stain else {}),
    }
    return provenance.header(schema("patches"), chosen, None, parents, **(stain.facts if stain else {}))


def _chosen(
    reader: Reader, header: dict[str, Any], output: Path, settings: Ingest, progress: Progress, work: Work
) -> Readable:
    """The patches to keep, where that takes a look at all pixels; once for a store, whose ids tell afterwards."""
    if not (settings.skip_bad or (settings.min_tissue and not reader.index.tissue_found)):
        return reader
    if output.exists() and not work.force:
        store = match(output, header, [])
        rows = np.flatnonzero(np.isin(reader.index.patch_id, store.read("patch_id")))
        reader.index.left_out = [(a, b) for a, b in store.group.attrs["left_out"]]
    else:
        least = None if reader.index.tissue_found else settings.min_tissue
        rows = survey(reader, least, settings.skip_bad, progress, work.threads)
    return reader if len(rows) == len(reader.index) else Chosen(reader, rows)


def _write(
    output: Path,
    settings: Ingest,
    header: dict[str, Any],
    reader: Readable,
    stain: Staining | None,
    again: Callable[..., dict[str, Any]],
    progress: Progress,
    work: Work,
) -> dict[str, Any]:
    index = reader.index
    _check(index)
    more = [stain.spec(len(index), settings.shard_size)] if stain else []
    item = image_item(len(index), index.size, settings.shard_size, index.has_targets, DESCRIBED, more)
    item = replace(item, what={"patches": provenance.fingerprint(index.patch_id)})
    arrays = {
        "label": np.array(index.label, np.int16),
        "group": np.array(groups(index)),
        "scan": np.array(index.group),
        "patch_id": np.array(index.patch_id),
        "split": np.array(index.split, np.uint8),
        **{name: np.array(values) for name, values in index.extra.items()},
    }
    attrs = {"classes": index.classes, "mpp": index.mpp, "left_out": index.left_out[:LISTED]}
    fresh = not output.exists()

    def compute(start: int, stop: int) -> dict[str, np.ndarray]:
        try:
            images, targets = reader.read(start, stop)
        except InputRefused:
            # What is done stays, also of other tasks; a store that this command began and that has nothing goes.
            if fresh and work.shard is None and work.feed is None and start == 0:
                discard(output, schema("patches"))
            raise
        made = {IMAGES: images} if targets is None else {IMAGES: images, TARGETS: targets}
        made |= describe(images, work.threads)  # of the pixels as they are in the source
        return made | stain.rows(images) if stain else made

    task = Task(
        [item],
        lambda: create_or_match(output, header, arrays, [item], attrs=attrs, force=work.force),
        (lambda: match(output, header, [item])) if output.exists() and not work.force else None,
        lambda: {IMAGES: compute},
        again,
        {"threads": work.threads},
    )
    summary = do_items(task, progress, work)
    if stain and work.only is None and work.feed is None and (left := left_as_they_were(Store(output).read(STAINED))):
        progress.say(f"{left:,} patches keep their stains: glass, almost no tissue, or one colour only")
        summary["stains_kept"] = left
    return summary


def _check(index: Index) -> None:
    # before any work, what no store could hold
    if "all" in index.classes:
        raise InputRefused("a class named 'all' would be taken for the total in every table; rename it")
    require_lines({"class": index.classes, "group": index.group, "patch": index.patch_id})
    for name, values in index.extra.items():
        if len(values) != len(index):
            raise ValueError(f"{name}: {len(values)} values for {len(index)} patches")


def _summary(output: Path, name: str, index: Index) -> dict[str, Any]:
    counts = np.bincount([c for c in index.label if c >= 0], minlength=len(index.classes))
    return {
        "schema": "histoxai.ingest/1",
        "output": str(output),
        "format": name,
        "patches": len(index),
        "height": index.size[0],
        "width": index.size[1],
        "mpp": index.mpp,
        "groups": len(set(groups(index))),
        "classes": {c: int(n) for c, n in zip(index.classes, counts, strict=True)},
        "has_targets": index.has_targets,
        "notes": index.notes,
        "left_out": [{"what": what, "why": why} for what, why in index.left_out],
    }
