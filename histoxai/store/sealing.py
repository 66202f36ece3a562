"""Protect metadata against silent changes: the text of every `zarr.json` is recorded in a second place.

Zarr protects chunks with a checksum, but not their shapes, types and fill values: a flipped digit there would change
numbers unnoticed. So the record of the index and the facts of each item contain the text of their arrays' `zarr.json`,
with a checksum, and the root's attributes contain a checksum of themselves. Readers refuse metadata that differs; the
command that made the store writes it again.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import MemoryStore

from histoxai.core.provenance import canonical, checksum
from histoxai.store.records import item_names, read_item, read_record
from histoxai.store.schema import ArraySpec

NAME = "zarr.json"


def metadata_documents(specs: Iterable[ArraySpec]) -> dict[str, str]:
    """Return the metadata of arrays, and of the groups above them, as zarr writes it: path in the store -> text."""
    files: dict[str, Any] = {}
    store = MemoryStore(files)
    root = zarr.open_group(store, mode="w")
    for spec in specs:
        if "/" in spec.path:
            root.require_group(spec.path.rpartition("/")[0])
        spec.create(store)
    return {k: v.to_bytes().decode() for k, v in sorted(files.items()) if k != NAME and k.endswith(NAME)}


def read_documents(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Read the metadata of arrays from a store: path in the store -> text."""
    return {f"{path}/{NAME}": (root / path / NAME).read_text() for path in paths}


def recorded_metadata(root: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return the recorded metadata of items: path in the store -> text; names: None for all items.

    Items of early versions have none.
    """
    texts: dict[str, str] = {}
    for name in item_names(root) if names is None else names:
        facts = read_record(root, "index", 0) if name == "index" else read_item(root, name)
        texts.update((facts or {}).get("metadata", {}))
    return texts


def changed_metadata(root: Path, recorded: Mapping[str, str]) -> Iterator[str]:
    """Yield the paths whose file is missing or differs from the recorded text."""
    for path, text in recorded.items():
        data = text.encode()
        try:
            status = (root / path).stat()
            if stat.S_ISREG(status.st_mode) and status.st_size == len(data) and (root / path).read_bytes() == data:
                continue
        except OSError:
            pass
        yield path


def seal_attributes(header: Mapping[str, Any], attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the root's attributes with a checksum of them all in the header."""
    return {"histoxai": {**header, "checksum": _checksum(header, attrs)}, **attrs}


def is_sealed(attributes: Mapping[str, Any]) -> bool:
    """Return whether the root's attributes match their checksum."""
    header = dict(attributes["histoxai"])
    recorded = header.pop("checksum", None)
    try:
        return bool(recorded == _checksum(header, {k: v for k, v in attributes.items() if k != "histoxai"}))
    except (ValueError, RecursionError):  # values that are never written
        return False


def _checksum(header: Mapping[str, Any], attrs: Mapping[str, Any]) -> str:
    return checksum(canonical([header, attrs]))
