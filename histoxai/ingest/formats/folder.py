"""A folder of image files, one folder per class, with or without a folder per scan inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import printable
from histoxai.ingest.file_listing import list_files, require_utf8_name
from histoxai.ingest.formats.base import (
    PatchIndex,
    identifier,
    require_folder,
    require_only_settings,
    require_unique_ids,
)
from histoxai.ingest.images import SUFFIXES, decode_image, image_size
from histoxai.ingest.tiles import TileLayout
from histoxai.settings import Ingest

_ALONE = (
    "no scan folders below the classes: every image counts as a group of its own, so a split by "
    "group cannot keep patches of one scan together"
)


class FolderFormat:
    """Reads `<class>/<file>` and `<class>/<scan>/.../<file>` PNG, JPEG, TIFF and BMP images, whole or in tiles.

    Source: the common ImageFolder layout. Group is the path of folders between class and file (the
    scan); without one every image is a group of its own, which no split can keep from leaking.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Says why `root` looks like a class-per-folder tree, or None."""
        if not root.is_dir():
            return None
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
            if any(p.suffix.lower() in SUFFIXES for p in folder.rglob("*")):
                return f"'{printable(folder.name)}' holds image files"
        return None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        require_only_settings(root, settings, "folder", "size")
        notes: list[str] = []
        folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")}
        found: dict[str, list[Path]] = {n: [] for n in folders}
        stray: list[Path] = []
        for path in list_files(root, SUFFIXES, notes):
            parts = path.relative_to(root).parts
            (found[parts[0]] if len(parts) > 1 else stray).append(path)
        if stray:
            notes.append(f"{len(stray)} images lie in no class folder: left out ({printable(stray[0].name)}, say)")
        self.index = PatchIndex(_classes(root, found, settings), settings.mpp, (0, 0), notes=notes)
        self._paths: list[Path] = []
        self._layout = TileLayout(self.index, settings)
        self._list(root, found, settings)
        if left_out := [printable(n) for n in found if n not in self.index.classes]:
            notes.append(f"left out: {', '.join(left_out)} (choose with --classes)")

    def _list(self, root: Path, found: dict[str, list[Path]], settings: Ingest) -> None:
        index, nested = self.index, False
        for label, name in enumerate(index.classes):
            for path in found[name]:
                nested |= len(path.relative_to(root).parts) > 2
                try:
                    self._take(root, path, label)
                except InputRefused as error:
                    index.leave_out(printable(path.relative_to(root).as_posix()), error, settings)
        require_unique_ids(root, index)
        if not nested:
            index.notes.append(_ALONE)

    def _take(self, root: Path, path: Path, label: int) -> None:
        index = self.index
        require_utf8_name(path.relative_to(root))
        name, *inner, _ = path.relative_to(root).parts
        stem = identifier(*inner, name, path.stem)
        n = self._layout.add(len(self._paths), path, image_size(path), stem)
        # With no scan folder the file is its own group; the class must never become one.
        index.group += [identifier(*inner) if inner else f"{stem}#0"] * n
        index.patch_id += [f"{stem}#{i}" for i in range(n)]
        index.label += [label] * n
        index.split += [0] * n
        index.files.append((path.relative_to(root).as_posix(), path.stat().st_size))
        self._paths.append(path)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """images (n, H, W, 3) uint8; a folder of images has no masks."""
        found = self._layout.each(start, stop, lambda number: decode_image(self._paths[number]))
        return np.stack([self._layout.crop(pixels, corner) for pixels, corner in found]), None


def _classes(root: Path, found: dict[str, list[Path]], settings: Ingest) -> list[str]:
    kinds = ", ".join(sorted(SUFFIXES))
    classes = list(settings.classes or [n for n, paths in found.items() if paths])
    for name in classes:
        require_utf8_name(root / name)
        if name not in found:
            raise InputRefused(f"{root}: has no class folder '{name}'; it has {', '.join(found) or 'no folders'}")
        if not found[name]:
            raise InputRefused(f"{root / name}: holds no image ({kinds})")
    if not classes:
        raise InputRefused(f"{root}: no folder in it holds an image ({kinds})")
    return classes
