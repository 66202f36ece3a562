"""Finished rows of an unfinished shard, saved so that a later run of the shard starts from them.

A LIME shard takes a quarter of an hour or more. A task that is stopped or killed leaves its finished patches in
`_part/<name>/<shard>/`. Fast methods never write any. Each file is complete in itself: its name gives the rows, its
head the item's fingerprint and the checksum of name and content. Any other file there is ignored.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from histoxai.core.errors import HistoxaiError
from histoxai.core.provenance import checksum
from histoxai.store.storage.files import is_outside, require_inside, write_atomically

PART = "_part"
# Seconds of work that a kill may lose; a signal loses only the rows in progress.
SAVE_INTERVAL = 5.0
_HEAD_BYTES = 64  # fingerprint and checksum, 32 hexadecimal digits each


def part_folder(root: Path, name: str, shard: int) -> Path:
    """Return the folder with the saved rows of a shard."""
    return root / PART / name / str(shard)


def remove_partial(root: Path, name: str, shard: int) -> None:
    """Remove a shard's saved rows, and the folders above if they are empty then."""
    folder = part_folder(root, name, shard)
    if is_outside(root, folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    for above in (folder.parent, folder.parent.parent):
        with contextlib.suppress(OSError):
            above.rmdir()


class PartialShard:
    """The finished rows of one shard, loaded from files and added by the running task.

    rows: array path -> (r, ...), filled in place. have (r,) bool: which of them are finished. seconds: compute time of
    the rows that were loaded.
    """

    def __init__(self, root: Path, name: str, shard: int, fingerprint: str, rows: dict[str, np.ndarray]) -> None:
        self._root, self._fingerprint = root, fingerprint
        self._folder = part_folder(root, name, shard)
        self.rows = rows
        self.have = np.zeros(len(next(iter(rows.values()))), bool)
        self.seconds = 0.0
        self._pending: list[tuple[int, int]] = []
        self._since = time.perf_counter()
        for path in sorted(self._folder.glob("*.part")):
            self._load(path)

    def add(self, start: int, finished: Mapping[str, np.ndarray]) -> int:
        """Add finished rows [start, start + r); write them to a file once enough time has passed.

        finished: array path -> (r, ...). Returns how many of the rows are new.
        """
        stop = start + len(next(iter(finished.values())))
        new = int((~self.have[start:stop]).sum())
        for path, rows in self.rows.items():
            rows[start:stop] = finished[path]
        self.have[start:stop] = True
        self._pending.append((start, stop))
        if time.perf_counter() - self._since >= SAVE_INTERVAL and not self.have.all():
            self.flush()
        return new

    def flush(self) -> None:
        """Write the rows that are in no file yet; raises HistoxaiError if the system refuses."""
        runs, self._pending = _merge_runs(self._pending), []
        if not runs:
            return
        now = time.perf_counter()
        if not (self._root / "zarr.json").is_file():  # another task removed the store: do not recreate a part of it
            return
        total = sum(stop - start for start, stop in runs)
        for start, stop in runs:
            self._write(start, stop, (now - self._since) * (stop - start) / total)
        self._since = now

    def _write(self, start: int, stop: int, seconds: float) -> None:
        body = io.BytesIO()
        arrays = {f"{i}": rows[start:stop] for i, rows in enumerate(self.rows.values())}
        np.savez(body, seconds=np.array(seconds), **arrays)  # type: ignore[arg-type]
        data = body.getvalue()
        path = self._folder / f"{start}-{stop}.part"
        require_inside(self._root, path)
        # Not synced: the checksum reveals a torn file, whose rows are then computed again.
        write_atomically(path, self._head(path, data).encode() + data, durable=False)

    @contextlib.contextmanager
    def saved_on_failure(self) -> Iterator[None]:
        """If anything ends the work inside, try to write the finished rows first."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(HistoxaiError, OSError):
                self.flush()
            raise

    def _head(self, path: Path, body: bytes) -> str:
        return self._fingerprint + checksum(path.name.encode() + body)

    def _load(self, path: Path) -> None:
        try:
            start, stop = map(int, path.stem.split("-"))
            data = path.read_bytes()
            head, body = data[:_HEAD_BYTES].decode(), data[_HEAD_BYTES:]
            if head != self._head(path, body):
                return
            with np.load(io.BytesIO(body), allow_pickle=False) as file:
                saved = [file[f"{i}"] for i in range(len(self.rows))]
                seconds = float(file["seconds"])
        except (OSError, ValueError, KeyError, UnicodeDecodeError):
            return
        targets = [rows[start:stop] for rows in self.rows.values()]
        if not all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(saved, targets, strict=True)):
            return
        for target, values in zip(targets, saved, strict=True):
            target[...] = values
        self.have[start:stop] = True
        self.seconds += seconds


def _merge_runs(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    # Rows are finished in any order; neighbouring runs become one file.
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(runs):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
