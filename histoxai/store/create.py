"""Making stores: under a temporary name and renamed, so that nobody meets half of one.

Of several makers one wins; the others check that they meant the same.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from histoxai.errors import InputRefused, SettingsDiffer
from histoxai.provenance import NUMERICS_VERSION, file_checksum, fingerprint, first_difference, plain, run_facts
from histoxai.store.files import cannot, sweep, sync_folder, sync_tree, temporary_beside, write_json, write_new
from histoxai.store.records import DONE, item_path, read_item, record_path
from histoxai.store.schema import ArraySpec, index_specs
from histoxai.store.shards import Item, Store, identity, item_fingerprint


def create_or_match(
    path: Path,
    header: dict[str, Any],
    index: dict[str, np.ndarray],
    items: Iterable[Item],
    *,
    attrs: dict[str, Any] | None = None,
    force: bool = False,
) -> Store:
    """Make a store with its index arrays and empty items, or open the one that is there.

    Raises SettingsDiffer where an existing store was made with other settings, seed or parents, and
    InputRefused where `path` holds something else.
    """
    items = list(items)
    sweep([path.parent])
    header = {**header, "items": [item.name for item in items]}
    if force and path.exists():
        discard(path, header["schema"])
    if not path.exists():
        _create(path, header, index, items, attrs or {})
    store = match(path, header, items)
    for item in items:
        add_item(store, item)
    return store


def match(path: Path, header: dict[str, Any], items: Iterable[Item]) -> Store:
    """Open a store that must agree with what is asked for; changes nothing.

    Raises SettingsDiffer where it was made with other settings, seed or parents, InputRefused where it is no
    store of ours.
    """
    store = Store(path)
    if store.schema != header["schema"]:
        raise InputRefused(
            f"{path}: is a {store.schema} store; it will not become {header['schema']}: choose another output"
        )
    if difference := first_difference(identity(store.header), identity(header)):
        raise SettingsDiffer(_difference_text(path, *difference))
    for item in items:
        _check_item(store, item)
    return store


def discard(path: Path, schema: str) -> None:
    """Remove a store of a schema: out of sight by a rename first, so that nobody opens half of it.

    Raises InputRefused for anything else that may lie there.
    """
    path = path.resolve()  # of a link what it points to, and the link stays
    if any(path.iterdir()) and Store(path).schema != schema:
        raise InputRefused(f"{path}: is a {Store(path).schema} store, not {schema}; it will not be replaced")
    grave = temporary_beside(path, "old")
    os.rename(path, grave)
    shutil.rmtree(grave)


def _meta(header: dict[str, Any], item: Item) -> dict[str, Any]:
    return {
        "name": item.name,
        "what": plain(item.what),
        "fingerprint": item_fingerprint(header, item),
        "rows": item.rows,
        "shard": item.shard,
        "arrays": [s.path for s in item.specs],
        "command": run_facts()["command"],
    }


def add_item(store: Store, item: Item) -> None:
    """Make an item's arrays where they are missing; race-safe.

    Raises SettingsDiffer where the name exists with other settings.
    """
    place = item_path(store.path, item.name)
    if read_item(store.path, item.name) is None:
        for spec in item.specs:
            _create_beside(store.path, spec)
        place.unlink(missing_ok=True)  # not as we write it, so it stands for nothing
        write_new(place, _meta(store.header, item))
    _check_item(store, item)


def _check_item(store: Store, item: Item) -> None:
    found = read_item(store.path, item.name)
    if found is not None and found["fingerprint"] != store.fingerprint(item):
        name, a, b = first_difference(found["what"], item.what) or ("settings", "others", "these")
        raise SettingsDiffer(_difference_text(store.path, name, a, b, f"'{item.name}' in "))


def _create(
    path: Path, header: dict[str, Any], index: dict[str, np.ndarray], items: list[Item], attrs: dict[str, Any]
) -> None:
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        root = zarr.open_group(temporary, mode="w-", attributes={"histoxai": header, **attrs})
        for folder in sorted({"/".join(s.path.split("/")[:-1]) for item in items for s in item.specs} - {""}):
            root.require_group(folder)
        files = []
        for spec, data in index_specs(index):
            spec.create(temporary)[...] = data
            file = temporary / spec.file(0)
            size = file.stat().st_size if file.exists() else None
            files.append({"path": spec.file(0), "size": size})
            if size is not None:
                files[-1]["checksum"] = file_checksum(file)
        record = {
            "fingerprint": fingerprint([NUMERICS_VERSION, "index", identity(header), attrs]),
            "files": files,
        }
        write_json(record_path(temporary, "index", 0), record)
        for item in items:
            for spec in item.specs:
                spec.create(temporary)
            write_json(item_path(temporary, item.name), _meta(header, item))
        sync_tree(temporary)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.exists():
                raise
            return  # another task was quicker; the caller checks that it meant the same
        sync_folder(path.parent)
    except OSError as error:
        raise cannot(path, "created", error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _create_beside(root: Path, spec: ArraySpec) -> None:
    place = root / spec.path
    if (place / "zarr.json").exists():
        return
    temporary = temporary_beside(root / DONE / "array")
    parent = "/".join(spec.path.split("/")[:-1])
    if parent:
        zarr.open_group(root, mode="a", use_consolidated=False).require_group(parent)
    spec.create(temporary, name="array")
    try:
        os.rename(temporary / "array", place)
    except OSError:
        if not (place / "zarr.json").exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _difference_text(path: Path, name: str, old: Any, new: Any, where: str = "") -> str:
    if name.startswith("parents."):
        return (
            f"{path}: was made from another {name.split('.')[1]} (digest {old}, now {new}); "
            "choose another output, or --force to start over"
        )
    return (
        f"{where}{path}: exists with {name.split('.', 1)[-1]} = {old}, asked for {new}; "
        "choose another output, or --force to start over"
    )
