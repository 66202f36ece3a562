"""Records of finished shards, facts of items, and digests.

A shard is done if its record says so, not if its file exists: a shard of fill values has no file, a torn one has.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from histoxai.core.provenance import canonical, checksum, file_checksum
from histoxai.store.storage import s3_objects
from histoxai.store.storage.files import read_json

DONE = "_done"
# Largest number of rows that metadata may claim; more could fill the memory before any data is read.
MAX_ROWS = 50_000_000


def record_path(root: Path, name: str, shard: int) -> Path:
    """Return the path of the record of an item's shard."""
    return root / DONE / name / f"{shard}.json"


def item_path(root: Path, name: str) -> Path:
    """Return the path of an item's facts, which its shards share."""
    return root / DONE / name / "item.json"


def read_item(root: Path, name: str) -> dict[str, Any] | None:
    """Return an item's facts; None if they are missing or damaged, so that the item has to be made again."""
    facts = read_json(item_path(root, name))
    kinds = {"what": dict, "fingerprint": str, "rows": int, "shard": int, "arrays": list, "command": str}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(k), t) for k, t in kinds.items()):
        return None
    if not _is_intact(facts) or facts.get("name", name) != name:  # another item's facts under this name
        return None
    return facts if 0 < facts["rows"] <= MAX_ROWS and facts["shard"] > 0 else None


def read_record(root: Path, name: str, shard: int) -> dict[str, Any] | None:
    """Return the record of a shard; None if it is missing or damaged, so that the shard is not done."""
    record = read_json(record_path(root, name, shard))
    expected = [name, shard]
    is_valid = isinstance(record, dict) and _is_valid(record) and record.get("of", expected) == expected
    return record if is_valid else None


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the checksum of its other entries, which reveals a flipped bit."""
    return {**record, "checksum": checksum(canonical(record))}


def has_valid_checksum(facts: dict[str, Any]) -> bool:
    """Return whether the checksum matches; records of earlier versions have none and count as valid."""
    if "checksum" not in facts:
        return True
    try:
        return facts == with_checksum({k: v for k, v in facts.items() if k != "checksum"})
    except (ValueError, RecursionError):  # NaN, say, which is never written
        return False


def read_records(root: Path, name: str) -> dict[int, dict[str, Any]]:
    """Return all valid records of an item, by shard."""
    shards = sorted(int(p.stem) for p in (root / DONE / name).glob("*.json") if p.stem.isdigit())
    records = {k: read_record(root, name, k) for k in shards}
    return {k: record for k, record in records.items() if record is not None}


def item_names(root: Path) -> list[str]:
    """Return the names of a store's items, `index` first."""
    folder = root / DONE
    # An empty folder is left if a task is killed while it adds an item.
    names = [p.name for p in folder.glob("[!.]*") if next(p.glob("*.json"), None)] if folder.is_dir() else []
    return sorted(names, key=lambda n: (n != "index", n))


def is_done(root: Path, record: dict[str, Any] | None, fingerprint: str | None = None, verify: bool = False) -> bool:
    """Return whether a record proves a finished shard: its fingerprint matches and all files have its sizes.

    verify: compare the files' checksums too.
    """
    if record is None or (fingerprint is not None and record["fingerprint"] != fingerprint):
        return False
    return next(bad_files(root, record, verify), None) is None


def bad_files(root: Path, record: dict[str, Any], verify: bool) -> Iterator[str]:
    """Yield the files of a record that are missing, or of another size or, with `verify`, another checksum."""
    for entry in record["files"]:
        path = root / entry["path"]
        size = size_of(path)
        is_wrong_size = size != entry.get("size")  # a shard of fill values has size None and no file
        if is_wrong_size or (verify and size is not None and checksum_of(path) != entry.get("checksum")):
            yield entry["path"]


def digest(root: Path, names: list[str] | None = None) -> str:
    """Return the digest of a store, or of some of its items: blake2b over its sorted records' checksums."""
    state = blake2b(digest_size=16)
    for name in sorted(set(item_names(root) if names is None else names)):
        for shard, record in read_records(root, name).items():
            state.update(canonical([name, shard, record["fingerprint"], record["files"]]))
    return state.hexdigest()


def size_of(path: Path) -> int | None:
    """Return the bytes of a store's file, None if there is no regular file."""
    if s3_objects.belongs_on_s3(path):
        return s3_objects.size(path)
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None  # a device or a pipe has no end


def checksum_of(path: Path) -> str | None:
    """Return the checksum of a store's file, None if it cannot be read."""
    try:
        return s3_objects.checksum(path) if s3_objects.belongs_on_s3(path) else file_checksum(path)
    except OSError:  # an unreadable file counts as changed
        return None


def is_item_name(name: Any) -> bool:
    """Return whether a value may be an item's name: one part of a path."""
    return isinstance(name, str) and _is_inside(name) and "/" not in name


def _is_inside(path: Any) -> bool:
    return isinstance(path, str) and not path.startswith("/") and not {"..", ""} & set(path.split("/"))


def _is_intact(facts: dict[str, Any]) -> bool:
    # Facts with metadata must have a checksum, and it must match.
    texts = facts.get("metadata", {})
    if not isinstance(texts, dict) or not all(_is_inside(k) and isinstance(v, str) for k, v in texts.items()):
        return False
    return has_valid_checksum(facts) and ("checksum" in facts or not ({"metadata", "sealed"} & facts.keys()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -1e12 < value < 1e12


def _is_valid(record: dict[str, Any]) -> bool:
    files = record.get("files")
    return (
        _is_intact(record)
        and isinstance(record.get("fingerprint"), str)
        and all(_is_number(record.get(k, 0)) for k in ("seconds", "peak_memory_mb"))  # for sums
        and isinstance(files, list)
        and all(isinstance(f, dict) and _is_inside(f.get("path")) for f in files)
    )
