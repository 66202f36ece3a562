"""ingest: a file or folder of a known source format -> patches.zarr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import provenance, resources
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.core.provenance import file_checksum
from histoxai.core.registry import OWN, names, origin, resolve
from histoxai.core.safe_text import require_single_line
from histoxai.ingest.descriptors import DESCRIPTORS, compute_descriptors
from histoxai.ingest.formats.base import PatchIndex, PatchSource, SourceFormat, require_source
from histoxai.ingest.metadata import add_metadata, patch_groups
from histoxai.ingest.quality_filter import SelectedPatches, passing_rows
from histoxai.ingest.stain_reference import STAINED, UNCHANGED, fit_stain
from histoxai.settings import Ingest, Work
from histoxai.stages.base import ShardedStage
from histoxai.store.create import discard, match
from histoxai.store.jobs.runner import Producers
from histoxai.store.patches import IMAGES, TARGETS, first_target_row, image_item
from histoxai.store.schema import schema
from histoxai.store.shards import Item, Store
from histoxai.store.storage.s3_mirror import fetch_tree

LISTED = 10_000  # files and patches that were left out are named in the store up to this number


def ingest(source: Path, output: Path, settings: Ingest, progress: Progress, work: Work) -> dict[str, Any]:
    """Read a source shard by shard into a patch store; memory does not grow with the data.

    Raises InputRefused for anything in the source that cannot be used. Finished shards stay.
    """
    stage = _Ingest(source, output, settings, progress, work)
    return stage.summary() | stage.write(partial(ingest, source, output, settings))


class _Ingest(ShardedStage):
    """Patches of a source: images, targets, descriptors, and the stains if they are normalised."""

    settings: Ingest

    def __init__(self, source: Path, output: Path, settings: Ingest, progress: Progress, work: Work) -> None:
        super().__init__(output, settings, progress, work)
        self.source = source
        others = [p for p in (settings.metadata, settings.annotations, settings.stain_reference) if p is not None]
        provenance.keep_apart(output, source, *others)
        for path in (source, *others) if work.feed is None else ():
            fetch_tree(path, progress)
        self.format, reason = recognise(source, settings.format)
        progress.say(f"{source}: reading as {self.format} ({reason})")
        format: type[SourceFormat] = resolve("format", self.format)
        self.patches: PatchSource = format(source, settings)
        self.digest = self.patches.index.digest  # of the source alone, before metadata are added
        if settings.metadata is not None:
            add_metadata(self.patches.index, settings.metadata)
        self.stain = fit_stain(settings)
        self._header = self._make_header(self.patches.index)
        self.patches = self._filter_patches()
        resources.keep_freed_memory()
        self._report_notes()
        _require_storable(self.patches.index)
        index = self.patches.index
        self.attributes = {"classes": index.classes, "mpp": index.mpp, "left_out": index.left_out[:LISTED]}
        self.is_new = not output.exists()

    def _report_notes(self) -> None:
        for note in self.patches.index.notes:
            self.progress.say(note)
        for file, error in self.patches.index.left_out:
            self.progress.warn(f"left out: {file}: {error}")

    def header(self) -> dict[str, Any]:
        return self._header

    def _make_header(self, index: PatchIndex) -> dict[str, Any]:
        settings, stain = self.settings, self.stain
        package = origin("format", self.format)
        entries = {
            "format": self.format,
            **({} if package == OWN else {"package": package}),
            "classes": index.classes,
            "mpp": index.mpp,
            "shard_size": settings.shard_size,
            "min_tissue": settings.min_tissue,
            "skip_bad": settings.skip_bad,
            **index.facts,
            **(stain.settings if stain else {}),
        }
        parents = {"source": provenance.parent(self.source, self.output, self.digest)}
        if settings.metadata is not None:
            checksum = file_checksum(settings.metadata)
            parents["metadata"] = provenance.parent(settings.metadata, self.output, checksum)
        return provenance.header(schema("patches"), entries, None, parents, **(stain.facts if stain else {}))

    def _filter_patches(self) -> PatchSource:
        """Leave out patches by their pixels where the settings ask for it.

        All pixels are read for that once. For a store that exists, its ids say which patches are in it.
        """
        settings, source = self.settings, self.patches
        index = source.index
        min_tissue = None if index.tissue_checked else settings.min_tissue
        if not (settings.skip_bad or min_tissue):
            return source
        if self.output.exists() and not self.work.force:
            store = match(self.output, self._header, [])
            rows = np.flatnonzero(np.isin(index.patch_id, store.read("patch_id")))
            index.left_out = [(file, error) for file, error in store.group.attrs["left_out"]]
        else:
            rows = passing_rows(source, min_tissue, settings.skip_bad, self.work.threads, self.progress)
        return source if len(rows) == len(index) else SelectedPatches(source, rows)

    def items(self) -> list[Item]:
        index, shard = self.patches.index, self.settings.shard_size
        more = [self.stain.spec(len(index), shard)] if self.stain else []
        item = image_item(len(index), index.size, shard, index.has_targets, DESCRIPTORS, more)
        return [replace(item, parameters={"patches": provenance.fingerprint(index.patch_id)})]

    def index(self) -> dict[str, np.ndarray]:
        index = self.patches.index
        return {
            "label": np.array(index.label, np.int16),
            "group": np.array(patch_groups(index)),
            "scan": np.array(index.group),
            "patch_id": np.array(index.patch_id),
            "split": np.array(index.split, np.uint8),
            **{name: np.array(values) for name, values in index.extra.items()},
        }

    def produce(self, store: Store) -> Producers:
        return {IMAGES: self._rows}

    def _rows(self, start: int, stop: int) -> Mapping[str, np.ndarray]:
        try:
            images, targets = self.patches.read(start, stop)
        except InputRefused:
            # Finished shards stay, also those of other tasks. A store that this command created goes if it has none.
            if self.is_new and self.work.shard is None and self.work.feed is None and start == 0:
                discard(self.output, schema("patches"))
            raise
        rows = {IMAGES: images} if targets is None else {IMAGES: images, TARGETS: targets}
        rows |= compute_descriptors(images, self.work.threads)  # of the source's pixels, before stain normalisation
        return rows | self.stain.rows(images) if self.stain else rows

    def write(self, rerun: partial[dict[str, Any]]) -> dict[str, Any]:
        """Fill the store; say how many patches keep their stains once all are there."""
        summary = self.fill(rerun)
        is_finished = self.stain and self.work.only is None and self.work.feed is None
        if is_finished and (unchanged := int((Store(self.output).read(STAINED) == UNCHANGED).sum())):
            self.progress.say(f"{unchanged:,} patches keep their stains: glass, almost no tissue, or one colour only")
            summary["stains_kept"] = unchanged
        if self.patches.index.has_targets and self.work.only is None and self.work.feed is None:
            summary |= self._report_empty_targets()
        return summary

    def _report_empty_targets(self) -> dict[str, Any]:
        """Warn of target planes without any pixel; return the notes with these warnings."""
        index, store = self.patches.index, Store(self.output)
        if store.completeness()[IMAGES]["missing"]:
            return {}
        warnings = []
        for plane, name in enumerate(("tumor", "non_tumor")):
            chosen = index.facts.get(name) or getattr(self.settings, name)
            if chosen and first_target_row(store, plane, np.arange(len(index))) is None:
                flag = name.replace("_", "-")
                warnings.append(
                    f"no mask has a pixel of the {flag} plane ({', '.join(map(str, chosen))}): choose values that "
                    f"occur (--{flag}, --class-map, --mask-threshold)"
                )
        for warning in warnings:
            self.progress.warn(warning)
        return {"notes": [*index.notes, *warnings]}

    def summary(self) -> dict[str, Any]:
        """Return what `ingest --json` prints of the source."""
        index = self.patches.index
        counts = np.bincount([c for c in index.label if c >= 0], minlength=len(index.classes))
        return {
            "schema": "histoxai.ingest/1",
            "output": str(self.output),
            "format": self.format,
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


def recognise(source: Path, name: str) -> tuple[str, str]:
    """Return the name of the source's format, and why; for "auto" each format is asked in turn.

    Raises InputRefused where no format recognises the file or folder.
    """
    if name != "auto":
        resolve("format", name)
        return name, "as asked"
    require_source(source)
    for candidate in names("format"):
        if reason := resolve("format", candidate).recognises(source):
            return candidate, reason
    raise InputRefused(
        f"{source}: not recognised; expected DiagSet (blobs/S/20x), PanNuke (fold1/images.npy), HDF5, Zarr, .npy, "
        "images/ beside masks/, slides, or <class>/<image> folders; docs/ingest.md shows each, --format names one"
    )


def _require_storable(index: PatchIndex) -> None:
    """Raise InputRefused for names that no store can hold, before any work."""
    if "all" in index.classes:
        raise InputRefused("a class named 'all' would be taken for the total in every table; rename it")
    require_single_line({"class": index.classes, "group": index.group, "patch": index.patch_id})
    for name, values in index.extra.items():
        if len(values) != len(index):
            raise ValueError(f"{name}: {len(values)} values for {len(index)} patches")
