"""Durable small files: atomic writes, done records, digests.

Done is a record, never a file's presence: an all-fill shard has no file at all, and a torn one has.
"""

from __future__ import annotations

import json
import os
import uuid
from hashlib import blake2b
from pathlib import Path
from typing import Any

from histoxai.errors import HistoxaiError
from histoxai.provenance import canonical

DONE = "_done"


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the place, fsync, rename, fsync the folder; leaves no temporary file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HistoxaiError(f"{path}: cannot be written: {error.strerror or error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` of readable JSON (strict: no NaN)."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def read_json(path: Path) -> Any:
    """A JSON file's value, or None where the file is missing or torn (then it is not done)."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def record_path(root: Path, name: str, shard: int) -> Path:
    """Where an item's record lies."""
    return root / DONE / name / f"{shard}.json"


def read_records(root: Path, name: str) -> dict[int, dict[str, Any]]:
    """All readable records of an item name, by shard."""
    found = {}
    for path in (root / DONE / name).glob("*.json"):
        record = read_json(path)
        # one that is not as we write it stands for nothing: its shard is not done
        if path.stem.isdigit() and isinstance(record, dict) and {"fingerprint", "files"} <= record.keys():
            found[int(path.stem)] = record
    return dict(sorted(found.items()))


def item_names(root: Path) -> list[str]:
    """Names of all items that a store has, `index` first."""
    folder = root / DONE
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return sorted(names, key=lambda n: n != "index")


def is_done(root: Path, record: dict[str, Any] | None, fingerprint: str | None = None) -> bool:
    """Whether a record stands for finished work: its fingerprint matches and all files have its sizes."""
    if record is None or (fingerprint is not None and record.get("fingerprint") != fingerprint):
        return False
    for entry in record.get("files", []):
        path = root / entry["path"]
        try:
            size = path.stat().st_size
        except OSError:
            size = None
        if size != entry.get("size"):  # an all-fill shard has size None and no file
            return False
    return True


def digest(root: Path, names: list[str] | None = None) -> str:
    """The digest of a store, or of some of its items: blake2b over its sorted record checksums."""
    state = blake2b(digest_size=16)
    for name in sorted(set(item_names(root) if names is None else names)):
        for shard, record in read_records(root, name).items():
            state.update(canonical([name, shard, record["fingerprint"], record["files"]]))
    return state.hexdigest()
