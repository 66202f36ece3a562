"""PanNuke: three folds of images and six-channel instance masks (Gamper et al. 2020)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.base import (
    ConcatenatedRows,
    NpyFile,
    PatchIndex,
    as_uint8,
    identifier,
    require_folder,
    require_images,
    require_only_settings,
    require_same_size,
    require_unique_ids,
)
from histoxai.ingest.labels import read_labels
from histoxai.settings import Ingest

TYPES = ("neoplastic", "inflammatory", "connective", "dead", "epithelial", "background")  # channels of masks.npy
MPP_40X = 0.25
_FOLD = re.compile(r"fold[ _-]?(\d+)", re.IGNORECASE)
_SPLIT = {1: 1, 2: 1, 3: 2}  # folds 1 and 2 train, fold 3 validates


class Fold(NamedTuple):
    """Files of one fold."""

    images: Path
    masks: Path
    types: Path | None


class PanNukeFormat:
    """Reads PanNuke folds; both spellings (`Fold 1/images/fold1/images.npy` and `fold1/images.npy`).

    Source: arXiv 2003.10778. Targets are two planes, tumor and non-tumor nuclei, each the union of the
    nucleus types that the settings name. `types.npy`, the organ of each patch, is kept as `tissue`. Group is the
    fold, since no patient is known; mpp is 0.25 unless given.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Says why `root` looks like PanNuke, or None."""
        folds = [p for p in root.iterdir() if _FOLD.fullmatch(p.name) and p.is_dir()] if root.is_dir() else []
        held = any(next(p.rglob("images.npy"), None) for p in folds)  # folds of other data have other files
        return "it has folds with images.npy and masks.npy" if held else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        require_only_settings(root, settings, "pannuke", "tumor", "non_tumor")
        if settings.classes:
            raise InputRefused(f"{root}: PanNuke patches have no classes; leave out --classes")
        tumor, non_tumor = settings.tumor or ("neoplastic",), settings.non_tumor or ("connective",)
        self._channels = [_channels(tumor, "--tumor"), _channels(non_tumor, "--non-tumor")]
        folds = _folds(root)
        if not folds:
            raise InputRefused(f"{root}: has no fold with images.npy and masks.npy (`fold1/images.npy`)")
        self.index = PatchIndex([], settings.mpp or MPP_40X, (0, 0), has_targets=True)
        self.index.facts = {"tumor": list(tumor), "non_tumor": list(non_tumor)}
        images: list[NpyFile] = []
        masks: list[NpyFile] = []
        tissue: list[str] = []
        for fold, files in sorted(folds.items()):
            try:
                image = self._images(root, files.images, images[0].path if images else None)
                mask = self._masks(files.masks, image)
                names = _tissue(files.types, image)
            except InputRefused as error:
                self.index.leave_out(f"fold{fold}", error, settings)
                continue
            images, masks, tissue = [*images, image], [*masks, mask], tissue + names
            self._list(fold, image)
            self.index.size = (image.shape[1], image.shape[2])
            for path in (p for p in files if p is not None):
                self.index.files.append((path.relative_to(root).as_posix(), path.stat().st_size))
            self.index.add_contents(files.masks.relative_to(root).as_posix(), files.masks)
        require_unique_ids(root, self.index)
        if any(tissue):
            self.index.extra["tissue"] = tissue
        self._images_rows, self._mask_rows = ConcatenatedRows(images), ConcatenatedRows(masks)

    def _images(self, root: Path, path: Path, first: Path | None) -> NpyFile:
        file = NpyFile(path)
        require_images(file)
        size = (file.shape[1], file.shape[2])
        require_same_size(path, size, self.index.size if first else None, first)
        return file

    def _masks(self, path: Path, images: NpyFile) -> NpyFile:
        file = NpyFile(path)
        expected = (*images.shape[:3], 6)
        if file.shape != expected:
            raise InputRefused(f"{path}: has shape {file.shape}; expected {expected} to go with {images.path}")
        if file.dtype.kind not in "uif":
            raise InputRefused(f"{path}: has dtype {file.dtype}; expected instance numbers")
        return file

    def _list(self, fold: int, file: NpyFile) -> None:
        index, n, group = self.index, file.shape[0], f"fold{fold}"
        index.label += [-1] * n
        index.group += [group] * n
        index.patch_id += [identifier(group, f"{file.path.stem}#{i}") for i in range(n)]
        index.split += [_SPLIT.get(fold, 0)] * n

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """images (n, H, W, 3) uint8, targets (n, 2, H, W) uint8 in {0, 1}."""
        images = self._images_rows.read(start, stop, as_uint8)
        masks = self._mask_rows.read(start, stop)
        planes = [(masks[..., channels] > 0).any(axis=-1) for channels in self._channels]
        return images, np.stack(planes, axis=1).astype(np.uint8)


def _channels(names: tuple[str, ...], flag: str) -> list[int]:
    if unknown := [n for n in names if n not in TYPES]:
        raise InputRefused(f"{flag}: PanNuke has no nucleus type '{unknown[0]}'; it has {', '.join(TYPES)}")
    return [TYPES.index(n) for n in names]


def _tissue(path: Path | None, images: NpyFile) -> list[str]:
    """The organ of each patch, or empty text where a fold has no types.npy."""
    n = images.shape[0]
    if path is None:
        return [""] * n
    file = NpyFile(path)
    if file.shape != (n,):
        raise InputRefused(f"{path}: has shape {file.shape}; expected ({n},) to go with {images.path}")
    if file.dtype.kind not in "US":
        raise InputRefused(f"{path}: has dtype {file.dtype}; expected names of organs: save astype(str) of them")
    return read_labels(file).tolist()


def _folds(root: Path) -> dict[int, Fold]:
    folds: dict[int, Fold] = {}
    for folder in sorted(root.iterdir()):
        match = _FOLD.fullmatch(folder.name)
        if match and folder.is_dir():
            images, masks, types = (sorted(folder.rglob(f"{kind}.npy")) for kind in ("images", "masks", "types"))
            if len(images) != 1 or len(masks) != 1 or len(types) > 1:
                raise InputRefused(
                    f"{folder}: has {len(images)} images.npy and {len(masks)} masks.npy; expected one of each"
                    + (f", and one types.npy instead of {len(types)}" if len(types) > 1 else "")
                )
            if int(match[1]) in folds:
                raise InputRefused(f"{folder}: is a second fold {int(match[1])}; keep one of them")
            folds[int(match[1])] = Fold(images[0], masks[0], types[0] if types else None)
    return folds
