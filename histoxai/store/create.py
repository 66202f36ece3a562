"""Create stores under a temporary name and rename them, so that no other task sees a partial one.

If several tasks create a store at once, one wins, and the others check that their settings are the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from histoxai.core.errors import HistoxaiError, InputRefused, SettingsDiffer
from histoxai.core.provenance import first_difference, plain, run_facts
from histoxai.core.s3_paths import is_on_s3
from histoxai.store.header import header_identity
from histoxai.store.index import opens, repair_index, repair_root, write_index_record
from histoxai.store.partial_shards import PART
from histoxai.store.records import (
    DONE,
    is_done,
    item_path,
    read_item,
    read_record,
    record_path,
    with_checksum,
)
from histoxai.store.schema import ArraySpec, index_specs
from histoxai.store.sealing import (
    changed_metadata,
    metadata_documents,
    recorded_metadata,
    seal_attributes,
)
from histoxai.store.shards import Item, Store
from histoxai.store.storage import s3_mirror
from histoxai.store.storage.files import (
    create_json,
    file_error,
    remove,
    remove_abandoned,
    remove_temporary_folder,
    require_inside,
    sync_folder,
    sync_tree,
    temporary_beside,
    write_atomically,
    write_json,
)

# Seconds for which zarr's threads may go on writing after the first of them failed.
_SETTLING = 0.05


def create_or_match(
    path: Path,
    header: dict[str, Any],
    index: dict[str, np.ndarray],
    items: Iterable[Item],
    *,
    attrs: dict[str, Any] | None = None,
    force: bool = False,
) -> Store:
    """Create a store with its index arrays and empty items, or open the existing one and repair its metadata.

    index: path -> ids, labels and so on. attrs: attributes of the root beside the header. force: replace an existing
    store of this kind. Raises SettingsDiffer if an existing store was made with other settings, seed or parents, and
    InputRefused if `path` holds something else.
    """
    items = list(items)
    if path.is_symlink() and (force or not path.exists()):  # create the store where the link points to
        path = path.resolve()
    remove_abandoned([path.parent])
    header = {**header, "items": [item.name for item in items]}
    if force and path.exists():
        discard(path, header["schema"])
    if not path.exists() or _is_partly_uploaded(path):
        # On S3 a single file claims the path, not a whole folder; items are added one by one below.
        _create(path, header, index, [] if is_on_s3(path) else items, attrs or {})
    _require_no_links(path)
    repair_root(path, header, attrs or {})
    store = match(path, header, items)
    _write_metadata(path, "index", [spec for spec, _ in index_specs(index)])
    if not is_done(path, read_record(path, "index", 0), verify=not is_on_s3(path)):
        repair_index(store, index, attrs or {})
    for item in items:
        add_item(store, item)
    return store


def _require_no_links(path: Path) -> None:
    # Records and partial shards must lie in the store itself.
    for folder in (path / DONE, path / PART):
        children = folder.iterdir() if folder.is_dir() else []
        for entry in (folder, *children):
            if entry.is_symlink():
                raise InputRefused(f"{entry}: is a link; nothing is written through links in a store")


def _is_partly_uploaded(path: Path) -> bool:
    # A store on S3 is uploaded file by file, the record of its index last.
    if not is_on_s3(path):
        return False
    if not (path / "zarr.json").exists():  # another task that shares this cache is about to fetch it
        s3_mirror.refresh(path)
    return (path / "zarr.json").exists() and not record_path(path, "index", 0).exists()


def match(path: Path, header: dict[str, Any], items: Iterable[Item]) -> Store:
    """Open a store and check that it has this header and these items; changes nothing.

    Raises SettingsDiffer if it was made with other settings, seed or parents, and InputRefused if it is no store of
    histoxai, or one of another kind.
    """
    store = Store(path)
    if store.schema != header["schema"]:
        if _kind(store.schema) == _kind(header["schema"]):
            raise SettingsDiffer(
                f"{path}: schema {store.schema}, this histoxai makes {header['schema']}; --force to redo"
            )
        raise InputRefused(
            f"{path}: is a {store.schema} store; it will not become {header['schema']}: choose another output"
        )
    if difference := first_difference(header_identity(store.header), header_identity(header)):
        raise SettingsDiffer(_difference_text(path, *difference))
    for item in items:
        _check_item(store, item)
    return store


def discard(path: Path, schema: str) -> None:
    """Remove a store of a schema; it is renamed first, so that nobody opens half of it.

    Raises InputRefused if `path` holds anything else.
    """
    path = path.resolve()  # the target of a link; the link stays
    is_damaged_store = (path / DONE).is_dir() and not opens(path)  # records show that it is ours
    if any(path.iterdir()) and not is_damaged_store and _kind(Store(path).schema) != _kind(schema):
        raise InputRefused(f"{path}: is a {Store(path).schema} store, not {schema}; it will not be replaced")
    if is_on_s3(path):
        s3_mirror.delete_tree(path)
    renamed = temporary_beside(path, "old")
    os.rename(path, renamed)
    shutil.rmtree(renamed)


def _kind(schema: str) -> str:
    return schema.split("/")[0]


def _item_facts(header: dict[str, Any], item: Item) -> dict[str, Any]:
    facts = {
        "name": item.name,
        "what": plain(item.parameters),
        "fingerprint": item.fingerprint(header),
        "rows": item.rows,
        "shard": item.shard,
        "arrays": [s.path for s in item.specs],
        "metadata": metadata_documents(item.specs),
        "command": run_facts()["command"],
    }
    return with_checksum(facts)


def add_item(store: Store, item: Item) -> None:
    """Add an item and its arrays' metadata to a store if they are missing; several tasks may do so at once.

    Raises SettingsDiffer if an item of this name exists with other settings.
    """
    file = item_path(store.path, item.name)
    if read_item(store.path, item.name) is None:
        if file.exists():  # damaged
            old = temporary_beside(file, "old")
            with contextlib.suppress(FileNotFoundError):  # another task has moved it away
                os.replace(file, old)
                old.unlink()
            remove(file)
        create_json(file, _item_facts(store.header, item))
    if not _check_item(store, item):
        raise HistoxaiError(f"{file}: cannot be read back; run the same command again")
    # Only now is it settled whose settings hold, and with them the arrays' shapes.
    _write_metadata(store.path, item.name, item.specs)


def _write_metadata(root: Path, name: str, specs: Sequence[ArraySpec]) -> None:
    """Write the metadata of an item's arrays where it is missing or differs from the item's facts.

    Only paths of the item's own arrays are written: facts of a foreign store cannot name others.
    """
    facts = recorded_metadata(root, [name])
    if facts and next(changed_metadata(root, facts), None) is None:
        return
    expected = metadata_documents(specs)
    facts = {path: text for path, text in facts.items() if path in expected}
    if not facts:  # an item of an earlier version, whose facts have no metadata
        facts = {path: text for path, text in expected.items() if not (root / path).exists()}
    for path in changed_metadata(root, facts):
        require_inside(root, root / path)
        write_atomically(root / path, facts[path].encode())


def _check_item(store: Store, item: Item) -> bool:
    # Returns whether the item exists; raises if it exists with other settings.
    facts = read_item(store.path, item.name)
    if facts is not None and facts["fingerprint"] != store.fingerprint(item):
        name, a, b = first_difference(facts["what"], item.parameters) or ("settings", "others", "these")
        raise SettingsDiffer(_difference_text(store.path, name, a, b, f"'{item.name}' in "))
    return facts is not None


def _create(
    path: Path, header: dict[str, Any], index: dict[str, np.ndarray], items: list[Item], attrs: dict[str, Any]
) -> None:
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        zarr.open_group(temporary, mode="w-", attributes=seal_attributes(plain(header), plain(attrs)))
        for spec, data in index_specs(index):
            spec.create(temporary)[...] = data
        write_index_record(temporary, index, header, attrs, True)
        for item in items:
            facts = _item_facts(header, item)
            for file, text in facts["metadata"].items():
                write_atomically(temporary / file, text.encode(), durable=False)
            write_json(item_path(temporary, item.name), facts)
        if is_on_s3(path):
            s3_mirror.publish(temporary, path, lambda data: _is_root_of(data, header))
            return
        sync_tree(temporary)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.exists():
                raise
            return  # another task was first; the caller compares the settings
        sync_folder(path.parent)
    except OSError as error:
        time.sleep(_SETTLING)
        raise file_error(path, "created", error) from error
    finally:
        remove_temporary_folder(temporary)


def _is_root_of(data: bytes, header: dict[str, Any]) -> bool:
    # Whether a root `zarr.json` that another task wrote has the same settings and parents.
    try:
        return header_identity(json.loads(data)["attributes"]["histoxai"]) == header_identity(header)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


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
