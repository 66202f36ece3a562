"""Doing work items: which shards are asked for, and the loop that fills them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from histoxai.errors import UsageError
from histoxai.progress import Progress
from histoxai.store.shards import Item, Store, ranges

Compute = Callable[[int, int], dict[str, np.ndarray]]


def fill(
    store: Store,
    item: Item,
    compute: Compute,
    progress: Progress,
    **facts: object,
) -> int:
    """Do all missing shards of an item; returns how many were done.

    compute(start, stop) -> {array path: rows}. facts go into each record.
    """
    missing = store.missing(item)
    progress.start(item.name, sum(b - a for a, b in map(item.span, missing)))
    for k in missing:
        _do(store, item, k, compute, progress, facts)
    progress.stop()
    return len(missing)


def parse_shards(text: str | None, count: int, environ: Mapping[str, str] = os.environ) -> list[int] | None:
    """`5`, `0-7`, `3,9`, or `auto` (this SLURM array task's share) as shard numbers; None for all.

    Task i of N takes shards i, i+N, ..., so more shards than a site's MaxArraySize are no obstacle.
    Raises UsageError for anything else, or a number that is out of range.
    """
    if text is None:
        return None
    if text == "auto":
        return _task_share(count, environ)
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise UsageError(f"--shard {text}: expected numbers such as 5, 0-7 or 3,9, or auto")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= count:
            raise UsageError(f"--shard {text}: there are {count} shards, 0-{count - 1}")
        chosen.update(range(first, last + 1))
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


def do_items(
    make: Callable[[], Store],
    look: Callable[[], Store] | None,
    items: Sequence[Item],
    prepare: Callable[[], Mapping[str, Compute]],
    progress: Progress,
    *,
    shard: str | None,
    only: str | None,
    facts: Mapping[str, object],
) -> dict[str, Any]:
    """What every sharded stage does: name its shards, check its settings, or do what is missing.

    make: creates or matches the store. look: matches it and changes nothing; None where it is not there yet.
    prepare: loads what the work needs (a network) and gives one compute
    per item name; it is called only where something is missing. Items are done shard by shard in the order
    given, so a later item may read what an earlier one wrote.
    only: "count", "missing", "check" or None. Returns `shards` (text for `sbatch --array`) and `done`.
    """
    count = items[0].count
    if only == "count":
        return {"shards": f"0-{count - 1}", "done": {}}
    chosen = parse_shards(shard, count)
    if only is not None and look is None:
        return {"shards": f"0-{count - 1}", "done": {}}
    store = look() if only is not None and look is not None else make()
    gaps = {item.name: store.missing(item) for item in items}
    if only is not None:
        return {"shards": ranges(sorted({k for missing in gaps.values() for k in missing})), "done": {}}
    wanted = range(count) if chosen is None else chosen
    todo = [k for k in wanted if any(k in missing for missing in gaps.values())]
    done = {item.name: 0 for item in items}
    if todo:
        compute = prepare()
        total = sum(len(range(*item.span(k))) for item in items for k in todo if k in gaps[item.name])
        progress.start("patches x methods" if len(items) > 1 else items[0].name, total)
        for k in todo:
            for item in items:
                if k in gaps[item.name]:
                    _do(store, item, k, compute[item.name], progress, facts)
                    done[item.name] += 1
        progress.stop()
    return {"shards": ranges(todo), "done": done}


def _do(
    store: Store, item: Item, shard: int, compute: Compute, progress: Progress, facts: Mapping[str, object]
) -> None:
    started = time.perf_counter()
    start, stop = item.span(shard)
    store.write(item, shard, compute(start, stop), started, **facts)
    progress.advance(stop - start, f"{item.name}, shard {shard}")
