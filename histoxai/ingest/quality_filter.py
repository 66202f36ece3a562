"""Some of a source's patches: what is left after a look at the pixels of all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.ingest.formats.base import PatchSource
from histoxai.ingest.quality import measure_quality, tissue_share

_PIECE = 16


class SelectedPatches:
    """A reader of some rows of another, in the same order."""

    def __init__(self, reader: PatchSource, rows: np.ndarray) -> None:
        whole = reader.index
        self._reader, self._rows = reader, rows

        def some(values: list[Any]) -> list[Any]:
            return [values[r] for r in rows]

        self.index = replace(
            whole,
            label=some(whole.label),
            group=some(whole.group),
            patch_id=some(whole.patch_id),
            split=some(whole.split),
            extra={k: some(v) for k, v in whole.extra.items()},
        )

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """As the other one reads, run by run of rows that are neighbours there."""
        rows = self._rows[start:stop]
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        parts = [self._reader.read(int(run[0]), int(run[-1]) + 1) for run in runs]
        targets = [t for _, t in parts if t is not None]
        return np.concatenate([i for i, _ in parts]), np.concatenate(targets) if targets else None


def select_patches(
    reader: PatchSource, min_tissue: float | None, skip_bad: bool, progress: Progress, threads: int
) -> np.ndarray:
    """Rows of a source whose pixels can be read and show enough tissue, by reading every patch once.

    Notes what is left out in the reader's index. Raises InputRefused for a patch that cannot be read, unless bad ones
    are skipped, and where nothing remains.
    """
    index, keep = reader.index, np.ones(len(reader.index), bool)
    few: list[int] = []

    def look(start: int) -> list[tuple[int, str | None, float]]:
        stop = min(start + _PIECE, len(index))
        try:
            return [(start + i, None, share) for i, share in enumerate(_tissue(reader, start, stop))]
        except InputRefused:
            return [_alone(reader, row, skip_bad) for row in range(start, stop)]

    progress.start("looking at all patches", len(index))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for found in pool.map(look, range(0, len(index), _PIECE)):
            for row, error, share in found:
                keep[row] = error is None and (min_tissue is None or share >= min_tissue)
                if error is not None:
                    index.left_out.append((index.patch_id[row], error))
                elif not keep[row]:
                    few.append(row)
            progress.advance(len(found))
    progress.stop()
    if few:
        index.notes.append(f"left out: {len(few)} of {len(index)} patches with less than {min_tissue:g} tissue")
    if not keep.any():
        raise InputRefused("no patch of the source is left; lower --min-tissue, or look at what --skip-bad lists")
    return np.flatnonzero(keep)


def _tissue(reader: PatchSource, start: int, stop: int) -> list[float]:
    images, _ = reader.read(start, stop)
    return tissue_share(np.stack([measure_quality(image) for image in images])).tolist()


def _alone(reader: PatchSource, row: int, skip_bad: bool) -> tuple[int, str | None, float]:
    try:
        return row, None, _tissue(reader, row, row + 1)[0]
    except InputRefused as error:
        if not skip_bad:
            raise
        return row, str(error), 0.0
