"""Making stores: under a temporary name and renamed, so that nobody meets half of one.

Of several makers one wins; the others check that they meant the same.
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
from zarr.storage import MemoryStore

from histoxai.core.errors import Damaged, HistoxaiError, Incomplete, InputRefused, SettingsDiffer
from histoxai.core.provenance import NUMERICS_VERSION, checksum, fingerprint, first_difference, plain, run_facts
from histoxai.core.s3_paths import is_on_s3
from histoxai.store.header import header_identity
from histoxai.store.partial_shards import PART
from histoxai.store.records import (
    DONE,
    checksum_of,
    is_done,
    item_path,
    read_item,
    read_record,
    record_path,
    size_of,
    with_checksum,
)
from histoxai.store.schema import ArraySpec, index_specs
from histoxai.store.sealing import (
    changed_metadata,
    is_sealed,
    metadata_documents,
    read_documents,
    recorded_metadata,
    seal_attributes,
)
from histoxai.store.shards import Item, Store, item_fingerprint
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

# For how long zarr's threads go on after the first of them failed, with room to spare.
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
    """Make a store with its index arrays and empty items, or open the one that is there.

    Raises SettingsDiffer where an existing store was made with other settings, seed or parents, and
    InputRefused where `path` holds something else.
    """
    items = list(items)
    if path.is_symlink() and (force or not path.exists()):  # made where it points to
        path = path.resolve()
    remove_abandoned([path.parent])
    header = {**header, "items": [item.name for item in items]}
    if force and path.exists():
        discard(path, header["schema"])
    if not path.exists() or _is_begun(path):
        # on storage items are added one by one below: what claims a place there is one file, not a whole folder
        _create(path, header, index, [] if is_on_s3(path) else items, attrs or {})
    _require_no_links(path)
    _mend_root(path, header, attrs or {})
    store = match(path, header, items)
    _write_metadata(path, "index", [spec for spec, _ in index_specs(index)])
    if not is_done(path, read_record(path, "index", 0), verify=not is_on_s3(path)):
        _mend_index(store, index, attrs or {})
    for item in items:
        add_item(store, item)
    return store


def _require_no_links(path: Path) -> None:
    # what says what is done, and what is kept, lies in the store itself
    for folder in (path / DONE, path / PART):
        inner = folder.iterdir() if folder.is_dir() else []
        for place in (folder, *inner):
            if place.is_symlink():
                raise InputRefused(f"{place}: is a link; nothing is written through links in a store")


def _is_begun(path: Path) -> bool:
    # on storage a store comes file by file, the record of its index last
    if not is_on_s3(path):
        return False
    if not (path / "zarr.json").exists():  # another task that shares this cache is about to fetch it
        s3_mirror.refresh(path)
    return (path / "zarr.json").exists() and not record_path(path, "index", 0).exists()


def _mend_root(path: Path, header: dict[str, Any], attrs: dict[str, Any]) -> None:
    """Write the root's `zarr.json` anew where it does not hold and the index was made for the same header."""
    record = read_record(path, "index", 0)
    if record is None or record["fingerprint"] != _index_mark(header, attrs) or _opens(path):
        return
    made: dict[str, Any] = {}
    zarr.open_group(MemoryStore(made), mode="w", attributes=seal_attributes(plain(header), plain(attrs)))
    write_atomically(path / "zarr.json", made["zarr.json"].to_bytes())


def _mend_index(store: Store, index: dict[str, np.ndarray], attrs: dict[str, Any]) -> None:
    """Write ids and labels that are lost, and their record, anew, where all else is what it should be."""
    record = read_record(store.path, "index", 0)
    told = {f["path"]: f.get("checksum") for f in record["files"]} if record else {}
    # what can be read and differs was changed by somebody, who may have meant it
    lost = [(spec, data) for spec, data in index_specs(index) if not _is_there(store, spec, told)]
    written = {spec.file(0): _encoded(spec, data) for spec, data in lost}
    changed = [path for path, data in written.items() if path in told and told[path] != (data and checksum(data))]
    readable = {path: data for path, data in index.items() if path not in {spec.path for spec, _ in lost}}
    changed += [path for path, data in readable.items() if not np.array_equal(store.read(path), data)]
    if changed:
        raise Damaged(
            f"{store.path}: {changed[0]} is not what this command makes; `{run_facts()['command']} --force` makes "
            "the store again"
        )
    for path, data in written.items():
        require_inside(store.path, store.path / path)
        if data is None:
            remove(store.path / path)
        else:
            write_atomically(store.path / path, data)
    if "checksum" in store.header and not is_sealed(plain(dict(store.group.attrs))):
        raise Damaged(
            f"{store.path}: neither its zarr.json nor its index's record holds; `{run_facts()['command']} --force` "
            "makes the store again"
        )
    _write_index_record(store.path, index, store.header, attrs, "checksum" in store.header)


def _is_there(store: Store, spec: ArraySpec, told: dict[str, str | None]) -> bool:
    if told.get(spec.file(0)) and size_of(store.path / spec.file(0)) is None:  # text without its file reads as empty
        return False
    try:
        store.read(spec.path)
    except (Damaged, Incomplete):
        return False
    return True


def _encoded(spec: ArraySpec, data: np.ndarray) -> bytes | None:
    # the file of ids or labels as a new store would have it; None where all of them are the fill value
    made: dict[str, Any] = {}
    zarr.open_group(MemoryStore(made), mode="w")
    spec.create(MemoryStore(made))[...] = data
    found = made.get(spec.file(0))
    return None if found is None else found.to_bytes()


def match(path: Path, header: dict[str, Any], items: Iterable[Item]) -> Store:
    """Open a store that must agree with what is asked for; changes nothing.

    Raises SettingsDiffer where it was made with other settings, seed or parents, InputRefused where it is no
    store of ours.
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
    """Remove a store of a schema: out of sight by a rename first, so that nobody opens half of it.

    Raises InputRefused for anything else that may lie there.
    """
    path = path.resolve()  # of a link what it points to, and the link stays
    # A store without a header, or with a damaged one, still shows by its records whose it is.
    torso = (path / DONE).is_dir() and not _opens(path)
    if any(path.iterdir()) and not torso and _kind(Store(path).schema) != _kind(schema):
        raise InputRefused(f"{path}: is a {Store(path).schema} store, not {schema}; it will not be replaced")
    if is_on_s3(path):
        s3_mirror.delete_tree(path)
    grave = temporary_beside(path, "old")
    os.rename(path, grave)
    shutil.rmtree(grave)


def _kind(schema: str) -> str:
    return schema.split("/")[0]


def _opens(path: Path) -> bool:
    try:
        Store(path)
    except InputRefused:
        return False
    return True


def _meta(header: dict[str, Any], item: Item) -> dict[str, Any]:
    facts = {
        "name": item.name,
        "what": plain(item.what),
        "fingerprint": item_fingerprint(header, item),
        "rows": item.rows,
        "shard": item.shard,
        "arrays": [s.path for s in item.specs],
        "metadata": metadata_documents(item.specs),
        "command": run_facts()["command"],
    }
    return with_checksum(facts)


def add_item(store: Store, item: Item) -> None:
    """Make an item's arrays where they are missing; race-safe.

    Raises SettingsDiffer where the name exists with other settings.
    """
    place = item_path(store.path, item.name)
    if read_item(store.path, item.name) is None:
        if place.exists():  # not as we write it, so it stands for nothing
            old = temporary_beside(place, "old")
            with contextlib.suppress(FileNotFoundError):  # of several tasks one moves it away
                os.replace(place, old)
                old.unlink()
            remove(place)
        create_json(place, _meta(store.header, item))
    if not _check_item(store, item):
        raise HistoxaiError(f"{place}: cannot be read back; run the same command again")
    # Whose settings stand is settled: only now arrays, whose shapes may follow from the settings.
    _write_metadata(store.path, item.name, item.specs)


def _write_metadata(root: Path, name: str, specs: Sequence[ArraySpec]) -> None:
    """Write the metadata of an item's arrays where they are not what its facts say, or are not there.

    Only in places that are the item's: facts from elsewhere cannot name others.
    """
    facts = recorded_metadata(root, [name])
    if facts and next(changed_metadata(root, facts), None) is None:
        return
    ours = metadata_documents(specs)
    facts = {path: text for path, text in facts.items() if path in ours}
    if not facts:  # of an item from before its metadata was part of its facts
        facts = {path: text for path, text in ours.items() if not (root / path).exists()}
    for path in changed_metadata(root, facts):
        require_inside(root, root / path)
        write_atomically(root / path, facts[path].encode())


def _check_item(store: Store, item: Item) -> bool:
    # whether the item is there; if so it is the one that is meant
    found = read_item(store.path, item.name)
    if found is not None and found["fingerprint"] != store.fingerprint(item):
        name, a, b = first_difference(found["what"], item.what) or ("settings", "others", "these")
        raise SettingsDiffer(_difference_text(store.path, name, a, b, f"'{item.name}' in "))
    return found is not None


def _create(
    path: Path, header: dict[str, Any], index: dict[str, np.ndarray], items: list[Item], attrs: dict[str, Any]
) -> None:
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        zarr.open_group(temporary, mode="w-", attributes=seal_attributes(plain(header), plain(attrs)))
        for spec, data in index_specs(index):
            spec.create(temporary)[...] = data
        _write_index_record(temporary, index, header, attrs, True)
        for item in items:
            facts = _meta(header, item)
            for place, text in facts["metadata"].items():
                write_atomically(temporary / place, text.encode(), durable=False)
            write_json(item_path(temporary, item.name), facts)
        if is_on_s3(path):
            s3_mirror.publish(temporary, path, lambda data: _is_of(data, header))
            return
        sync_tree(temporary)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.exists():
                raise
            return  # another task was quicker; the caller checks that it meant the same
        sync_folder(path.parent)
    except OSError as error:
        time.sleep(_SETTLING)
        raise file_error(path, "created", error) from error
    finally:
        remove_temporary_folder(temporary)


def _is_of(data: bytes, header: dict[str, Any]) -> bool:
    # whether a root `zarr.json` that another task wrote is of the same store
    try:
        return header_identity(json.loads(data)["attributes"]["histoxai"]) == header_identity(header)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_index_record(
    root: Path, index: dict[str, np.ndarray], header: dict[str, Any], attrs: dict[str, Any], is_root_sealed: bool
) -> None:
    files = []
    for spec, _ in index_specs(index):
        file = root / spec.file(0)
        size = size_of(file)
        files.append({"path": spec.file(0), "size": size})
        if size is not None:
            files[-1]["checksum"] = checksum_of(file)
    texts = read_documents(root, [spec.path for spec, _ in index_specs(index)])
    facts = {"fingerprint": _index_mark(header, attrs), "files": files, "metadata": texts, "sealed": is_root_sealed}
    write_json(record_path(root, "index", 0), with_checksum(facts))


def _index_mark(header: dict[str, Any], attrs: dict[str, Any]) -> str:
    return fingerprint([NUMERICS_VERSION, "index", header_identity(header), attrs])


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
