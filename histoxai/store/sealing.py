"""Metadata that cannot say something else: every `zarr.json` is known from a second place.

Zarr guards chunks with a checksum, and their shapes, types and fill values with nothing: a flipped digit there would be
other numbers without a word. So the record of the index and the facts of an item hold the text of their arrays'
`zarr.json`, both sealed, and the root's attributes hold their own checksum. What differs is an error to readers, and
is written anew by the command that made it.
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
    """The metadata of arrays, and of the groups above them, as zarr writes it: path below the store -> text."""
    made: dict[str, Any] = {}
    store = MemoryStore(made)
    root = zarr.open_group(store, mode="w")
    for spec in specs:
        if "/" in spec.path:
            root.require_group(spec.path.rpartition("/")[0])
        spec.create(store)
    return {k: v.to_bytes().decode() for k, v in sorted(made.items()) if k != NAME and k.endswith(NAME)}


def read_documents(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """The metadata of arrays as it lies there."""
    return {f"{path}/{NAME}": (root / path / NAME).read_text() for path in paths}


def recorded_metadata(root: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """What the metadata of these items should be (None: of all): path below the store -> text.

    Nothing for items that were made before this was written down.
    """
    found: dict[str, str] = {}
    for name in item_names(root) if names is None else names:
        facts = read_record(root, "index", 0) if name == "index" else read_item(root, name)
        found.update((facts or {}).get("metadata", {}))
    return found


def changed_metadata(root: Path, wanted: Mapping[str, str]) -> Iterator[str]:
    """Those of these documents that are missing or say something else."""
    for path, text in wanted.items():
        data = text.encode()
        try:
            found = (root / path).stat()
            if stat.S_ISREG(found.st_mode) and found.st_size == len(data) and (root / path).read_bytes() == data:
                continue
        except OSError:
            pass
        yield path


def seal_attributes(header: Mapping[str, Any], attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The root's attributes with a checksum of them all in the header."""
    return {"histoxai": {**header, "checksum": _checksum(header, attrs)}, **attrs}


def is_sealed(attributes: Mapping[str, Any]) -> bool:
    """Whether the root's attributes are those that were sealed."""
    header = dict(attributes["histoxai"])
    said = header.pop("checksum", None)
    try:
        return bool(said == _checksum(header, {k: v for k, v in attributes.items() if k != "histoxai"}))
    except (ValueError, RecursionError):  # what no JSON of ours holds
        return False


def _checksum(header: Mapping[str, Any], attrs: Mapping[str, Any]) -> str:
    return checksum(canonical([header, attrs]))
