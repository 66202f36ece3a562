"""ingest: a folder of a known format -> patches.zarr."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from histoxai import provenance
from histoxai.errors import InputRefused
from histoxai.progress import Progress
from histoxai.readers.base import Index, Reader, require_folder
from histoxai.registry import names, resolve
from histoxai.settings import Ingest, Work
from histoxai.store.create import create_or_match, discard, match
from histoxai.store.mirror import fetch_tree
from histoxai.store.patches import IMAGES, TARGETS, image_item
from histoxai.store.work import Task, do_items


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
    provenance.keep_apart(output, source)
    for place in (source, settings.annotations, settings.metadata, settings.stain_reference):
        if place is not None and work.feed is None:
            fetch_tree(place, progress)
    name, reason = recognise(source, settings.format)
    progress.say(f"{source}: reading as {name} ({reason})")
    reader: Reader = resolve("reader", name)(source, settings)
    index = reader.index
    for note in index.notes:
        progress.say(note)
    return _summary(output, name, index) | _write(source, output, settings, name, reader, progress, work)


def recognise(source: Path, wanted: str) -> tuple[str, str]:
    """The reader's name and why; `auto` asks each reader in turn.

    Raises InputRefused where none recognises the folder.
    """
    if wanted != "auto":
        resolve("reader", wanted)
        return wanted, "as asked"
    require_folder(source)
    for name in names("reader"):
        if reason := resolve("reader", name).recognises(source):
            return name, reason
    raise InputRefused(
        f"{source}: not recognised; expected DiagSet (blobs/S/20x), PanNuke (fold1/images.npy) or "
        "<class>/<image> folders"
    )


def _write(
    source: Path, output: Path, settings: Ingest, name: str, reader: Reader, progress: Progress, work: Work
) -> dict[str, Any]:
    index = reader.index
    if "all" in index.classes:
        raise InputRefused(f"{source}: a class named 'all' would be taken for the total in every table; rename it")
    item = image_item(len(index), index.size, settings.shard_size, index.has_targets)
    header = provenance.header(
        "patches/1",
        {
            "format": name,
            "classes": index.classes,
            "mpp": index.mpp,
            **index.facts,
            "shard_size": settings.shard_size,
        },
        None,
        {"source": provenance.parent(source, output, index.digest)},
    )
    arrays = {
        "label": np.array(index.label, np.int16),
        "group": np.array(index.group),
        "patch_id": np.array(index.patch_id),
        "split": np.array(index.split, np.uint8),
    }
    attrs = {"classes": index.classes, "mpp": index.mpp}
    fresh = not output.exists()

    def compute(start: int, stop: int) -> dict[str, np.ndarray]:
        try:
            images, targets = reader.read(start, stop)
        except InputRefused:
            # What is done stays, also of other tasks; a store that this command began and that has nothing goes.
            if fresh and work.shard is None and work.feed is None and start == 0:
                discard(output, "patches/1")
            raise
        return {IMAGES: images} if targets is None else {IMAGES: images, TARGETS: targets}

    task = Task(
        [item],
        lambda: create_or_match(output, header, arrays, [item], attrs=attrs, force=work.force),
        (lambda: match(output, header, [item])) if output.exists() and not work.force else None,
        lambda: {IMAGES: compute},
        partial(ingest, source, output, settings),
        {"threads": work.threads},
    )
    return do_items(task, progress, work)


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
        "groups": len(set(index.group)),
        "classes": {c: int(n) for c, n in zip(index.classes, counts, strict=True)},
        "has_targets": index.has_targets,
        "notes": index.notes,
    }
