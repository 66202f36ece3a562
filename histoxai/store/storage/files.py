"""Files that survive a crash: written beside their place, fsynced, renamed; and what a kill leaves behind.

A temporary name says whose it is (host and process), so that a later run can tell what is abandoned. A task
whose file was swept all the same, since its process is not seen from here, writes it again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from histoxai.core.errors import HistoxaiError, InputRefused
from histoxai.store.storage import s3_objects

# What another host left is taken for abandoned after a day.
_ABANDONED = 24 * 3600.0
_TEMPORARY = re.compile(r"\..+@(?P<host>[^@]*)@(?P<pid>\d+)-[0-9a-f]{8}\.(tmp|old)")
_HINTS = {
    errno.ENOSPC: "; make space and run the same command again, what is finished is kept",
    errno.EDQUOT: "; make space and run the same command again, what is finished is kept",
    errno.EROFS: "; choose an output that can be written to",
    errno.EACCES: "; choose an output that can be written to",
}


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder say so
            raise
    finally:
        os.close(handle)


def sync_tree(root: Path) -> None:
    """fsync every file and folder of a small tree that others wrote without."""
    for folder, _, names in os.walk(root):
        for name in names:
            handle = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(folder))


def temporary_beside(path: Path, ending: str = "tmp") -> Path:
    """A name beside `path` that nobody else uses and that tells whose it is."""
    return path.with_name(f".{path.name}@{platform.node()}@{os.getpid()}-{uuid.uuid4().hex[:8]}.{ending}")


def file_error(path: Path, what: str, error: OSError) -> HistoxaiError:
    """An error of the system as one for users: what could not be done to which path, and what helps."""
    return HistoxaiError(f"{path}: cannot be {what}: {error.strerror or error}{_HINTS.get(error.errno or 0, '')}")


def write_atomically(path: Path, data: bytes, durable: bool = True) -> None:
    """Write beside the place, fsync, rename, fsync the folder; leaves no temporary file behind.

    durable: whether it has to outlive a power cut, for which the syncs are. What belongs on storage goes there first.
    Raises HistoxaiError where the system, or storage, refuses.
    """
    if s3_objects.belongs_on_s3(path):
        s3_objects.put(path, data)
        if s3_objects.is_chunk_file(path):
            return
    write_local(path, data, durable)


def write_local(path: Path, data: bytes, durable: bool = True) -> None:
    """`write_atomically`, but to this machine only."""
    for last_try in (False, False, True):
        temporary = temporary_beside(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
            if durable:
                sync_folder(path.parent)
            return
        except (FileNotFoundError, FileExistsError) as error:
            # swept by a task that cannot see this process; or the folder went just after it was found to be there
            if last_try:
                raise file_error(path, "written", error) from error
        except OSError as error:
            raise file_error(path, "written", error) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def require_inside(root: Path, path: Path) -> None:
    """Raise InputRefused where a link in a store leads out of it: a store from elsewhere may not say where we write."""
    if is_outside(root, path.parent):
        place = os.path.realpath(path.parent)
        raise InputRefused(f"{path}: a link in the store leads to {place}, out of it; nothing is written there")


def is_outside(root: Path, folder: Path) -> bool:
    """Whether a folder below a root lies elsewhere in truth."""
    home, place = os.path.realpath(root), os.path.realpath(folder)
    return place != home and not place.startswith(home + os.sep)


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` of readable JSON (strict: no NaN)."""
    write_atomically(path, _json(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def remove(path: Path) -> None:
    """Remove a file of a store, if it is there; from storage too."""
    if s3_objects.belongs_on_s3(path):
        s3_objects.remove([path])
    path.unlink(missing_ok=True)


def create_json(path: Path, value: Any) -> None:
    """JSON at a place where there may be one already: then that one stays, whoever wrote it."""
    if s3_objects.belongs_on_s3(path):
        data = _json(value)
        write_local(path, data if s3_objects.put_new(path, data) else s3_objects.get(path), durable=False)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    write_json(temporary, value)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        data = temporary.read_bytes()
        with contextlib.suppress(FileExistsError), open(path, "xb") as file:
            file.write(data)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """A JSON file's value, or None where the file is missing or torn (then it is not done).

    Raises HistoxaiError for one that cannot be read: taken for missing, it would change the digest of its store.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise file_error(path, "read", error) from error


def abandoned(folder: Path) -> list[Path]:
    """Temporary files and folders directly in a folder whose process is gone."""
    try:
        names = [n for n in os.listdir(folder) if n.startswith(".")]
    except OSError:
        return []
    return [folder / n for n in names if (match := _TEMPORARY.fullmatch(n)) and _is_gone(folder / n, match)]


def remove_temporary_folder(folder: Path) -> None:
    """Remove a temporary folder in which threads of a write that failed may still be writing; never an error.

    zarr writes from several threads and raises at the first failure; the others end a moment later, and make
    their folder anew if they have to.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for _ in range(20):
        if not folder.exists():
            return
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove what killed runs left in these folders; never an error."""
    for folder in folders:
        for path in abandoned(folder):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def _is_gone(path: Path, match: re.Match[str]) -> bool:
    if match["host"] == platform.node():
        try:
            os.kill(int(match["pid"]), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass
    try:
        return time.time() - path.lstat().st_mtime > _ABANDONED
    except OSError:
        return False
