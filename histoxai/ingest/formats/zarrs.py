"""Zarr v2 and v3: arrays of patches, and OME-Zarr images that are cut into tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import printable
from histoxai.ingest.arrays import ArrayGroup, ArrayPatches, array_groups, assign_roles, path_in_source, split_of
from histoxai.ingest.file_listing import require_utf8_name
from histoxai.ingest.formats.base import PatchIndex, RowArray, identifier, require_folder
from histoxai.ingest.ome_zarr import OmeTiles, multiscales
from histoxai.ingest.zarr_nodes import ZarrArray, ZarrNode, arrays_below, bytes_below, read_node
from histoxai.settings import Ingest


class ZarrFormat:
    """Reads an array (n, H, W, 3), a group with `images`, `labels` and `masks`, and OME-Zarr images in tiles.

    Source: the Zarr specifications 2 and 3, and OME-NGFF 0.1 to 0.5. A folder of several is read as one. Arrays that
    would be unpickled are refused, and so are stores of our own, which need no ingest.
    """

    index: PatchIndex

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Says why `root` looks like Zarr, or None."""
        if not root.is_dir():
            return None
        if read_node(root):
            return "it has Zarr metadata"
        inner = _stores(root)
        return f"'{printable(inner[0].path.name)}' has Zarr metadata" if inner else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        nodes = _sources(root)
        _require_foreign(nodes)
        self._reader: ArrayPatches | OmeTiles
        if any(multiscales(n) for n in nodes):
            self._reader = OmeTiles(root, settings, [n for n in nodes if multiscales(n)])
            self.index = self._reader.index
            return
        notes: list[str] = []
        scan = PatchIndex([], None, (0, 0))
        parts: list[ArrayGroup] = []
        for source in nodes:
            stem = path_in_source(root, source.path).removesuffix(".zarr")
            try:
                require_utf8_name(source.path)
                chosen = assign_roles(_found(source), settings, source.path)
                parts += array_groups(chosen, identifier(stem), split_of(stem.replace("/", "_")))
            except InputRefused as error:
                scan.leave_out(stem, error, settings)
        self._reader = ArrayPatches(root, settings, "zarr", parts, notes)
        self.index = self._reader.index
        self.index.left_out = scan.left_out + self.index.left_out
        for part in self._reader.parts:
            for array in (part.images, part.labels, part.masks, part.groups):
                if isinstance(array, ZarrArray):
                    self.index.files.append((path_in_source(root, array.path), bytes_below(array.path)))

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """images (n, H, W, 3) uint8 and, where the source has masks, targets (n, 2, H, W) uint8."""
        return self._reader.read(start, stop)


def _sources(root: Path) -> list[ZarrNode]:
    # the root itself, the series in it (bioformats2raw: 0, 1, ...), or the stores that a plain folder holds
    top = read_node(root)
    if top is None:
        if not (stores := _stores(root)):
            raise InputRefused(f"{root}: holds no Zarr metadata (zarr.json, .zarray or .zgroup); name the store itself")
        return [image for store in stores for image in ([store] if store.is_array else _series(store))]
    return [top] if top.is_array else _series(top)


def _stores(folder: Path) -> list[ZarrNode]:
    # stores of our own are what came out of a folder, not what is in it
    found = [n for p in sorted(folder.glob("*.zarr")) if p.is_dir() and (n := read_node(p))]
    return [n for n in found if "histoxai" not in n.attributes]


def _series(group: ZarrNode) -> list[ZarrNode]:
    if multiscales(group) or "histoxai" in group.attributes:
        return [group]
    inner = [n for p in sorted(group.path.iterdir()) if p.name.isdecimal() and p.is_dir() and (n := read_node(p))]
    return [n for n in inner if multiscales(n)] or [group]


def _require_foreign(nodes: list[ZarrNode]) -> None:
    for source in nodes:
        if "histoxai" in source.attributes:
            raise InputRefused(
                f"{source.path}: is a store of histoxai already; hand it to `histoxai augment` or `histoxai info`"
            )
        if "plate" in source.attributes or "well" in source.attributes:
            raise InputRefused(f"{source.path}: is a plate; name one of the images in it")


def _found(source: ZarrNode) -> dict[str, RowArray]:
    if source.is_array:
        return {"images": ZarrArray(source)}
    return {name: ZarrArray(n) for name, n in arrays_below(source.path).items()}
