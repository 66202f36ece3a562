"""What an unfinished shard has already: pieces of slow methods, kept until the shard is whole.

A LIME shard takes a quarter of an hour and more; a task that is stopped or killed in the middle leaves its
finished patches in `_part/<name>/<shard>/`, and whoever does the shard next starts from them. Fast methods
never write any. A file stands for itself: its name has the rows, its head the item's fingerprint and the
checksum of name and contents; anything else there is ignored.
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
# Seconds of work that a kill may cost; a signal costs the running piece only.
SAVE_INTERVAL = 5.0
_HEAD = 64  # fingerprint and checksum, 32 hexadecimal digits each


def part_folder(root: Path, name: str, shard: int) -> Path:
    """Where the pieces of a shard lie."""
    return root / PART / name / str(shard)


def remove_partial(root: Path, name: str, shard: int) -> None:
    """Remove a shard's pieces once it is done, and the folders above where they are empty."""
    folder = part_folder(root, name, shard)
    if is_outside(root, folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    for above in (folder.parent, folder.parent.parent):
        with contextlib.suppress(OSError):
            above.rmdir()


class PartialShard:
    """The rows of one shard that are there: `rows` path -> (r, ...), `have` (r,) bool, `seconds` they took."""

    def __init__(self, root: Path, name: str, shard: int, mark: str, rows: dict[str, np.ndarray]) -> None:
        self._root, self._name, self._shard, self._mark = root, name, shard, mark
        self.rows = rows
        self.have = np.zeros(len(next(iter(rows.values()))), bool)
        self.seconds = 0.0
        self._pending: list[tuple[int, int]] = []
        self._since = time.perf_counter()
        for path in sorted(part_folder(root, name, shard).glob("*.part")):
            self._load(path)

    def add(self, start: int, made: Mapping[str, np.ndarray]) -> int:
        """Take over rows [start, start + r); write what is new where enough time has passed.

        Returns how many of them were not there before.
        """
        stop = start + len(next(iter(made.values())))
        new = int((~self.have[start:stop]).sum())
        for path, rows in self.rows.items():
            rows[start:stop] = made[path]
        self.have[start:stop] = True
        self._pending.append((start, stop))
        if time.perf_counter() - self._since >= SAVE_INTERVAL and not self.have.all():
            self.flush()
        return new

    def flush(self) -> None:
        """Write the rows that no file has yet.

        Raises HistoxaiError where the system refuses.
        """
        runs, self._pending = _merged(self._pending), []
        if not runs:
            return
        now = time.perf_counter()
        if not (self._root / "zarr.json").is_file():  # removed by another task; it must not come back as a torso
            return
        total = sum(stop - start for start, stop in runs)
        for start, stop in runs:
            body = io.BytesIO()
            arrays = {f"{i}": rows[start:stop] for i, rows in enumerate(self.rows.values())}
            seconds = (now - self._since) * (stop - start) / total
            np.savez(body, seconds=np.array(seconds), **arrays)  # type: ignore[arg-type]
            data = body.getvalue()
            path = part_folder(self._root, self._name, self._shard) / f"{start}-{stop}.part"
            require_inside(self._root, path)
            # A torn file shows by its checksum and costs what it holds; a sync would cost more every time.
            write_atomically(path, self._head(path, data).encode() + data, durable=False)
        self._since = now

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Whatever ends the work inside, what is computed is written first where that can be."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(HistoxaiError, OSError):
                self.flush()
            raise

    def _head(self, path: Path, body: bytes) -> str:
        return self._mark + checksum(path.name.encode() + body)

    def _load(self, path: Path) -> None:
        try:
            start, stop = map(int, path.stem.split("-"))
            data = path.read_bytes()
            head, body = data[:_HEAD].decode(), data[_HEAD:]
            if head != self._head(path, body):
                return
            with np.load(io.BytesIO(body), allow_pickle=False) as found:
                pieces = [found[f"{i}"] for i in range(len(self.rows))]
                seconds = float(found["seconds"])
        except (OSError, ValueError, KeyError, UnicodeDecodeError):
            return
        wanted = [rows[start:stop] for rows in self.rows.values()]
        if not all(p.shape == w.shape and p.dtype == w.dtype for p, w in zip(pieces, wanted, strict=True)):
            return
        for place, piece in zip(wanted, pieces, strict=True):
            place[...] = piece
        self.have[start:stop] = True
        self.seconds += seconds


def _merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    # rows are finished in any order; what touches becomes one file
    whole: list[tuple[int, int]] = []
    for start, stop in sorted(runs):
        if whole and start <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(stop, whole[-1][1]))
        else:
            whole.append((start, stop))
    return whole
