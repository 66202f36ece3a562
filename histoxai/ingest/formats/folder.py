"""A folder of image files: one folder for each class, with or without a folder for each scan inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text
from histoxai.ingest.class_folders import ClassifiedImage, classify_images, note_groups
from histoxai.ingest.file_listing import list_images, require_utf8_name
from histoxai.ingest.formats.base import (
    PatchIndex,
    require_folder,
    require_only_settings,
    require_unique_ids,
)
from histoxai.ingest.images import SUFFIXES, decode_image, image_size
from histoxai.ingest.tiles import TileLayout
from histoxai.settings import Ingest


class FolderFormat:
    """PNG, JPEG, TIFF and BMP images as `<class>/<file>` or `<class>/<scan>/.../<file>`, whole or in tiles.

    Source: the common ImageFolder layout. Folders named train, validation and test, above the classes or directly
    below them, become the split. The group is the path of folders between class and file (the scan), without names of
    splits and magnifications. Without such folders every image is a group of its own, and no split can keep patches of
    one scan together.
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
        files = list_images(root, SUFFIXES, notes)
        folders = [p.name for p in _class_folders(root)]
        images = classify_images(root, folders, files, settings.classes, notes)
        self.index = PatchIndex(_select_classes(root, images, settings), settings.mpp, (0, 0), notes=notes)
        self._paths: list[Path] = []
        self._layout = TileLayout(self.index, settings)
        for label, name in enumerate(self.index.classes):
            for image in images[name]:
                with self.index.skipping_bad(image.path.relative_to(root).as_posix(), settings):
                    self._add_image(root, image, label)
        require_unique_ids(root, self.index)
        note_groups(self.index, root, [image for name in self.index.classes for image in images[name]])
        if unselected := [escape_text(n) for n in images if n not in self.index.classes]:
            notes.append(f"left out: {', '.join(unselected)} (choose with --classes)")

    def _add_image(self, root: Path, image: ClassifiedImage, label: int) -> None:
        index, path, stem = self.index, image.path, image.stem
        require_utf8_name(path.relative_to(root))
        n = self._layout.add(len(self._paths), path, image_size(path), stem)
        # without a scan folder the file is its own group
        index.add_patches([f"{stem}#{i}" for i in range(n)], image.group or f"{stem}#0", label, image.split)
        index.add_file(path.relative_to(root).as_posix(), path)
        self._paths.append(path)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return images (n, H, W, 3) uint8, and None: a folder of images has no masks."""
        tiles = self._layout.iterate(start, stop, lambda number: decode_image(self._paths[number]))
        return np.stack([self._layout.crop(pixels, corner) for pixels, corner in tiles]), None


def _class_folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _select_classes(root: Path, images: dict[str, list[ClassifiedImage]], settings: Ingest) -> list[str]:
    kinds = ", ".join(sorted(SUFFIXES))
    classes = list(settings.classes or [n for n, of_class in images.items() if of_class])
    for name in classes:
        require_utf8_name(root / name)
        if name not in images:
            raise InputRefused(f"{root}: has no class folder '{name}'; it has {', '.join(images) or 'no folders'}")
        if not images[name]:
            raise InputRefused(f"{root / name}: holds no image ({kinds})")
    if not classes:
        raise InputRefused(f"{root}: no folder in it holds an image ({kinds})")
    return classes
