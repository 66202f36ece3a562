"""Choose the shards of a command, compute their rows, and write them."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import resources, signals
from histoxai.core.errors import UsageError
from histoxai.core.progress import Progress
from histoxai.settings import Work
from histoxai.store.jobs.workers import RerunStage, run_in_workers
from histoxai.store.partial_shards import PART, PartialShard, remove_partial
from histoxai.store.records import DONE
from histoxai.store.shards import Item, Store
from histoxai.store.state import format_ranges
from histoxai.store.storage.files import remove_abandoned

# compute(start, stop) -> {array path: rows [start, stop)}
Compute = Callable[[int, int], Mapping[str, np.ndarray]]
# Finished rows in any order: (number of the first row, {array path: rows})
FinishedRows = Iterator[tuple[int, Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class Stream:
    """Computes a shard and yields its rows as they are finished.

    rows(start, stop, have): yields rows of [start, stop); `have` (stop - start,) bool says which are there already.
    """

    rows: Callable[[int, int, np.ndarray], FinishedRows]


Producers = Mapping[str, Compute | Stream]  # by item name


@dataclass(frozen=True)
class Task:
    """The work of one sharded stage.

    items: done shard by shard in this order, so a later one may read what an earlier one wrote if that is `read_back`.
    create: creates or matches the store. look: matches it and changes nothing; None if it does not exist yet. produce:
    gets the store, loads what the work needs, such as a network, and returns what computes each item; called only if a
    shard is missing. rerun: the stage with its inputs bound, for worker processes. facts: written into each record, as
    they are at that time. write_behind: compress and write a shard while the next one is computed.
    """

    items: Sequence[Item]
    create: Callable[[], Store]
    look: Callable[[], Store] | None
    produce: Callable[[Store], Producers]
    rerun: RerunStage
    facts: Mapping[str, object]
    write_behind: bool = False


def parse_shards(
    text: str | None, count: int, one_indexed: bool = False, environ: Mapping[str, str] = os.environ
) -> list[int] | None:
    """Parse `5`, `0-7`, `3,9` or `auto` (the share of this Slurm array task) to shard numbers; None means all.

    Task i of N takes shards i, i+N, ..., so a store may have more shards than a site's MaxArraySize. Raises UsageError
    for anything else, or a number out of range.
    """
    if text is None:
        return None
    if text == "auto":
        return _task_share(count, environ)
    least = int(one_indexed)
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise UsageError(f"--shard {text}: expected numbers such as 5, 0-7 or 3,9, or auto")
        first, last = int(match[1]), int(match[2] or match[1])
        if first < least or last < first or last >= count + least:
            existing = f"are {count} shards, {least}-{count - 1 + least}" if count > 1 else f"is one shard, {least}"
            raise UsageError(f"--shard {text}: there {existing}")
        numbers.update(range(first - least, last + 1 - least))
    return sorted(numbers)


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


def run_shards(task: Task, progress: Progress, work: Work) -> dict[str, Any]:
    """Do the missing shards of a task, or name shards, or check the settings, as `work.only` says.

    Returns `shards` (text for `sbatch --array`) and `done` (how many shards were done, by item name).
    """
    count = task.items[0].count
    if work.only == "count":
        return _summary(range(count), work)
    selected = parse_shards(work.shard, count, work.one_indexed)
    shards: Sequence[int] = range(count) if selected is None else selected
    if work.only is not None:
        return _summary(_missing_shards(task, shards, work), work)
    store = task.create()
    if work.feed is not None:
        return _fill(store, task, ((k, _missing_items(store, task, k, work)) for k in work.feed), progress)
    _remove_leftovers(store, task.items, shards)
    todo = [(k, items) for k in shards if (items := _missing_items(store, task, k, work))]
    name = "patches x methods" if len(task.items) > 1 else task.items[0].name
    progress.start(name, sum(_rows(k, items) for k, items in todo))
    if work.workers > 1 and len(todo) > 1:
        done = run_in_workers(task.rerun, [k for k, _ in todo], work, progress)
        summary = _summary((k for k, _ in todo), work)
        summary["done"] = {item.name: done.get(item.name, 0) for item in task.items}
    else:
        summary = _fill(store, task, todo, progress)
    progress.stop()
    return summary


def _fill(store: Store, task: Task, todo: Iterable[tuple[int, list[Item]]], progress: Progress) -> dict[str, Any]:
    done = {item.name: 0 for item in task.items}
    producers: Producers | None = None
    shards = []
    with _Writer(store, task) as writer:
        for k, items in todo:
            producers = producers or task.produce(store)
            for item in items:
                _do_shard(store, item, k, producers[item.name], progress, writer)
                done[item.name] += 1
            shards.append(k)
    return {"shards": format_ranges(shards), "done": done}


def _missing_shards(task: Task, shards: Sequence[int], work: Work) -> Iterable[int]:
    if task.look is None:
        return shards
    store = task.look()
    return {k for item in task.items for k in store.missing(item, shards, work.verify)}


def _missing_items(store: Store, task: Task, shard: int, work: Work) -> list[Item]:
    return [item for item in task.items if store.missing(item, [shard], work.verify)]


def _rows(shard: int, items: Iterable[Item]) -> int:
    return sum(b - a for a, b in (item.span(shard) for item in items))


def _summary(shards: Iterable[int], work: Work) -> dict[str, Any]:
    return {"shards": format_ranges(k + int(work.one_indexed) for k in shards), "done": {}}


class _Writer:
    """Writes finished shards: at once, or behind the work (one at a time), so that a GPU need not wait for it."""

    def __init__(self, store: Store, task: Task) -> None:
        self._store, self._task = store, task
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._pending: Future[None] | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self.wait()

    def write(self, item: Item, shard: int, rows: dict[str, np.ndarray], seconds: float) -> None:
        """Write a shard and its record, then remove its saved rows; `wait` first."""
        if self._task.write_behind and not item.read_back:
            facts = {"peak_memory_mb": resources.peak_memory_mb(), **self._task.facts}
            self._pending = self._pool.submit(self._write, item, shard, rows, seconds, facts)
        else:
            self._write(item, shard, rows, seconds, self._task.facts)

    def _write(
        self, item: Item, shard: int, rows: dict[str, np.ndarray], seconds: float, facts: Mapping[str, object]
    ) -> None:
        self._store.write(item, shard, rows, seconds, **facts)
        remove_partial(self._store.path, item.name, shard)

    def wait(self) -> None:
        """Wait for the shard that is being written; raise its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _do_shard(
    store: Store, item: Item, shard: int, compute: Compute | Stream, progress: Progress, writer: _Writer
) -> None:
    started = time.perf_counter()
    resources.reset_peak_memory()
    start, stop = item.span(shard)
    rows = {s.path: np.empty((stop - start, *s.shape[1:]), s.dtype) for s in item.specs}
    partial = PartialShard(store.path, item.name, shard, store.fingerprint(item), rows)
    note = f"{item.name}, shard {shard}"
    stream = compute.rows if isinstance(compute, Stream) else _in_steps(compute, item.rows_per_step)
    with partial.saved_on_failure():
        progress.advance(int(partial.have.sum()), note)
        signals.check()
        for first, finished in [] if partial.have.all() else stream(start, stop, partial.have.copy()):
            progress.advance(partial.add(first - start, finished), note)
            signals.check()
        writer.wait()
    writer.write(item, shard, rows, time.perf_counter() - started + partial.seconds)


def _in_steps(compute: Compute, step_rows: int | None) -> Callable[[int, int, np.ndarray], FinishedRows]:
    # Steps begin at the same rows whatever is there already: the same rows are always computed together.
    def rows(start: int, stop: int, have: np.ndarray) -> FinishedRows:
        step = step_rows or stop - start
        for a in range(start, stop, step):
            b = min(a + step, stop)
            if not have[a - start : b - start].all():
                yield a, compute(a, b)

    return rows


def _remove_leftovers(store: Store, items: Iterable[Item], shards: Iterable[int]) -> None:
    """Remove what killed tasks left at these shards: temporary files, and partial rows of shards that are done."""
    root, shards = store.path, list(shards)
    folders: set[Path] = {root, root / DONE, root / PART}
    for item in items:
        folders |= {root / DONE / item.name, *((root / s.path / "zarr.json").parent for s in item.specs)}
        folders |= {(root / s.file(k)).parent for s in item.specs for k in shards}
        if (root / PART / item.name).is_dir():
            folders |= {root / PART / item.name / str(k) for k in shards}
            for k in set(shards) - set(store.missing(item, shards)):
                remove_partial(root, item.name, k)
    remove_abandoned(folders)
    if (root / PART).is_dir():
        with contextlib.suppress(OSError):  # not empty: other tasks have shards in progress
            (root / PART).rmdir()
