"""Zarr v2 and v3: arrays of patches, and OME-Zarr images that are cut into tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text
from histoxai.ingest.array_roles import ArrayGroup, RoleFinder, group_by_file
from histoxai.ingest.arrays import ArrayPatches
from histoxai.ingest.file_listing import path_in_source, require_utf8_name
from histoxai.ingest.formats.base import PatchIndex, identifier, require_folder
from histoxai.ingest.npy_files import RowArray
from histoxai.ingest.ome_zarr import OmeTiles, multiscales
from histoxai.ingest.split_words import split_of
from histoxai.ingest.zarr_nodes import ZarrArray, ZarrNode, arrays_below, bytes_below, read_node
from histoxai.settings import Ingest


class ZarrFormat:
    """An array (n, H, W, 3), a group with `images`, `labels` and `masks`, and OME-Zarr images in tiles.

    Source: the Zarr specifications 2 and 3, and OME-NGFF 0.1 to 0.5. A folder of several stores is read as one source.
    Arrays that would be unpickled are refused, and so are histoxai's own stores, which need no ingest.
    """

    index: PatchIndex

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Return why `root` looks like Zarr, or None."""
        if not root.is_dir():
            return None
        if read_node(root):
            return "it has Zarr metadata"
        stores = _stores(root)
        return f"'{escape_text(stores[0].path.name)}' has Zarr metadata" if stores else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        nodes = _source_nodes(root)
        _require_foreign(nodes)
        images = [n for n in nodes if multiscales(n)]
        self._patches: ArrayPatches | OmeTiles = (
            OmeTiles(root, settings, images) if images else _array_patches(root, settings, nodes)
        )
        self.index = self._patches.index

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return images (n, H, W, 3) uint8 and targets (n, 2, H, W) uint8 in {0, 1}, or None without masks."""
        return self._patches.read(start, stop)


def _array_patches(root: Path, settings: Ingest, nodes: list[ZarrNode]) -> ArrayPatches:
    index = PatchIndex([], settings.mpp, (0, 0))
    by_store: dict[str, list[ArrayGroup]] = {}
    for source in nodes:
        stem = path_in_source(root, source.path).removesuffix(".zarr")
        with index.skipping_bad(stem, settings):
            require_utf8_name(source.path)
            finder = RoleFinder(_arrays(source), settings, source.path)
            by_store[stem] = finder.find(identifier(stem), split_of(stem.replace("/", "_")))
    group_by_file(by_store)
    patches = ArrayPatches(root, settings, "zarr", [g for groups in by_store.values() for g in groups], index)
    for group in patches.groups:
        for array in group.arrays:
            index.files.append((path_in_source(root, array.path), bytes_below(array.path)))
    return patches


def _source_nodes(root: Path) -> list[ZarrNode]:
    """Return the root itself, its series of images (bioformats2raw: 0, 1, ...), or those of the stores in a folder."""
    top = read_node(root)
    if top is None:
        if not (stores := _stores(root)):
            raise InputRefused(f"{root}: holds no Zarr metadata (zarr.json, .zarray or .zgroup); name the store itself")
        return [image for store in stores for image in ([store] if store.is_array else _series(store))]
    return [top] if top.is_array else _series(top)


def _stores(folder: Path) -> list[ZarrNode]:
    # histoxai's own stores are outputs that were made from a folder, and no sources in it
    nodes = [n for p in sorted(folder.glob("*.zarr")) if p.is_dir() and (n := read_node(p))]
    return [n for n in nodes if "histoxai" not in n.attributes]


def _series(group: ZarrNode) -> list[ZarrNode]:
    if multiscales(group) or "histoxai" in group.attributes:
        return [group]
    nodes = [n for p in sorted(group.path.iterdir()) if p.name.isdecimal() and p.is_dir() and (n := read_node(p))]
    return [n for n in nodes if multiscales(n)] or [group]


def _require_foreign(nodes: list[ZarrNode]) -> None:
    for source in nodes:
        if "histoxai" in source.attributes:
            raise InputRefused(
                f"{source.path}: is a store of histoxai already; hand it to `histoxai augment` or `histoxai info`"
            )
        if "plate" in source.attributes or "well" in source.attributes:
            raise InputRefused(f"{source.path}: is a plate; name one of the images in it")


def _arrays(source: ZarrNode) -> dict[str, RowArray]:
    if source.is_array:
        return {"images": ZarrArray(source)}
    return {name: ZarrArray(n) for name, n in arrays_below(source.path).items()}
