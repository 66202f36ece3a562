"""What a method costs: seconds and stored bytes of a patch, measured on a few."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from histoxai.explainers.base import Batch
from histoxai.store.schema import ArraySpec

# A method is timed on so many pieces, or as many as fit into the seconds, after one that warms up.
_PIECES, _SECONDS = 5, 20.0


@dataclass(frozen=True)
class Cost:
    """seconds and bytes (compressed) of one patch; patches: how many were timed."""

    seconds: float
    bytes: float
    patches: int


def measure(
    load: Callable[[int, int], Batch],
    attribute: Callable[[Batch], Mapping[str, np.ndarray]],
    specs: Sequence[ArraySpec],
    piece: int,
    n: int,
) -> Cost:
    """Time `attribute(batch) -> {array path: rows}` on pieces spread over n patches; `load` is not timed.

    The first piece, which also loads libraries, counts only where it takes so long that that makes no difference.
    """
    count = max(1, n // piece)
    starts = np.unique(np.linspace(0, count - 1, min(count, _PIECES + 1)).astype(int)) * piece
    if len(starts) == 1:  # twice the same, since the first also loads libraries
        starts = np.repeat(starts, 2)
    seconds: list[float] = []
    sizes: list[float] = []
    for start in starts.tolist():
        batch = load(start, start + piece)
        began = time.perf_counter()
        made = attribute(batch)
        seconds.append(time.perf_counter() - began)
        sizes.append(sum(_stored(spec, made[spec.path]) for spec in specs) / piece)
        if sum(seconds) > _SECONDS:
            break
    warm = seconds[1:] or seconds
    return Cost(statistics.median(warm) / piece, statistics.mean(sizes), len(warm) * piece)


def _stored(spec: ArraySpec, rows: np.ndarray) -> int:
    # bytes of the files that hold these rows; a file never has more than a shard
    step = spec.shard or len(rows)
    return sum(len(spec.encode(rows[a : a + step]) or b"") for a in range(0, len(rows), step))
