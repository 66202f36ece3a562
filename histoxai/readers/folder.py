"""A folder of image files, one folder per class, with or without a folder per scan inside."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from histoxai.errors import InputRefused
from histoxai.readers.base import Index, identifier, require_folder, require_size
from histoxai.settings import Ingest

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}


class FolderReader:
    """Reads `<class>/<file>` and `<class>/<scan>/.../<file>` PNG, JPEG and TIFF images.

    Source: the common ImageFolder layout. Group is the path of folders between class and file (the
    scan); without one every patch is a group of its own, which no split can keep from leaking.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Says why `root` looks like a class-per-folder tree, or None."""
        if not root.is_dir():
            return None
        for folder in sorted(p for p in root.iterdir() if p.is_dir()):
            if any(p.suffix.lower() in SUFFIXES for p in folder.rglob("*")):
                return f"'{folder.name}' holds image files"
        return None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")}
        found = {n: _images(p) for n, p in folders.items()}
        classes = list(settings.classes or [n for n, paths in found.items() if paths])
        for name in classes:
            if name not in folders:
                raise InputRefused(f"{root}: has no class folder '{name}'; it has {', '.join(folders) or 'no folders'}")
            if not found[name]:
                raise InputRefused(f"{folders[name]}: holds no image ({', '.join(sorted(SUFFIXES))})")
        if not classes:
            raise InputRefused(f"{root}: no folder in it holds an image ({', '.join(sorted(SUFFIXES))})")
        self.index = Index(classes, settings.mpp, (0, 0))
        self._paths: list[Path] = []
        self._list(root, found)
        if left_out := [n for n in found if n not in classes]:
            self.index.notes.append(f"left out: {', '.join(left_out)} (choose with --classes)")

    def _list(self, root: Path, found: dict[str, list[Path]]) -> None:
        index, nested = self.index, False
        for label, name in enumerate(index.classes):
            for path in found[name]:
                inner = path.relative_to(root / name).parts[:-1]
                nested |= bool(inner)
                # With no scan folder the file is its own group; the class must never become one.
                patch_id = identifier(*inner, name, f"{path.stem}#0")
                index.group.append(identifier(*inner) if inner else patch_id)
                index.patch_id.append(patch_id)
                index.label.append(label)
                index.split.append(0)
                index.files.append((path.relative_to(root).as_posix(), path.stat().st_size))
                self._paths.append(path)
        index.size = _size(self._paths[0])
        for path in self._paths[1:]:
            require_size(path, _size(path), index.size, self._paths[0])
        if len(set(index.patch_id)) < len(index.patch_id):
            ids = sorted(index.patch_id)
            double = next(a for a, b in itertools.pairwise(ids) if a == b)
            raise InputRefused(f"{root}: two files would both be patch '{double}'; rename one of them")
        if not nested:
            index.notes.append(
                "no scan folders below the classes: every patch counts as a group of its own, so a split by "
                "group cannot keep patches of one scan together"
            )

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """images (n, H, W, 3) uint8; a folder of images has no masks."""
        return np.stack([_decode(p) for p in self._paths[start:stop]]), None


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputRefused(f"{path}: is not an image that can be read ({error}); remove or replace it") from error


def _size(path: Path) -> tuple[int, int]:
    with _open(path) as image:
        return image.height, image.width


def _decode(path: Path) -> np.ndarray:
    with _open(path) as image:
        if image.mode not in ("RGB", "RGBA", "P"):
            raise InputRefused(f"{path}: has mode {image.mode}; expected 8-bit RGB")
        try:
            # RGBA is common in exported tiles; a patch that is partly transparent is blended on white glass
            if image.mode != "RGB":
                layer = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise InputRefused(f"{path}: does not decode ({error}); remove or replace it") from error
