"""ingest: a file or folder of a known source format -> patches.zarr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from histoxai.ingest.descriptors import DESCRIPTORS, compute_descriptors
from histoxai.ingest.formats.base import PatchIndex, PatchSource, SourceFormat, require_source
from histoxai.ingest.metadata import add_metadata, patch_groups
from histoxai.ingest.quality_filter import QualityFilter, SelectedPatches
from histoxai.ingest.stain_reference import STAINED, FittedStain, count_unchanged, fit_stain
from histoxai.settings import Ingest, Work
from histoxai.store.create import create_or_match, discard, match
from histoxai.store.jobs.runner import Task, do_items
from histoxai.store.patches import IMAGES, TARGETS, image_item
from histoxai.store.schema import schema
from histoxai.store.shards import Item, Store
from histoxai.store.storage.s3_mirror import fetch_tree

LISTED = 10_000  # files and patches that were left out are named in the store up to this number


@dataclass(frozen=True)
class Plan:
    """What is written and where from. header: of the store; stain: the fitted stain normalisation, or None."""

    output: Path
    settings: Ingest
    header: dict[str, Any]
    patches: PatchSource
    stain: FittedStain | None
    work: Work

    @property
    def is_whole(self) -> bool:
        """Whether this process does all shards of the store, not some of an array job or of several workers."""
        return self.work.shard is None and self.work.feed is None


def ingest(source: Path, output: Path, settings: Ingest, progress: Progress, work: Work) -> dict[str, Any]:
    """Read a source shard by shard into a patch store; memory does not grow with the data.

    Raises InputRefused for anything in the source that cannot be used. Finished shards stay.
    """
    others = [p for p in (settings.metadata, settings.annotations, settings.stain_reference) if p is not None]
    provenance.keep_apart(output, source, *others)
    for path in (source, *others) if work.feed is None else ():
        fetch_tree(path, progress)
    name, reason = recognise(source, settings.format)
    progress.say(f"{source}: reading as {name} ({reason})")
    patches: SourceFormat = resolve("reader", name)(source, settings)
    digest = patches.index.digest  # of the source alone, before metadata are added
    if settings.metadata is not None:
        add_metadata(patches.index, settings.metadata)
    stain = fit_stain(settings)
    parents = _parents(source, output, settings, digest)
    header = _header(name, settings, patches.index, parents, stain)
    plan = _filter_patches(Plan(output, settings, header, patches, stain, work), progress)
    index = plan.patches.index
    resources.keep_freed_memory()
    for note in index.notes:
        progress.say(note)
    for file, error in index.left_out:
        progress.warn(f"left out: {file}: {error}")
    again = partial(ingest, source, output, settings)
    return _summary(output, name, index) | _write(plan, again, progress)


def recognise(source: Path, name: str) -> tuple[str, str]:
    """Return the name of the source's format, and why; for "auto" each format is asked in turn.

    Raises InputRefused where no format recognises the file or folder.
    """
    if name != "auto":
        resolve("reader", name)
        return name, "as asked"
    require_source(source)
    for candidate in names("reader"):
        if reason := resolve("reader", candidate).recognises(source):
            return candidate, reason
    raise InputRefused(
        f"{source}: not recognised; expected DiagSet (blobs/S/20x), PanNuke (fold1/images.npy), HDF5, Zarr, .npy, "
        "images/ beside masks/, slides, or <class>/<image> folders; docs/ingest.md shows each, --format names one"
    )


def _parents(source: Path, output: Path, settings: Ingest, digest: str) -> dict[str, Any]:
    parents = {"source": provenance.parent(source, output, digest)}
    if settings.metadata is not None:
        parents["metadata"] = provenance.parent(settings.metadata, output, file_checksum(settings.metadata))
    return parents


def _header(
    name: str, settings: Ingest, index: PatchIndex, parents: dict[str, Any], stain: FittedStain | None
) -> dict[str, Any]:
    entries = {
        "format": name,
        "classes": index.classes,
        "mpp": index.mpp,
        "shard_size": settings.shard_size,
        "min_tissue": settings.min_tissue,
        "skip_bad": settings.skip_bad,
        **index.facts,
        **(stain.settings if stain else {}),
    }
    return provenance.header(schema("patches"), entries, None, parents, **(stain.facts if stain else {}))


def _filter_patches(plan: Plan, progress: Progress) -> Plan:
    """Leave out patches by their pixels where the settings ask for it.

    All pixels are read for that once. For a store that exists, its ids say which patches are in it.
    """
    settings, source = plan.settings, plan.patches
    index = source.index
    min_tissue = None if index.tissue_checked else settings.min_tissue
    if not (settings.skip_bad or min_tissue):
        return plan
    if plan.output.exists() and not plan.work.force:
        store = match(plan.output, plan.header, [])
        rows = np.flatnonzero(np.isin(index.patch_id, store.read("patch_id")))
        index.left_out = [(file, error) for file, error in store.group.attrs["left_out"]]
    else:
        rows = QualityFilter(min_tissue, settings.skip_bad, plan.work.threads).select(source, progress)
    return plan if len(rows) == len(index) else replace(plan, patches=SelectedPatches(source, rows))


def _write(plan: Plan, again: partial[dict[str, Any]], progress: Progress) -> dict[str, Any]:
    output, header, work = plan.output, plan.header, plan.work
    index = plan.patches.index
    _require_storable(index)
    item, arrays = _item(plan), _index_arrays(index)
    attributes = {"classes": index.classes, "mpp": index.mpp, "left_out": index.left_out[:LISTED]}
    is_new = not output.exists()
    task = Task(
        [item],
        lambda: create_or_match(output, header, arrays, [item], attrs=attributes, force=work.force),
        None if is_new or work.force else lambda: match(output, header, [item]),
        lambda: {IMAGES: partial(_produce, plan, is_new)},
        again,
        {"threads": work.threads},
    )
    summary = do_items(task, progress, work)
    is_finished = plan.stain and work.only is None and work.feed is None
    if is_finished and (unchanged := count_unchanged(Store(output).read(STAINED))):
        progress.say(f"{unchanged:,} patches keep their stains: glass, almost no tissue, or one colour only")
        summary["stains_kept"] = unchanged
    return summary


def _item(plan: Plan) -> Item:
    index, shard = plan.patches.index, plan.settings.shard_size
    more = [plan.stain.spec(len(index), shard)] if plan.stain else []
    item = image_item(len(index), index.size, shard, index.has_targets, DESCRIPTORS, more)
    return replace(item, what={"patches": provenance.fingerprint(index.patch_id)})


def _index_arrays(index: PatchIndex) -> dict[str, np.ndarray]:
    return {
        "label": np.array(index.label, np.int16),
        "group": np.array(patch_groups(index)),
        "scan": np.array(index.group),
        "patch_id": np.array(index.patch_id),
        "split": np.array(index.split, np.uint8),
        **{name: np.array(values) for name, values in index.extra.items()},
    }


def _produce(plan: Plan, is_new: bool, start: int, stop: int) -> Mapping[str, np.ndarray]:
    """Read the rows [start, stop) of the source with their descriptors, by array path."""
    try:
        images, targets = plan.patches.read(start, stop)
    except InputRefused:
        # Finished shards stay, also those of other tasks. A store that this command created goes if it has none.
        if is_new and plan.is_whole and start == 0:
            discard(plan.output, schema("patches"))
        raise
    rows = {IMAGES: images} if targets is None else {IMAGES: images, TARGETS: targets}
    rows |= compute_descriptors(images, plan.work.threads)  # of the source's pixels, before stain normalisation
    return rows | plan.stain.rows(images) if plan.stain else rows


def _require_storable(index: PatchIndex) -> None:
    """Raise InputRefused for names that no store can hold, before any work."""
    if "all" in index.classes:
        raise InputRefused("a class named 'all' would be taken for the total in every table; rename it")
    require_lines({"class": index.classes, "group": index.group, "patch": index.patch_id})
    for name, values in index.extra.items():
        if len(values) != len(index):
            raise ValueError(f"{name}: {len(values)} values for {len(index)} patches")


def _summary(output: Path, name: str, index: PatchIndex) -> dict[str, Any]:
    counts = np.bincount([c for c in index.label if c >= 0], minlength=len(index.classes))
    return {
        "schema": "histoxai.ingest/1",
        "output": str(output),
        "format": name,
        "patches": len(index),
        "height": index.size[0],
        "width": index.size[1],
        "mpp": index.mpp,
        "groups": len(set(patch_groups(index))),
        "classes": {c: int(n) for c, n in zip(index.classes, counts, strict=True)},
        "has_targets": index.has_targets,
        "notes": index.notes,
        "left_out": [{"what": file, "why": error} for file, error in index.left_out],
    }
