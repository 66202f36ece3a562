"""What a method costs: seconds and stored bytes of a patch, measured on a few."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from histoxai.store.schema import ArraySpec

# A method is timed on so many patches, or as many as it finishes in the seconds, after one run that warms up.
PATCHES, _SECONDS = 16, 20.0

# (first row, stop) -> runs of finished rows with the place of the first
Rows = Callable[[int, int], Iterator[tuple[int, Mapping[str, np.ndarray]]]]


@dataclass(frozen=True)
class Cost:
    """seconds and bytes (compressed) of one patch; patches: how many were timed."""

    seconds: float
    bytes: float
    patches: int


def measure(work: Rows, specs: Sequence[ArraySpec], n: int) -> Cost:
    """Time work(start, stop) on the first patches of n.

    A run over one patch comes first: it loads libraries.
    """
    began = time.perf_counter()
    made = [rows for _, rows in work(0, 1)]
    alone = time.perf_counter() - began
    if n == 1 or alone > 3 * _SECONDS:  # so slow that loading makes no difference, and more would take minutes
        return Cost(alone, _stored(specs, made), 1)
    made = []
    seconds = 0.0
    began = time.perf_counter()
    for _, rows in work(0, min(n, PATCHES)):
        seconds = time.perf_counter() - began
        made.append(rows)
        if seconds > _SECONDS:
            break
    done = sum(len(next(iter(rows.values()))) for rows in made)
    return Cost(seconds / done, _stored(specs, made) / done, done)


def _stored(specs: Sequence[ArraySpec], made: Sequence[Mapping[str, np.ndarray]]) -> int:
    # bytes of the files that hold these rows; a file never has more than a shard
    total = 0
    for spec in specs:
        rows = np.concatenate([part[spec.path] for part in made])
        step = spec.shard or len(rows)
        total += sum(len(spec.encode(rows[a : a + step]) or b"") for a in range(0, len(rows), step))
    return total
