"""Mirror folders on S3-compatible storage in the local cache.

`refresh` updates the small files (metadata, records) and leaves arrays on S3; `fetch_tree` downloads a whole source.
Writers upload a file before they write it to the mirror, and a refresh lists the mirror before it lists the bucket. So
a file that is in the mirror and not in the bucket was deleted.
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

_THREADS = 16
_MIRRORED = (".json", ".html", ".csv", ".safetensors")
# Uploaded and fetched last: where it is visible, everything that a new store consists of is too.
LAST_FILE = "_done/index/0.json"
# Any of these, or a record, shows that a folder is a store or run folder and no source.
_MARKERS = ("zarr.json", "run.json", "last/identity.json", "data.zarr/zarr.json")


def refresh(path: Path) -> None:
    """Update the mirror of a store, run folder or report; of a source only its listing.

    A single object is fetched. Raises InputRefused if the bucket does not exist or denies access, and HistoxaiError if
    the storage cannot be reached.
    """
    _create_cache()
    local = _files(path)
    remote = s3_objects.listing(path)
    versions = _FetchedVersions(path)
    _remove_deleted(path, [n for n in local if n not in remote], everything="zarr.json" not in remote)
    if not remote:
        _refresh_object(path)
        return
    path.mkdir(parents=True, exist_ok=True)
    for name in [k for k in s3_objects.known_sizes if k.startswith(f"{path}/")]:
        del s3_objects.known_sizes[name]
    s3_objects.known_sizes.update({f"{path}/{n}": size for n, (size, _) in remote.items()})
    is_ours = any(n in remote for n in _MARKERS) or any(n.startswith("_done/") for n in remote)
    stale = [n for n in remote if is_ours and n.endswith(_MIRRORED) and not versions.is_same(n, remote[n])]
    _fetch_files(path, {n: remote[n] for n in stale if n != LAST_FILE}, versions, Silent())
    _fetch_files(path, {n: remote[n] for n in stale if n == LAST_FILE}, versions, Silent())


def locate_parent(child: Path, name: str) -> Path:
    """Return the path of a parent that a store names (`provenance.parent`), with an up-to-date mirror."""
    path = resolve_name(child.resolve().parent, name)
    if is_on_s3(path):
        path = Path(os.path.normpath(path))
        refresh(path)
    return path


def fetch_tree(path: Path, progress: Progress) -> None:
    """Download a whole folder, except files that are up to date; does nothing for a path on disk or a single file.

    Raises HistoxaiError if the cache is too small or the storage fails.
    """
    if not is_on_s3(path) or path.is_file():
        return
    remote, versions = s3_objects.listing(path), _FetchedVersions(path)
    todo = {n: entry for n, entry in remote.items() if not versions.is_same(n, entry)}
    if not todo:
        return
    total, free = sum(size for size, _ in todo.values()), shutil.disk_usage(mirror_root()).free
    if total > free:
        raise HistoxaiError(
            f"{with_s3_urls(str(path))}: {total / 1e9:.1f} GB to download, but {mirror_root()} has room for "
            f"{free / 1e9:.1f}; name a larger folder with HISTOXAI_CACHE"
        )
    progress.say(f"{with_s3_urls(str(path))}: fetching {len(todo)} files, {total / 1e6:.0f} MB")
    progress.start("files fetched", len(todo))
    _fetch_files(path, todo, versions, progress)
    progress.stop()


def array_in_memory(folder: Path) -> zarr.Array[Any]:
    """Download a small array (ids, groups) into memory, for the zarr library to read."""
    names = list(s3_objects.listing(folder))
    files: dict[str, Any] = {}
    _in_threads(lambda n: files.update({n: cpu.Buffer.from_bytes(s3_objects.get(folder / n))}), names)
    return zarr.open_array(MemoryStore(files), mode="r")


def fetch(path: Path) -> None:
    """Download one file again; remove the local copy if the object does not exist."""
    temporary = temporary_beside(path)
    try:
        for last_try in (False, False, True):  # another task's refresh may remove the empty folder
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


def publish(source: Path, path: Path, is_same: Callable[[bytes], bool]) -> None:
    """Upload a new store from a local folder, or finish the upload that another task has begun.

    The first root `zarr.json` claims the path. is_same: whether another task's `zarr.json` is of the same store; only
    then its upload is finished. LAST_FILE shows that a store is complete.
    """
    root = path / "zarr.json"
    if s3_objects.put_new(root, (source / "zarr.json").read_bytes()) or is_same(s3_objects.get(root)):
        rest = [n for n in _files(source) if n not in ("zarr.json", LAST_FILE)]
        _in_threads(lambda n: s3_objects.put_new(path / n, (source / n).read_bytes()), rest)
        s3_objects.put_new(path / LAST_FILE, (source / LAST_FILE).read_bytes())
    refresh(path)


def delete_tree(path: Path) -> None:
    """Delete a store from S3: its root first, so that nobody opens half of it, and its records last.

    Raises InputRefused if the folder holds anything else.
    """
    names = s3_objects.listing(path)
    if names and "zarr.json" not in names and not any(n.startswith("_done/") for n in names):
        raise InputRefused(f"{with_s3_urls(str(path))}: is not a histoxai store; it will not be replaced")
    s3_objects.remove([path / n for n in names if n == "zarr.json"])
    s3_objects.remove([path / n for n in names if n != "zarr.json" and not n.startswith("_done/")])
    s3_objects.remove([path / n for n in names if n.startswith("_done/")])


class _FetchedVersions:
    """Knows the version of each local file: a journal with one line, with the entity tag, for each download."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._journal = Path(mirror_root(), ".known", checksum(str(root).encode()))
        self._lines: dict[str, list[Any]] = {}
        with suppress(OSError):
            for line in self._journal.read_text().splitlines():
                with suppress(ValueError, TypeError):  # a torn line
                    name, *rest = json.loads(line)
                    self._lines[name] = rest

    def is_same(self, name: str, entry: tuple[int, str] | None) -> bool:
        """Return whether the local file is this version; entry: (bytes, entity tag)."""
        return entry is not None and bool(entry[1]) and self._lines.get(name) == [entry[1], *self._state(name)]

    def note(self, name: str, tag: str) -> None:
        """Record that a version was downloaded."""
        line = json.dumps([name, tag, *self._state(name)])
        self._journal.parent.mkdir(exist_ok=True)
        with open(self._journal, "a") as file:
            file.write(line + "\n")

    def _state(self, name: str) -> list[int]:
        try:
            status = (self._root / name).stat()
        except OSError:
            return [-1, -1]
        return [status.st_size, status.st_mtime_ns]


def _fetch_files(
    root: Path, entries: Mapping[str, tuple[int, str]], versions: _FetchedVersions, progress: Progress
) -> None:
    def fetch_one(name: str) -> None:
        fetch(root / name)
        size, tag = entries[name]
        with suppress(FileNotFoundError):  # deleted meanwhile
            if (root / name).stat().st_size == size:
                versions.note(name, tag)

    _in_threads(fetch_one, list(entries), lambda: progress.advance())


def _in_threads(work: Callable[[str], Any], names: list[str], after: Callable[[], None] = lambda: None) -> None:
    # The first failure, or a signal, ends the work.
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for _ in pool.map(work, names):
                after()
                signals.check()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _files(root: Path) -> list[str]:
    # Paths in the root of the files that belong on S3.
    paths = []
    for folder, _, names in os.walk(root):
        inner = os.path.relpath(folder, root)
        paths += [n if inner == "." else f"{inner}/{n}" for n in names]
    return [n for n in paths if s3_objects.is_uploaded(n)]


def _remove_deleted(root: Path, names: list[str], everything: bool) -> None:
    for name in names:
        (root / name).unlink(missing_ok=True)
    if everything:  # partial shards of a store that was deleted
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


def _create_cache() -> None:
    # In a shared temporary folder another user could have placed a cache with forged files.
    root = Path(mirror_root())
    try:
        root.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = root.parent.parent.stat().st_uid
    except OSError as error:
        raise file_error(root, "created", error) from error
    if owner != os.getuid() and "HISTOXAI_CACHE" not in os.environ:
        raise InputRefused(f"{root.parent.parent}: belongs to somebody else; name another folder with HISTOXAI_CACHE")
