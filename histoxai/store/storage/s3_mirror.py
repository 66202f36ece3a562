"""Folders on S3-compatible storage as folders of the cache.

`refresh` brings the small files (metadata, records) up to date and leaves arrays where they are; `fetch_tree` brings a
whole source. A file is here only after it is there: writers upload first, and a refresh looks here before it looks
there, so whatever it finds here and not there was deleted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import zarr
from zarr.buffer import cpu
from zarr.storage import MemoryStore

from histoxai.core import signals
from histoxai.core.errors import HistoxaiError, InputRefused
from histoxai.core.progress import Progress, Silent
from histoxai.core.provenance import checksum
from histoxai.core.s3_paths import is_on_s3, mirror_root, resolve_name, with_s3_urls
from histoxai.store.storage import s3_objects
from histoxai.store.storage.files import file_error, temporary_beside

_AT_ONCE = 16
_SMALL = (".json", ".html", ".csv", ".safetensors")
# Comes last, there and here: who sees it sees all that a store is made with.
LAST_FILE = "_done/index/0.json"
# Any of these, or a record, says that a folder is ours and not a source.
_OURS = ("zarr.json", "run.json", "last/identity.json", "data.zarr/zarr.json")


def refresh(path: Path) -> None:
    """Bring the mirror of a store, run folder or report up to date; of a source only that it is there.

    Where `path` is a single object it is fetched. Raises InputRefused for no such bucket or no access,
    HistoxaiError where storage cannot be reached.
    """
    _own_cache()
    here = _files(path)
    there = s3_objects.listing(path)
    known = _Known(path)
    _drop(path, [n for n in here if n not in there], everything="zarr.json" not in there)
    if not there:
        _refresh_object(path)
        return
    path.mkdir(parents=True, exist_ok=True)
    for name in [k for k in s3_objects.known_sizes if k.startswith(f"{path}/")]:
        del s3_objects.known_sizes[name]
    s3_objects.known_sizes.update({f"{path}/{n}": size for n, (size, _) in there.items()})
    ours = any(n in there for n in _OURS) or any(n.startswith("_done/") for n in there)
    small = [n for n in there if ours and n.endswith(_SMALL) and not known.is_same(n, there[n])]
    _fetch(path, {n: there[n] for n in small if n != LAST_FILE}, known, Silent())
    _fetch(path, {n: there[n] for n in small if n == LAST_FILE}, known, Silent())


def locate_parent(child: Path, name: str) -> Path:
    """Where a parent that a store names (`provenance.parent`) lies, its mirror up to date."""
    place = resolve_name(child.resolve().parent, name)
    if is_on_s3(place):
        place = Path(os.path.normpath(place))
        refresh(place)
    return place


def fetch_tree(path: Path, progress: Progress) -> None:
    """Fetch a whole folder; what came in an earlier try stays. Nothing to do for a path on disk or a single file.

    Raises HistoxaiError where the cache is too small or storage fails.
    """
    if not is_on_s3(path) or path.is_file():
        return
    there, known = s3_objects.listing(path), _Known(path)
    todo = {n: entry for n, entry in there.items() if not known.is_same(n, entry)}
    if not todo:
        return
    total, free = sum(size for size, _ in todo.values()), shutil.disk_usage(mirror_root()).free
    if total > free:
        raise HistoxaiError(
            f"{with_s3_urls(str(path))}: {total / 1e9:.1f} GB are to come, {mirror_root()} has room for "
            f"{free / 1e9:.1f}; name a larger folder with HISTOXAI_CACHE"
        )
    progress.say(f"{with_s3_urls(str(path))}: fetching {len(todo)} files, {total / 1e6:.0f} MB")
    progress.start("files fetched", len(todo))
    _fetch(path, todo, known, progress)
    progress.stop()


def array_in_memory(folder: Path) -> zarr.Array[Any]:
    """An array that is read by the Zarr library (ids, groups): small, and fetched whole."""
    names = list(s3_objects.listing(folder))
    found: dict[str, Any] = {}
    _all(lambda n: found.update({n: cpu.Buffer.from_bytes(s3_objects.get(folder / n))}), names)
    return zarr.open_array(MemoryStore(found), mode="r")


def fetch(path: Path) -> None:
    """Fetch one file anew; where it is not there, it is not here either."""
    temporary = temporary_beside(path)
    try:
        for last_try in (False, False, True):  # another task's refresh may just remove an empty folder
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = open(temporary, "wb")  # noqa: SIM115
            except FileNotFoundError:
                if last_try:
                    raise
                continue
            with file:
                try:
                    file.writelines(s3_objects.pieces(path))
                except FileNotFoundError:
                    path.unlink(missing_ok=True)
                    return
            os.replace(temporary, path)
            return
    except OSError as error:
        raise file_error(path, "written", error) from error
    finally:
        temporary.unlink(missing_ok=True)


def publish(made: Path, path: Path, is_same: Callable[[bytes], bool]) -> None:
    """Put a store that was made in a folder beside it on storage, where nobody has begun it.

    The first root `zarr.json` claims the place. One that was begun and `is_same` is finished, by whoever comes by:
    LAST says that it is whole.
    """
    root = path / "zarr.json"
    if s3_objects.put_new(root, (made / "zarr.json").read_bytes()) or is_same(s3_objects.get(root)):
        rest = [n for n in _files(made) if n not in ("zarr.json", LAST_FILE)]
        _all(lambda n: s3_objects.put_new(path / n, (made / n).read_bytes()), rest)
        s3_objects.put_new(path / LAST_FILE, (made / LAST_FILE).read_bytes())
    refresh(path)


def delete_tree(path: Path) -> None:
    """Delete a store from storage, its root first, so that nobody opens half of it, and its records last.

    Raises InputRefused where there is something else.
    """
    there = s3_objects.listing(path)
    if there and "zarr.json" not in there and not any(n.startswith("_done/") for n in there):
        raise InputRefused(f"{with_s3_urls(str(path))}: is no store of ours; it will not be replaced")
    s3_objects.remove([path / n for n in there if n == "zarr.json"])
    s3_objects.remove([path / n for n in there if n != "zarr.json" and not n.startswith("_done/")])
    s3_objects.remove([path / n for n in there if n.startswith("_done/")])


class _Known:
    """Which version of an object each file here is: a journal of entity tags, one line a file that came."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._journal = Path(mirror_root(), ".known", checksum(str(root).encode()))
        self._lines: dict[str, list[Any]] = {}
        with suppress(OSError):
            for line in self._journal.read_text().splitlines():
                with suppress(ValueError, TypeError):  # a line that a kill tore
                    name, *rest = json.loads(line)
                    self._lines[name] = rest

    def is_same(self, name: str, entry: tuple[int, str] | None) -> bool:
        """Whether the file here is this version."""
        return entry is not None and bool(entry[1]) and self._lines.get(name) == [entry[1], *self._state(name)]

    def note(self, name: str, tag: str) -> None:
        """A version has come."""
        line = json.dumps([name, tag, *self._state(name)])
        self._journal.parent.mkdir(exist_ok=True)
        with open(self._journal, "a") as file:
            file.write(line + "\n")

    def _state(self, name: str) -> list[int]:
        try:
            found = (self._root / name).stat()
        except OSError:
            return [-1, -1]
        return [found.st_size, found.st_mtime_ns]


def _fetch(root: Path, entries: Mapping[str, tuple[int, str]], known: _Known, progress: Progress) -> None:
    def one(name: str) -> None:
        fetch(root / name)
        size, tag = entries[name]
        with suppress(FileNotFoundError):  # deleted meanwhile
            if (root / name).stat().st_size == size:
                known.note(name, tag)

    _all(one, list(entries), lambda: progress.advance())


def _all(work: Callable[[str], Any], names: list[str], after: Callable[[], None] = lambda: None) -> None:
    # several at once; the first failure, or a signal, ends it
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for _ in pool.map(work, names):
                after()
                signals.check()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _files(root: Path) -> list[str]:
    # files that travel, by path below the root
    found = []
    for folder, _, names in os.walk(root):
        inner = os.path.relpath(folder, root)
        found += [n if inner == "." else f"{inner}/{n}" for n in names]
    return [n for n in found if s3_objects.is_uploaded(n)]


def _drop(root: Path, names: list[str], everything: bool) -> None:
    for name in names:
        (root / name).unlink(missing_ok=True)
    if everything:  # pieces of shards of a store that is gone
        shutil.rmtree(root / "_part", ignore_errors=True)
    if names or everything:
        for folder, _, _ in os.walk(root, topdown=False):
            with suppress(OSError):  # not empty
                os.rmdir(folder)


def _refresh_object(path: Path) -> None:
    s3_objects.known_sizes.pop(str(path), None)
    if path.parent != Path(mirror_root()) and s3_objects.size(path) is not None:
        fetch(path)
    elif path.is_file():
        path.unlink()


def _own_cache() -> None:
    # in a shared temporary folder anybody could have put one there for us to trust
    root = Path(mirror_root())
    try:
        root.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = root.parent.parent.stat().st_uid
    except OSError as error:
        raise file_error(root, "created", error) from error
    if owner != os.getuid() and "HISTOXAI_CACHE" not in os.environ:
        raise InputRefused(f"{root.parent.parent}: belongs to somebody else; name another folder with HISTOXAI_CACHE")
