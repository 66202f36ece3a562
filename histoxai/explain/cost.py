"""Measure the cost of a method on a few patches: seconds and stored bytes per patch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from histoxai.store.schema import ArraySpec

# Timed patches of a method, or as many as it finishes in these seconds, after one patch that warms up.
PATCHES, _SECONDS = 16, 20.0

# (start, stop) -> (first row, arrays by path) of finished rows
Rows = Callable[[int, int], Iterator[tuple[int, Mapping[str, np.ndarray]]]]


@dataclass(frozen=True)
class Cost:
    """Cost of one patch: seconds, and bytes after compression; patches: number of timed patches."""

    seconds: float
    bytes: float
    patches: int


def measure(work: Rows, specs: Sequence[ArraySpec], n: int) -> Cost:
    """Time work(start, stop) on the first patches of n.

    One patch is explained before, because the first one loads libraries.
    """
    began = time.perf_counter()
    parts = [rows for _, rows in work(0, 1)]
    alone = time.perf_counter() - began
    if n == 1 or alone > 3 * _SECONDS:  # so slow that loading makes no difference, and more would take minutes
        return Cost(alone, _stored_bytes(specs, parts), 1)
    parts = []
    seconds = 0.0
    began = time.perf_counter()
    for _, rows in work(0, min(n, PATCHES)):
        seconds = time.perf_counter() - began
        parts.append(rows)
        if seconds > _SECONDS:
            break
    done = sum(len(next(iter(rows.values()))) for rows in parts)
    return Cost(seconds / done, _stored_bytes(specs, parts) / done, done)


def _stored_bytes(specs: Sequence[ArraySpec], parts: Sequence[Mapping[str, np.ndarray]]) -> int:
    # bytes of the files that hold these rows; a file never has more than a shard
    total = 0
    for spec in specs:
        rows = np.concatenate([part[spec.path] for part in parts])
        step = spec.shard or len(rows)
        total += sum(len(spec.encode(rows[a : a + step]) or b"") for a in range(0, len(rows), step))
    return total
