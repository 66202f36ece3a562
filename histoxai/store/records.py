"""Done records and digests.

Done is a record, never a file's presence: an all-fill shard has no file at all, and a torn one has.
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
# What metadata may claim: more would fill memory, or take for ever, before a byte of data is read.
MAX_ROWS = 50_000_000


def record_path(root: Path, name: str, shard: int) -> Path:
    """Where an item's record lies."""
    return root / DONE / name / f"{shard}.json"


def item_path(root: Path, name: str) -> Path:
    """Where the facts that an item's shards share lie."""
    return root / DONE / name / "item.json"


def read_item(root: Path, name: str) -> dict[str, Any] | None:
    """What an item's shards share; None where it is missing or not as we write it: then it has to be made again."""
    facts = read_json(item_path(root, name))
    kinds = {"what": dict, "fingerprint": str, "rows": int, "shard": int, "arrays": list, "command": str}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(k), t) for k, t in kinds.items()):
        return None
    if not _is_guarded(facts) or facts.get("name", name) != name:  # another item's, under this one's name
        return None
    return facts if 0 < facts["rows"] <= MAX_ROWS and facts["shard"] > 0 else None


def read_record(root: Path, name: str, shard: int) -> dict[str, Any] | None:
    """One record; None where there is none, or one that is not as we write it: then its shard is not done."""
    record = read_json(record_path(root, name, shard))
    of = [name, shard]
    return record if isinstance(record, dict) and _is_valid(record) and record.get("of", of) == of else None


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the checksum of all else in it: a flipped bit must not make it say something else."""
    return {**record, "checksum": checksum(canonical(record))}


def has_valid_checksum(facts: dict[str, Any]) -> bool:
    """Whether a seal is right; what earlier versions wrote has none."""
    if "checksum" not in facts:
        return True
    try:
        return facts == with_checksum({k: v for k, v in facts.items() if k != "checksum"})
    except (ValueError, RecursionError):  # NaN, say, which we never write
        return False


def read_records(root: Path, name: str) -> dict[int, dict[str, Any]]:
    """All readable records of an item name, by shard."""
    shards = sorted(int(p.stem) for p in (root / DONE / name).glob("*.json") if p.stem.isdigit())
    found = {k: read_record(root, name, k) for k in shards}
    return {k: record for k, record in found.items() if record is not None}


def item_names(root: Path) -> list[str]:
    """Names of all items that a store has, `index` first."""
    folder = root / DONE
    # a folder without anything is what a kill left of an item that was never added
    found = [p.name for p in folder.glob("[!.]*") if next(p.glob("*.json"), None)] if folder.is_dir() else []
    return sorted(found, key=lambda n: (n != "index", n))


def is_done(root: Path, record: dict[str, Any] | None, fingerprint: str | None = None, verify: bool = False) -> bool:
    """Whether a record stands for finished work: its fingerprint matches and all files have its sizes.

    verify: whether their contents have its checksums too.
    """
    if record is None or (fingerprint is not None and record["fingerprint"] != fingerprint):
        return False
    return next(bad_files(root, record, verify), None) is None


def bad_files(root: Path, record: dict[str, Any], verify: bool) -> Iterator[str]:
    """The files of a record that are missing or of another size or, with `verify`, of another checksum."""
    for entry in record["files"]:
        path = root / entry["path"]
        size = size_of(path)
        wrong = size != entry.get("size")  # an all-fill shard has size None and no file
        if wrong or (verify and size is not None and checksum_of(path) != entry.get("checksum")):
            yield entry["path"]


def digest(root: Path, names: list[str] | None = None) -> str:
    """The digest of a store, or of some of its items: blake2b over its sorted record checksums."""
    state = blake2b(digest_size=16)
    for name in sorted(set(item_names(root) if names is None else names)):
        for shard, record in read_records(root, name).items():
            state.update(canonical([name, shard, record["fingerprint"], record["files"]]))
    return state.hexdigest()


def size_of(path: Path) -> int | None:
    """Bytes of a file of a store, None where there is none."""
    if s3_objects.belongs_on_s3(path):
        return s3_objects.size(path)
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None  # a device or a pipe has no end


def checksum_of(path: Path) -> str | None:
    """Checksum of a file of a store, None where it cannot be read."""
    try:
        return s3_objects.checksum(path) if s3_objects.belongs_on_s3(path) else file_checksum(path)
    except OSError:  # what cannot be read is not what was written
        return None


def is_item_name(name: Any) -> bool:
    """Whether a value is a name that an item may have: one part of a path."""
    return isinstance(name, str) and _is_inside(name) and "/" not in name


def _is_inside(path: Any) -> bool:
    return isinstance(path, str) and not path.startswith("/") and not {"..", ""} & set(path.split("/"))


def _is_guarded(facts: dict[str, Any]) -> bool:
    # what has metadata has a seal, and it is right
    texts = facts.get("metadata", {})
    if not isinstance(texts, dict) or not all(_is_inside(k) and isinstance(v, str) for k, v in texts.items()):
        return False
    return has_valid_checksum(facts) and ("checksum" in facts or not ({"metadata", "sealed"} & facts.keys()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -1e12 < value < 1e12


def _is_valid(record: dict[str, Any]) -> bool:
    files = record.get("files")
    return (
        _is_guarded(record)
        and isinstance(record.get("fingerprint"), str)
        and all(_is_number(record.get(k, 0)) for k in ("seconds", "peak_memory_mb"))  # they are summed up
        and isinstance(files, list)
        and all(isinstance(f, dict) and _is_inside(f.get("path")) for f in files)
    )
