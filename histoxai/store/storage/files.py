"""Write files atomically, and remove temporary files that killed processes left.

A file is written under a temporary name, synced and renamed. The temporary name contains host and process, so that a
later run recognises abandoned files. If it removes the file of a live process that it cannot see, that process writes
the file again.
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

# Seconds after which a temporary file of another host counts as abandoned: a day.
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
    """fsync every file and folder of a small tree that was written without syncs."""
    for folder, _, names in os.walk(root):
        for name in names:
            handle = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(folder))


def temporary_beside(path: Path, ending: str = "tmp") -> Path:
    """Return a unique temporary path beside `path` that contains host and process."""
    return path.with_name(f".{path.name}@{platform.node()}@{os.getpid()}-{uuid.uuid4().hex[:8]}.{ending}")


def file_error(path: Path, action: str, error: OSError) -> HistoxaiError:
    """Convert an OS error to one for users; action: "read", "written" or "created"."""
    return HistoxaiError(f"{path}: cannot be {action}: {error.strerror or error}{_HINTS.get(error.errno or 0, '')}")


def write_atomically(path: Path, data: bytes, durable: bool = True) -> None:
    """Write a file under a temporary name and rename it; upload it first if it belongs on S3.

    durable: sync file and folder, so that the file survives a power cut. Raises HistoxaiError if the system or the
    storage refuses.
    """
    if s3_objects.belongs_on_s3(path):
        s3_objects.put(path, data)
        if s3_objects.is_chunk_file(path):
            return
    write_local(path, data, durable)


def write_local(path: Path, data: bytes, durable: bool = True) -> None:
    """Do what `write_atomically` does, but only on the local disk."""
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
            # another task removed the temporary file, or the folder just after it was created
            if last_try:
                raise file_error(path, "written", error) from error
        except OSError as error:
            raise file_error(path, "written", error) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def require_inside(root: Path, path: Path) -> None:
    """Raise InputRefused if a link leads out of a store: a foreign store must not choose where files are written."""
    if is_outside(root, path.parent):
        target = os.path.realpath(path.parent)
        raise InputRefused(f"{path}: a link in the store leads to {target}, out of it; nothing is written there")


def is_outside(root: Path, folder: Path) -> bool:
    """Return whether a folder's real path lies outside of the root."""
    real_root, real_folder = os.path.realpath(root), os.path.realpath(folder)
    return real_folder != real_root and not real_folder.startswith(real_root + os.sep)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN is an error."""
    write_atomically(path, _json(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def remove(path: Path) -> None:
    """Remove a file of a store if it exists, also from S3."""
    if s3_objects.belongs_on_s3(path):
        s3_objects.remove([path])
    path.unlink(missing_ok=True)


def create_json(path: Path, value: Any) -> None:
    """Write a value as JSON unless the file exists; of several tasks the first one wins."""
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
    """Return a JSON file's value, None if the file is missing or torn.

    Raises HistoxaiError if it cannot be read: if it counted as missing, the digest of its store would change.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise file_error(path, "read", error) from error


def abandoned(folder: Path) -> list[Path]:
    """Return the temporary files and folders in a folder whose process has ended."""
    try:
        names = [n for n in os.listdir(folder) if n.startswith(".")]
    except OSError:
        return []
    return [folder / n for n in names if (match := _TEMPORARY.fullmatch(n)) and _is_abandoned(folder / n, match)]


def remove_temporary_folder(folder: Path) -> None:
    """Remove a temporary folder while threads of a failed write may still be writing into it; never an error.

    zarr raises at the first failure of its threads. The others end a moment later and may create their folder again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for _ in range(20):
        if not folder.exists():
            return
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove the abandoned temporary files of these folders; never an error."""
    for folder in folders:
        for path in abandoned(folder):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def _is_abandoned(path: Path, match: re.Match[str]) -> bool:
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
