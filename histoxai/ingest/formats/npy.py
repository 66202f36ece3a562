"""NumPy files: images.npy with labels.npy and masks.npy in one folder or one for each split, or a single file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text
from histoxai.ingest.array_roles import GROUPS, ArrayGroup, RoleFinder
from histoxai.ingest.arrays import ArrayPatches
from histoxai.ingest.file_listing import path_in_source, require_utf8_name
from histoxai.ingest.formats.base import PatchIndex, identifier, require_source
from histoxai.ingest.npy_files import NpyFile, RowArray
from histoxai.ingest.split_words import SPLITS, split_of
from histoxai.settings import Ingest

_STEMS = ("images", "labels", "masks", *GROUPS)


class NpyFormat(ArrayPatches):
    """`images.npy` (n, H, W, 3) with `labels.npy` (n), `masks.npy` and `groups.npy` (n), or one `.npy` file of images.

    Source: numpy's format (NEP 1). Folders named train, validation and test, each with such files, become the split.
    Masks are (n, H, W) class numbers or (n, 2, H, W) planes. Nothing is ever unpickled.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Return why `root` looks like NumPy files, or None."""
        if root.is_file():
            return "it is a .npy file" if root.suffix.lower() == ".npy" else None
        folders = [f for f in _folders(root) if (f / "images.npy").is_file()]
        return f"'{escape_text(folders[0].name)}' holds images.npy" if folders else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_source(root)
        index = PatchIndex([], settings.mpp, (0, 0))
        groups = [_single_file(root)] if root.is_file() else _find_groups(root, settings, index)
        super().__init__(root, settings, "npy", groups, index)
        for group in self.groups:
            for array in group.arrays:
                index.add_file(path_in_source(root, array.path), array.path)
            if group.masks is not None:
                index.add_contents(path_in_source(root, group.masks.path), group.masks.path)


def _single_file(root: Path) -> ArrayGroup:
    require_utf8_name(Path(root.name))
    return ArrayGroup(identifier(root.stem), NpyFile(root), split=split_of(root.stem))


def _find_groups(root: Path, settings: Ingest, index: PatchIndex) -> list[ArrayGroup]:
    given = {_file_name(name) for name in (settings.images, settings.labels, settings.masks) if name}
    names = {f"{stem}.npy" for stem in _STEMS} | given
    images = _file_name(settings.images or "images")
    groups: list[ArrayGroup] = []
    for folder in _folders(root):
        if not (folder / images).is_file():
            continue
        with index.skipping_bad(path_in_source(root, folder / images), settings):
            arrays: dict[str, RowArray] = {
                path.stem: NpyFile(path) for path in sorted(folder.iterdir()) if path.name in names and path.is_file()
            }
            finder = RoleFinder(arrays, _without_endings(settings), folder)
            stem = identifier(*folder.relative_to(root).parts, finder.images()[0])
            groups += finder.find(stem, split_of(folder.name) if folder != root else 0)
    if not groups and not index.left_out:
        raise InputRefused(f"{root}: has no {images}; name the file with --images")
    return groups


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [root, *sorted(p for p in root.iterdir() if p.name.lower() in SPLITS and p.is_dir())]


def _file_name(name: str) -> str:
    return name if name.endswith(".npy") else f"{name}.npy"


def _without_endings(settings: Ingest) -> Ingest:
    stems = {k: v.removesuffix(".npy") for k in ("images", "labels", "masks") if (v := getattr(settings, k))}
    return replace(settings, **stems)
