"""Quality filter: leave out patches that cannot be read or show too little tissue, by reading all pixels once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.ingest.formats.base import PatchSource
from histoxai.ingest.quality import measure_quality, tissue_share

_BATCH = 16  # patches that are read at once
Measured = tuple[int, str | None, float]  # row, error or None, share of tissue


class SelectedPatches:
    """Some rows of a source, in the same order, as a source."""

    def __init__(self, source: PatchSource, rows: np.ndarray) -> None:
        self._source, self._rows = source, rows
        index = source.index

        def select(values: list[Any]) -> list[Any]:
            return [values[r] for r in rows]

        self.index = replace(
            index,
            label=select(index.label),
            group=select(index.group),
            patch_id=select(index.patch_id),
            split=select(index.split),
            extra={name: select(values) for name, values in index.extra.items()},
        )

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read as the source does, in runs of rows that are neighbours there."""
        rows = self._rows[start:stop]
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        parts = [self._source.read(int(run[0]), int(run[-1]) + 1) for run in runs]
        targets = [t for _, t in parts if t is not None]
        return np.concatenate([i for i, _ in parts]), np.concatenate(targets) if targets else None


def passing_rows(
    source: PatchSource, min_tissue: float | None, skip_bad: bool, threads: int, progress: Progress
) -> np.ndarray:
    """Return the rows of a source that pass the filter; notes in its index say what is left out.

    min_tissue: least share of tissue in 0..1, None for no limit. Raises InputRefused for a patch that cannot be read,
    unless `skip_bad`, and where no patch passes.
    """
    index, passes = source.index, np.ones(len(source.index), bool)
    too_little_tissue = 0
    progress.start("looking at all patches", len(index))
    for batch in _measure(source, skip_bad, threads):
        for row, error, share in batch:
            passes[row] = error is None and (min_tissue is None or share >= min_tissue)
            if error is not None:
                index.left_out.append((index.patch_id[row], error))
            elif not passes[row]:
                too_little_tissue += 1
        progress.advance(len(batch))
    progress.stop()
    if too_little_tissue:
        index.notes.append(
            f"left out: {too_little_tissue} of {len(index)} patches with less than {min_tissue:g} tissue"
        )
    if not passes.any():
        raise InputRefused("no patch of the source is left; lower --min-tissue, or look at what --skip-bad lists")
    return np.flatnonzero(passes)


def _measure(source: PatchSource, skip_bad: bool, threads: int) -> Iterator[list[Measured]]:
    def measure(start: int) -> list[Measured]:
        stop = min(start + _BATCH, len(source.index))
        try:
            return [(start + i, None, share) for i, share in enumerate(_tissue(source, start, stop))]
        except InputRefused:
            return [_measure_single(source, row, skip_bad) for row in range(start, stop)]

    with ThreadPoolExecutor(max(1, threads)) as pool:
        yield from pool.map(measure, range(0, len(source.index), _BATCH))


def _measure_single(source: PatchSource, row: int, skip_bad: bool) -> Measured:
    try:
        return row, None, _tissue(source, row, row + 1)[0]
    except InputRefused as error:
        if not skip_bad:
            raise
        return row, str(error), 0.0


def _tissue(source: PatchSource, start: int, stop: int) -> list[float]:
    images, _ = source.read(start, stop)
    return tissue_share(np.stack([measure_quality(image) for image in images])).tolist()
