"""Doing work items: which shards are asked for, and the loop that fills them."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import resources, signals
from histoxai.core.errors import UsageError
from histoxai.core.progress import Progress
from histoxai.settings import Work
from histoxai.store.jobs.workers import RerunStage, run_in_workers
from histoxai.store.partial_shards import PART, Kept, forget
from histoxai.store.records import DONE
from histoxai.store.shards import Item, Store
from histoxai.store.state import ranges
from histoxai.store.storage.files import sweep

Compute = Callable[[int, int], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Stream:
    """A compute that hands over rows as they are finished.

    rows(start, stop, have) -> (place of the first, {array path: rows}) of each run of finished rows, for rows
    [start, stop) of which `have` (stop - start,) bool are there already.
    """

    rows: Callable[[int, int, np.ndarray], Iterator[tuple[int, Mapping[str, np.ndarray]]]]


@dataclass(frozen=True)
class Task:
    """What a sharded stage hands over.

    items are done shard by shard in this order, so a later one may read what an earlier one wrote.
    make: creates or matches the store. look: matches it and changes nothing; None where it is not there yet.
    prepare: loads what the work needs (a network) and gives one compute(start, stop) -> {array path: rows}, or a
    Stream, per item name; it is called only where something is missing. again: the stage itself, for worker
    processes. facts: goes into each record, as it is when the record is written.
    """

    items: Sequence[Item]
    make: Callable[[], Store]
    look: Callable[[], Store] | None
    prepare: Callable[[], Mapping[str, Compute | Stream]]
    again: RerunStage
    facts: Mapping[str, object]


def fill(store: Store, item: Item, compute: Compute | Stream, progress: Progress, *, verify: bool = False) -> int:
    """Do all missing shards of an item; returns how many were done.

    compute(start, stop) -> {array path: rows}. verify: shards of another checksum are missing.
    """
    _clean(store, [item], range(item.count))
    missing = store.missing(item, verify=verify)
    progress.start(item.name, sum(b - a for a, b in map(item.span, missing)))
    for k in missing:
        _do(store, item, k, compute, progress, {})
    progress.stop()
    return len(missing)


def parse_shards(
    text: str | None, count: int, one_indexed: bool = False, environ: Mapping[str, str] = os.environ
) -> list[int] | None:
    """`5`, `0-7`, `3,9`, or `auto` (this SLURM array task's share) as shard numbers; None for all.

    Task i of N takes shards i, i+N, ..., so more shards than a site's MaxArraySize are no obstacle.
    Raises UsageError for anything else, or a number that is out of range.
    """
    if text is None:
        return None
    if text == "auto":
        return _task_share(count, environ)
    least = int(one_indexed)
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise UsageError(f"--shard {text}: expected numbers such as 5, 0-7 or 3,9, or auto")
        first, last = int(match[1]), int(match[2] or match[1])
        if first < least or last < first or last >= count + least:
            there = f"are {count} shards, {least}-{count - 1 + least}" if count > 1 else f"is one shard, {least}"
            raise UsageError(f"--shard {text}: there {there}")
        chosen.update(range(first - least, last + 1 - least))
    return sorted(chosen)


def _task_share(count: int, environ: Mapping[str, str]) -> list[int]:
    if "SLURM_ARRAY_TASK_ID" not in environ:
        raise UsageError("--shard auto: SLURM_ARRAY_TASK_ID is not set; run it in an array job")
    try:
        task = int(environ["SLURM_ARRAY_TASK_ID"])
        first, step, tasks = (
            int(environ.get(f"SLURM_ARRAY_TASK_{k}", d)) for k, d in (("MIN", 0), ("STEP", 1), ("COUNT", 1))
        )
        last = int(environ.get("SLURM_ARRAY_TASK_MAX", first + step * (tasks - 1)))
        if step < 1 or tasks < 1 or not first <= task <= last:
            raise ValueError
    except ValueError:
        raise UsageError("--shard auto: the SLURM_ARRAY_TASK_* variables make no sense together") from None
    if (last - first) // step + 1 != tasks:
        raise UsageError(
            "--shard auto: this array has gaps, and shares would be lost; with the list that --missing prints use "
            "--shard $SLURM_ARRAY_TASK_ID"
        )
    return list(range((task - first) // step, count, tasks))


def do_items(task: Task, progress: Progress, work: Work) -> dict[str, Any]:
    """What every sharded stage does: name its shards, check its settings, or do what is missing.

    Returns `shards` (text for `sbatch --array`) and `done` (how many now, by item name).
    """
    items, count = task.items, task.items[0].count
    if work.only == "count":
        return _names(range(count), work)
    chosen = parse_shards(work.shard, count, work.one_indexed)
    wanted: Sequence[int] = range(count) if chosen is None else chosen
    if work.only is not None:
        if task.look is None:
            return _names(wanted, work)
        store = task.look()
        return _names({k for item in items for k in store.missing(item, wanted, work.verify)}, work)
    store = task.make()
    if work.feed is not None:
        return _fill(store, task, ((k, _gaps(store, items, k, work)) for k in work.feed), progress)
    _clean(store, items, wanted)
    todo = [(k, gaps) for k in wanted if (gaps := _gaps(store, items, k, work))]
    progress.start("patches x methods" if len(items) > 1 else items[0].name, sum(_size(k, gaps) for k, gaps in todo))
    if work.workers > 1 and len(todo) > 1:
        done = run_in_workers(task.again, [k for k, _ in todo], work, progress)
        summary = _names((k for k, _ in todo), work) | {"done": {item.name: done.get(item.name, 0) for item in items}}
    else:
        summary = _fill(store, task, todo, progress)
    progress.stop()
    return summary


def _fill(store: Store, task: Task, todo: Iterable[tuple[int, list[Item]]], progress: Progress) -> dict[str, Any]:
    done = {item.name: 0 for item in task.items}
    compute: Mapping[str, Compute | Stream] | None = None
    shards = []
    for k, gaps in todo:
        compute = compute or task.prepare()
        for item in gaps:
            _do(store, item, k, compute[item.name], progress, task.facts)
            done[item.name] += 1
        shards.append(k)
    return {"shards": ranges(shards), "done": done}


def _gaps(store: Store, items: Iterable[Item], shard: int, work: Work) -> list[Item]:
    return [item for item in items if store.missing(item, [shard], work.verify)]


def _size(shard: int, items: Iterable[Item]) -> int:
    return sum(b - a for a, b in (item.span(shard) for item in items))


def _names(shards: Iterable[int], work: Work) -> dict[str, Any]:
    return {"shards": ranges(k + int(work.one_indexed) for k in shards), "done": {}}


def _do(
    store: Store, item: Item, shard: int, compute: Compute | Stream, progress: Progress, facts: Mapping[str, object]
) -> None:
    started = time.perf_counter()
    resources.reset_peak_memory()
    start, stop = item.span(shard)
    rows = {s.path: np.empty((stop - start, *s.shape[1:]), s.dtype) for s in item.specs}
    kept = Kept(store.path, item.name, shard, store.fingerprint(item), rows)
    note = f"{item.name}, shard {shard}"
    made = compute.rows if isinstance(compute, Stream) else _in_pieces(compute, item.piece)
    with kept.saving():
        progress.advance(int(kept.have.sum()), note)
        signals.check()
        for place, found in [] if kept.have.all() else made(start, stop, kept.have.copy()):
            progress.advance(kept.add(place - start, found), note)
            signals.check()
    store.write(item, shard, rows, time.perf_counter() - started + kept.seconds, **facts)
    forget(store.path, item.name, shard)


def _in_pieces(
    compute: Compute, piece: int | None
) -> Callable[[int, int, np.ndarray], Iterator[tuple[int, Mapping[str, np.ndarray]]]]:
    # pieces begin where they would in a shard of which nothing is there: the same rows stay together
    def rows(start: int, stop: int, have: np.ndarray) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        step = piece or stop - start
        for a in range(start, stop, step):
            b = min(a + step, stop)
            if not have[a - start : b - start].all():
                yield a, compute(a, b)

    return rows


def _clean(store: Store, items: Iterable[Item], wanted: Iterable[int]) -> None:
    """Remove what killed tasks left at these shards: temporary files, and pieces of shards that are done."""
    root, wanted = store.path, list(wanted)
    folders: set[Path] = {root, root / DONE, root / PART}
    for item in items:
        folders |= {root / DONE / item.name, *((root / s.path / "zarr.json").parent for s in item.specs)}
        folders |= {(root / s.file(k)).parent for s in item.specs for k in wanted}
        if (root / PART / item.name).is_dir():
            folders |= {root / PART / item.name / str(k) for k in wanted}
            missing = set(store.missing(item, wanted))
            for k in set(wanted) - missing:
                forget(root, item.name, k)
    sweep(folders)
    if (root / PART).is_dir():
        with contextlib.suppress(OSError):  # not empty: shards that others have under way
            (root / PART).rmdir()
