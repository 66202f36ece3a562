"""A folder of image files: one folder for each class, with or without a folder for each scan inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text
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

_NO_SCANS = (
    "no scan folders below the classes: every image counts as a group of its own, so a split by "
    "group cannot keep patches of one scan together"
)


class FolderFormat:
    """PNG, JPEG, TIFF and BMP images as `<class>/<file>` or `<class>/<scan>/.../<file>`, whole or in tiles.

    Source: the common ImageFolder layout. The group is the path of folders between class and file (the scan). Without
    such folders every image is a group of its own, and no split can keep patches of one scan together.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Return why `root` looks like a tree with a folder for each class, or None."""
        for folder in _class_folders(root) if root.is_dir() else []:
            if any(p.suffix.lower() in SUFFIXES for p in folder.rglob("*")):
                return f"'{escape_text(folder.name)}' holds image files"
        return None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        require_only_settings(root, settings, "folder", "size")
        notes: list[str] = []
        files = _files_by_class(root, notes)
        self.index = PatchIndex(_select_classes(root, files, settings), settings.mpp, (0, 0), notes=notes)
        self._paths: list[Path] = []
        self._layout = TileLayout(self.index, settings)
        for label, name in enumerate(self.index.classes):
            for path in files[name]:
                with self.index.skipping_bad(path.relative_to(root).as_posix(), settings):
                    self._add_image(root, path, label)
        require_unique_ids(root, self.index)
        if not any(len(p.relative_to(root).parts) > 2 for name in self.index.classes for p in files[name]):
            notes.append(_NO_SCANS)
        if unselected := [escape_text(n) for n in files if n not in self.index.classes]:
            notes.append(f"left out: {', '.join(unselected)} (choose with --classes)")

    def _add_image(self, root: Path, path: Path, label: int) -> None:
        index = self.index
        require_utf8_name(path.relative_to(root))
        name, *scan, _ = path.relative_to(root).parts
        stem = identifier(*scan, name, path.stem)
        n = self._layout.add(len(self._paths), path, image_size(path), stem)
        # Without a scan folder the file is its own group. The class must never become a group.
        group = identifier(*scan) if scan else f"{stem}#0"
        index.add_patches([f"{stem}#{i}" for i in range(n)], group, label)
        index.add_file(path.relative_to(root).as_posix(), path)
        self._paths.append(path)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return images (n, H, W, 3) uint8, and None: a folder of images has no masks."""
        tiles = self._layout.iterate(start, stop, lambda number: decode_image(self._paths[number]))
        return np.stack([self._layout.crop(pixels, corner) for pixels, corner in tiles]), None


def _class_folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files_by_class(root: Path, notes: list[str]) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {p.name: [] for p in _class_folders(root)}
    outside: list[Path] = []
    for path in list_files(root, SUFFIXES, notes):
        parts = path.relative_to(root).parts
        (files[parts[0]] if len(parts) > 1 else outside).append(path)
    if outside:
        notes.append(f"{len(outside)} images lie in no class folder: left out ({escape_text(outside[0].name)}, say)")
    return files


def _select_classes(root: Path, files: dict[str, list[Path]], settings: Ingest) -> list[str]:
    kinds = ", ".join(sorted(SUFFIXES))
    classes = list(settings.classes or [n for n, paths in files.items() if paths])
    for name in classes:
        require_utf8_name(root / name)
        if name not in files:
            raise InputRefused(f"{root}: has no class folder '{name}'; it has {', '.join(files) or 'no folders'}")
        if not files[name]:
            raise InputRefused(f"{root / name}: holds no image ({kinds})")
    if not classes:
        raise InputRefused(f"{root}: no folder in it holds an image ({kinds})")
    return classes
