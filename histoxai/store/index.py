"""Write and repair the index of a store: ids, labels and other small arrays, with a record of their checksums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from histoxai.core.errors import Damaged, Incomplete, InputRefused
from histoxai.core.provenance import NUMERICS_VERSION, checksum, fingerprint, plain, run_facts
from histoxai.store.header import header_identity
from histoxai.store.records import checksum_of, read_record, record_path, size_of, with_checksum
from histoxai.store.schema import ArraySpec, index_specs
from histoxai.store.sealing import is_sealed, read_documents, seal_attributes
from histoxai.store.shards import Store
from histoxai.store.storage.files import remove, require_inside, write_atomically, write_json


def write_index_record(
    root: Path, index: dict[str, np.ndarray], header: dict[str, Any], attrs: dict[str, Any], is_root_sealed: bool
) -> None:
    """Write the record of a store's ids and labels; is_root_sealed: whether the root's attributes have a checksum."""
    files = []
    for spec, _ in index_specs(index):
        file = root / spec.file(0)
        size = size_of(file)
        files.append({"path": spec.file(0), "size": size})
        if size is not None:
            files[-1]["checksum"] = checksum_of(file)
    texts = read_documents(root, [spec.path for spec, _ in index_specs(index)])
    facts = {
        "fingerprint": _index_fingerprint(header, attrs),
        "files": files,
        "metadata": texts,
        "sealed": is_root_sealed,
    }
    write_json(record_path(root, "index", 0), with_checksum(facts))


def repair_root(path: Path, header: dict[str, Any], attrs: dict[str, Any]) -> None:
    """Rewrite a damaged root `zarr.json` if the index was made for the same header."""
    record = read_record(path, "index", 0)
    if record is None or record["fingerprint"] != _index_fingerprint(header, attrs) or opens(path):
        return
    files: dict[str, Any] = {}
    zarr.open_group(MemoryStore(files), mode="w", attributes=seal_attributes(plain(header), plain(attrs)))
    write_atomically(path / "zarr.json", files["zarr.json"].to_bytes())


def repair_index(store: Store, index: dict[str, np.ndarray], attrs: dict[str, Any]) -> None:
    """Rewrite lost ids and labels and their record; raise Damaged if any that can be read have changed."""
    record = read_record(store.path, "index", 0)
    recorded = {f["path"]: f.get("checksum") for f in record["files"]} if record else {}
    # Readable values that differ were changed by somebody, perhaps on purpose: they are never overwritten.
    lost = [(spec, data) for spec, data in index_specs(index) if not _is_readable(store, spec, recorded)]
    written = {spec.file(0): _encoded(spec, data) for spec, data in lost}
    changed = [p for p, data in written.items() if p in recorded and recorded[p] != (data and checksum(data))]
    readable = {path: data for path, data in index.items() if path not in {spec.path for spec, _ in lost}}
    changed += [path for path, data in readable.items() if not np.array_equal(store.read(path), data)]
    remedy = f"`{run_facts()['command']} --force` makes the store again"
    if changed:
        raise Damaged(f"{store.path}: {changed[0]} is not what this command makes; {remedy}")
    for path, data in written.items():
        require_inside(store.path, store.path / path)
        if data is None:
            remove(store.path / path)
        else:
            write_atomically(store.path / path, data)
    if "checksum" in store.header and not is_sealed(plain(dict(store.group.attrs))):
        raise Damaged(f"{store.path}: neither its zarr.json nor its index's record holds; {remedy}")
    write_index_record(store.path, index, store.header, attrs, "checksum" in store.header)


def _is_readable(store: Store, spec: ArraySpec, recorded: dict[str, str | None]) -> bool:
    file = spec.file(0)
    if recorded.get(file) and size_of(store.path / file) is None:  # zarr reads a lost file of text as empty
        return False
    try:
        store.read(spec.path)
    except (Damaged, Incomplete):
        return False
    return True


def _encoded(spec: ArraySpec, data: np.ndarray) -> bytes | None:
    # The file of ids or labels as zarr writes it; None if every value is the fill value.
    files: dict[str, Any] = {}
    zarr.open_group(MemoryStore(files), mode="w")
    spec.create(MemoryStore(files))[...] = data
    buffer = files.get(spec.file(0))
    return None if buffer is None else buffer.to_bytes()


def opens(path: Path) -> bool:
    """Return whether a store can be opened: its root's `zarr.json` is there and intact."""
    try:
        Store(path)
    except InputRefused:
        return False
    return True


def _index_fingerprint(header: dict[str, Any], attrs: dict[str, Any]) -> str:
    return fingerprint([NUMERICS_VERSION, "index", header_identity(header), attrs])
