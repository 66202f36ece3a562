"""PanNuke: three folds of images and six-channel instance masks (Gamper et al. 2020)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.ingest.array_checks import as_uint8, require_full_range, require_images
from histoxai.ingest.formats.base import (
    PatchIndex,
    identifier,
    require_folder,
    require_only_settings,
    require_unique_ids,
)
from histoxai.ingest.labels import read_labels
from histoxai.ingest.npy_files import ConcatenatedRows, NpyFile
from histoxai.settings import Ingest

TYPES = ("neoplastic", "inflammatory", "connective", "dead", "epithelial", "background")  # channels of masks.npy
MPP_40X = 0.25
_PROBED = 16  # patches of a fold whose channels are looked at
_FULL, _MOST = 0.99, 0.5  # share of pixels that nuclei cannot fill, and where background must be what they leave
_FOLD = re.compile(r"fold[ _-]?(\d+)", re.IGNORECASE)
_SPLIT = {1: 1, 2: 1, 3: 2}  # folds 1 and 2 are train, fold 3 is validation


class FoldFiles(NamedTuple):
    """Files of one fold."""

    images: Path
    masks: Path
    types: Path | None


class PanNukeFormat:
    """PanNuke's folds, in both spellings (`Fold 1/images/fold1/images.npy` and `fold1/images.npy`).

    Source: arXiv 2003.10778. Targets are two planes, tumor and non-tumor nuclei, each the union of the nucleus types
    that the settings name. `types.npy`, the organ of each patch, becomes the column `tissue`. The group is the fold,
    since no patient is known. mpp is 0.25 unless it is given.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Return why `root` looks like PanNuke, or None."""
        folds = [p for p in root.iterdir() if _FOLD.fullmatch(p.name) and p.is_dir()] if root.is_dir() else []
        has_images = any(next(p.rglob("images.npy"), None) for p in folds)  # folds of other data have other files
        return "it has folds with images.npy and masks.npy" if has_images else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        require_only_settings(root, settings, "pannuke", "tumor", "non_tumor")
        if settings.classes:
            raise InputRefused(f"{root}: PanNuke patches have no classes; leave out --classes")
        tumor, non_tumor = settings.tumor or ("neoplastic",), settings.non_tumor or ("connective",)
        self._channels = [_channels(tumor, "--tumor"), _channels(non_tumor, "--non-tumor")]
        folds = _fold_files(root)
        if not folds:
            raise InputRefused(f"{root}: has no fold with images.npy and masks.npy (`fold1/images.npy`)")
        self.index = PatchIndex([], settings.mpp or MPP_40X, (0, 0), has_targets=True)
        self.index.facts = {"tumor": list(tumor), "non_tumor": list(non_tumor)}
        self._images: list[NpyFile] = []
        self._masks: list[NpyFile] = []
        tissue: list[str] = []
        for fold, files in sorted(folds.items()):
            with self.index.skipping_bad(f"fold{fold}", settings):
                tissue += self._add_fold(root, fold, files)
        require_unique_ids(root, self.index)
        if any(tissue):
            self.index.extra["tissue"] = tissue
        self._image_rows, self._mask_rows = ConcatenatedRows(self._images), ConcatenatedRows(self._masks)

    def _add_fold(self, root: Path, fold: int, files: FoldFiles) -> list[str]:
        """Add the patches of a fold to the index; return the organ of each."""
        index = self.index
        images = NpyFile(files.images)
        require_images(images)
        size = (images.shape[1], images.shape[2])
        index.require_size(files.images, size)
        require_full_range(images)
        masks = _read_masks(files.masks, images)
        tissue = _read_tissue(files.types, images)
        index.set_size(files.images, size)
        group = f"fold{fold}"
        ids = [identifier(group, f"{files.images.stem}#{i}") for i in range(images.shape[0])]
        index.add_patches(ids, group, split=_SPLIT.get(fold, 0))
        for path in (p for p in files if p is not None):
            index.add_file(path.relative_to(root).as_posix(), path)
        index.add_contents(files.masks.relative_to(root).as_posix(), files.masks)
        self._images.append(images)
        self._masks.append(masks)
        return tissue

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return images (n, H, W, 3) uint8 and targets (n, 2, H, W) uint8 in {0, 1}."""
        images = self._image_rows.read(start, stop, as_uint8)
        masks = self._mask_rows.read(start, stop)
        planes = [(masks[..., channels] > 0).any(axis=-1) for channels in self._channels]
        return images, np.stack(planes, axis=1).astype(np.uint8)


def _channels(names: tuple[str, ...], flag: str) -> list[int]:
    if unknown := [n for n in names if n not in TYPES]:
        raise InputRefused(f"{flag}: PanNuke has no nucleus type '{unknown[0]}'; it has {', '.join(TYPES)}")
    return [TYPES.index(n) for n in names]


def _read_masks(path: Path, images: NpyFile) -> NpyFile:
    file = NpyFile(path)
    expected = (*images.shape[:3], 6)
    if file.shape != expected:
        raise InputRefused(f"{path}: has shape {file.shape}; expected {expected} to go with {images.path}")
    if file.dtype.kind not in "uif":
        raise InputRefused(f"{path}: has dtype {file.dtype}; expected instance numbers")
    _require_background_last(file)
    return file


def _require_background_last(file: NpyFile) -> None:
    """Raise InputRefused where the last channel of the first patches is not the background of the others."""
    masks = file.read(0, min(_PROBED, file.shape[0])) > 0
    nuclei = masks[..., :-1].any(axis=-1)
    if masks.any() and (nuclei.mean() >= _FULL or (masks[..., -1] != nuclei).mean() < _MOST):
        shares = masks.mean(axis=(0, 1, 2))
        raise InputRefused(
            f"{file.path}: channel 5 must be the background, 1 where channels 0 to 4 are 0, but channel "
            f"{int(shares.argmax())} covers the most, {shares.max():.0%} of the pixels; save the channels in the order "
            f"{', '.join(TYPES)}"
        )


def _read_tissue(path: Path | None, images: NpyFile) -> list[str]:
    """Return the organ of each patch, or empty text where a fold has no types.npy."""
    n = images.shape[0]
    if path is None:
        return [""] * n
    file = NpyFile(path)
    if file.shape != (n,):
        raise InputRefused(f"{path}: has shape {file.shape}; expected ({n},) to go with {images.path}")
    if file.dtype.kind not in "US":
        raise InputRefused(f"{path}: has dtype {file.dtype}; expected names of organs: save astype(str) of them")
    return read_labels(file).tolist()


def _fold_files(root: Path) -> dict[int, FoldFiles]:
    folds: dict[int, FoldFiles] = {}
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
            folds[int(match[1])] = FoldFiles(images[0], masks[0], types[0] if types else None)
    return folds
