"""NumPy files: images.npy with labels.npy and masks.npy, one folder or one for each split, or a single file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import printable
from histoxai.ingest.arrays import (
    GROUPS,
    SPLITS,
    ArrayGroup,
    ArrayPatches,
    array_groups,
    assign_roles,
    path_in_source,
    split_of,
)
from histoxai.ingest.file_listing import require_utf8_name
from histoxai.ingest.formats.base import NpyFile, PatchIndex, RowArray, identifier, require_source
from histoxai.settings import Ingest

_PARTS = ("images", "labels", "masks", *GROUPS)


class NpyFormat(ArrayPatches):
    """Reads `images.npy` (n, H, W, 3) with `labels.npy` (n), `masks.npy` and `groups.npy` (n), or one `.npy` file.

    Source: numpy's format (NEP 1). Folders named train, validation and test, each with such files, become the split.
    Masks are (n, H, W) class numbers or (n, 2, H, W) planes. Nothing is ever unpickled.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Says why `root` looks like NumPy files, or None."""
        if root.is_file():
            return "it is a .npy file" if root.suffix.lower() == ".npy" else None
        folders = [f for f in _folders(root) if (f / "images.npy").is_file()]
        return f"'{printable(folders[0].name)}' holds images.npy" if folders else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_source(root)
        scan = PatchIndex([], None, (0, 0))
        parts = [_single(root)] if root.is_file() else _scan(root, settings, scan)
        super().__init__(root, settings, "npy", parts, [])
        self.index.left_out = scan.left_out + self.index.left_out
        for part in self.parts:
            for array in (part.images, part.labels, part.masks, part.groups):
                if isinstance(array, NpyFile):
                    self.index.files.append((path_in_source(root, array.path), array.bytes))
            if isinstance(part.masks, NpyFile):
                self.index.add_contents(path_in_source(root, part.masks.path), part.masks.path)


def _single(root: Path) -> ArrayGroup:
    require_utf8_name(Path(root.name))
    return ArrayGroup(identifier(root.stem), NpyFile(root), split=split_of(root.stem))


def _scan(root: Path, settings: Ingest, scan: PatchIndex) -> list[ArrayGroup]:
    wanted = {_file(name) for name in (settings.images, settings.labels, settings.masks) if name}
    names = {f"{name}.npy" for name in _PARTS} | wanted
    images = _file(settings.images or "images")
    parts: list[ArrayGroup] = []
    for folder in _folders(root):
        if not (folder / images).is_file():
            continue
        try:
            found: dict[str, RowArray] = {}
            for path in sorted(folder.iterdir()):
                if path.name in names and path.is_file():
                    found[path.stem] = NpyFile(path)
            chosen = assign_roles(found, _stems(settings), folder)
            stem = identifier(*folder.relative_to(root).parts, chosen[0][1]["images"].path.stem)
            parts += array_groups(chosen, stem, split_of(folder.name) if folder != root else 0)
        except InputRefused as error:
            scan.leave_out(path_in_source(root, folder / images), error, settings)
    if not parts and not scan.left_out:
        raise InputRefused(f"{root}: has no {images}; name the file with --images")
    return parts


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [root, *sorted(p for p in root.iterdir() if p.name.lower() in SPLITS and p.is_dir())]


def _file(name: str) -> str:
    return name if name.endswith(".npy") else f"{name}.npy"


def _stems(settings: Ingest) -> Ingest:
    cut = {k: v.removesuffix(".npy") for k in ("images", "labels", "masks") if (v := getattr(settings, k))}
    return replace(settings, **cut)
