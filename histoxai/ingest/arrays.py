"""Arrays of images, labels and masks as patches, for the formats `npy`, `hdf5` and `zarr`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.ingest.array_checks import as_uint8, require_full_range, require_images
from histoxai.ingest.array_roles import ArrayGroup
from histoxai.ingest.chunk_checks import missing_chunks_note, require_all_chunks, require_plausible_size
from histoxai.ingest.formats.base import PatchIndex, identifier, require_only_settings, require_unique_ids
from histoxai.ingest.labels import LEFT_OUT, NO_CLASS, encode_labels, is_missing, read_labels
from histoxai.ingest.npy_files import RowArray
from histoxai.ingest.targets import MASK_SETTINGS, TargetPlanes
from histoxai.settings import Ingest

_RUN = 256  # rows that are read at once where only some of them are needed
_PROBED, _PROBED_AT_ONCE = 4096, 64  # rows of masks that are looked at for the first object
_NO_GROUPS = (
    "no scans or patients are named: every patch counts as a group of its own, so a split by group cannot "
    "keep patches of one scan together"
)


class ArrayPatches:
    """Rows of one or more groups of arrays as patches: classes from labels, target planes from masks.

    index: an index without patches, which may have notes and left-out files already. It is filled in here.
    """

    def __init__(self, root: Path, settings: Ingest, name: str, groups: list[ArrayGroup], index: PatchIndex) -> None:
        require_only_settings(root, settings, name, "labels", *MASK_SETTINGS)
        self._targets = TargetPlanes(root, settings)
        self.index = index
        self.groups: list[ArrayGroup] = []
        labels: list[np.ndarray | None] = []
        for group in groups:
            with index.skipping_bad(group.stem, settings):
                labels.append(self._check(group))
                self.groups.append(group)
        self._number: list[int] = []  # of each patch: which group of arrays it is in
        self._row: list[int] = []  # and its row there
        if self.groups:
            self._set_classes(labels, settings)
            self._note_groups()
        require_unique_ids(root, index)

    def _check(self, group: ArrayGroup) -> np.ndarray | None:
        """Return the labels of a group of arrays; raises InputRefused where its arrays do not go together."""
        images, index = group.images, self.index
        require_images(images)
        for array in (images, group.labels, group.masks):
            if array is not None and array.never_written:
                raise InputRefused(f"{array.path}: has a header but no data; copy it again from the source")
        require_plausible_size(images)
        size = (images.shape[1], images.shape[2])
        index.require_size(images.path, size)
        require_full_range(images)
        for array in group.arrays:
            if array.shape[:1] != images.shape[:1]:
                raise InputRefused(
                    f"{array.path}: has shape {array.shape} but {images.path} holds {images.shape[0]} images; "
                    "they must have the same number of rows"
                )
        if group.masks is not None:
            _require_mask_shape(group.masks, images)
        if self.groups:
            _require_alike(group, self.groups[0])
        if group.labels is not None:
            require_all_chunks(group.labels, "labels")
        if group.groups is not None:
            require_all_chunks(group.groups, "groups")
        labels = None if group.labels is None else read_labels(group.labels)
        index.notes += [note for a in (images, group.masks) if a is not None and (note := missing_chunks_note(a))]
        index.set_size(images.path, size)
        return labels

    def _set_classes(self, labels: list[np.ndarray | None], settings: Ingest) -> None:
        """Fill in classes, targets and patches from the labels of each group of arrays."""
        index = self.index
        paths = [g.labels.path if g.labels else g.images.path for g in self.groups]
        index.classes, codes = encode_labels(labels, paths, settings.classes, settings.metadata is not None)
        self._set_targets(paths[0], settings)
        for number, codes_of_group in enumerate(codes):
            self._add_group(number, codes_of_group)
        if index.classes and (unlabelled := index.label.count(NO_CLASS)):
            index.notes.append(f"{unlabelled} patches have no label: their text is empty, or nan, None or NA")

    def _set_targets(self, path: Path, settings: Ingest) -> None:
        index = self.index
        masks = [g.masks for g in self.groups if g.masks is not None]
        meanings_given = any(
            getattr(settings, name) for name in ("tumor", "non_tumor", "class_map", "mask_threshold", "ignore_value")
        )
        index.has_targets = bool(masks)
        if not masks and meanings_given:
            raise InputRefused(f"{path}: no masks to go with --tumor, --non-tumor or --class-map; name --masks")
        if planes := [m.path for m in masks if _are_planes(m)]:
            if meanings_given:
                raise InputRefused(
                    f"{planes[0]}: holds planes already, tumor and non-tumor; leave out --tumor, --non-tumor and "
                    "--class-map"
                )
            index.facts = {"tumor": ["first plane"], "non_tumor": ["second plane"]}
            index.notes.append("masks: planes of the source; tumor: the first; non-tumor: the second")
            _require_background(masks)
        elif masks:
            index.facts = self._targets.facts
            index.notes.append(self._targets.note)
            if not settings.skip_bad:
                self._targets.probe(_first_rows(masks))

    def _add_group(self, number: int, codes: np.ndarray | None) -> None:
        """Add the patches of a group of arrays; `codes`: class of each row, or LEFT_OUT."""
        group = self.groups[number]
        rows = np.arange(group.images.shape[0]) if codes is None else np.flatnonzero(codes != LEFT_OUT)
        ids = [f"{group.stem}#{i}" for i in rows]
        names = _group_names(group, ids, rows)
        if group.groups is not None and (alone := sum(map(str.__eq__, names, ids))):
            self.index.note_groups(f"{alone} patches name no group ('', nan, None or NA): each is a group of its own")
        self.index.add_patches(ids, names, NO_CLASS if codes is None else codes[rows].tolist(), group.split)
        self._number += [number] * len(rows)
        self._row += rows.tolist()

    def _note_groups(self) -> None:
        unnamed = [g for g in self.groups if g.groups is None]
        files = sorted({g.group for g in unnamed if g.group and g.is_file})
        folders = sorted({g.group for g in unnamed if g.group and not g.is_file})
        if files:
            self.index.note_groups(f"group: the file ('{files[0]}', say); {len(files)} groups")
        if folders:
            self.index.note_groups(
                f"{len(folders)} groups are named after the folders that hold images ({folders[0]}, say)"
            )
        if unnamed and len(unnamed) == len(self.groups) and not files and not folders:
            self.index.note_groups(_NO_GROUPS)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return images (n, H, W, 3) uint8 and targets (n, 2, H, W) uint8 in {0, 1}, or None without masks."""
        images, targets = [], []
        while start < stop:
            number, end = self._number[start], start
            while end < stop and self._number[end] == number:
                end += 1
            group, rows = self.groups[number], np.array(self._row[start:end])
            images.append(as_uint8(_read_rows(group.images, rows), group.images.path))
            if group.masks is not None:
                targets.append(self._planes(_read_rows(group.masks, rows), group.masks.path))
            start = end
        return np.concatenate(images), np.concatenate(targets) if targets else None

    def _planes(self, values: np.ndarray, path: Path) -> np.ndarray:
        h, w = self.index.size
        if values.shape[1:] == (2, h, w):
            return _as_planes(values, path)
        return self._targets.planes(values.reshape(-1, h, w), path)


def _first_rows(masks: list[RowArray]) -> Iterator[tuple[np.ndarray, Path]]:
    for array in masks:
        for start in range(0, min(array.shape[0], _PROBED), _PROBED_AT_ONCE):
            yield _read_rows(array, np.arange(start, min(start + _PROBED_AT_ONCE, array.shape[0]))), array.path


def _require_background(planes: list[RowArray]) -> None:
    """Raise InputRefused where each pixel of the first patches lies in one of two planes: (background, tumor), say.

    Rows that cannot be read are refused later, when they are needed.
    """
    try:
        is_full = all(((values[:, 0] != 0) ^ (values[:, 1] != 0)).all() for values, _ in _first_rows(planes))
    except InputRefused:
        return
    if is_full:
        raise InputRefused(
            f"{planes[0].path}: the two planes fill every pixel, as (background, tumor) of one-hot masks do; expected "
            "(tumor, non-tumor) with 0 in both for background. If the second is tumor, save masks[:, 1] (class "
            "numbers); if there is no background, save numpy.where(masks[:, 0], 1, 2) and name the numbers: "
            "--class-map 1=tumor,2=non-tumor"
        )


def _require_alike(group: ArrayGroup, first: ArrayGroup) -> None:
    """Raise InputRefused unless two groups of arrays both have labels and masks, and masks of one kind."""
    for role in ("labels", "masks"):
        if (getattr(first, role) is None) != (getattr(group, role) is None):
            raise InputRefused(
                f"{group.images.path}: all parts must have {role}, or none (as {first.images.path}); add them, or "
                f"name them with --{role}"
            )
    if group.masks and first.masks and _are_planes(first.masks) != _are_planes(group.masks):
        raise InputRefused(
            f"{group.masks.path}: has shape {group.masks.shape} and {first.masks.path} {first.masks.shape}; all "
            "masks must be class numbers, or all planes"
        )


def _require_mask_shape(masks: RowArray, images: RowArray) -> None:
    n, h, w = images.shape[:3]
    shapes = [(n, h, w), (n, h, w, 1), (n, 1, h, w), (n, 2, h, w)]
    if masks.shape not in shapes:
        hint = "; for PanNuke name the folder that holds the folds" if masks.shape == (n, h, w, 6) else ""
        raise InputRefused(
            f"{masks.path}: has shape {masks.shape}; expected {shapes[0]} class numbers or {shapes[3]} planes "
            f"(tumor, non-tumor) to go with {images.path}{hint}"
        )
    if masks.dtype.kind not in "buif":
        raise InputRefused(f"{masks.path}: has dtype {masks.dtype}; expected class numbers")


def _group_names(group: ArrayGroup, ids: list[str], rows: np.ndarray) -> list[str]:
    """Return the group of each of these rows; its own id where nothing names one, or its name is missing."""
    if group.groups is None:
        return ids if group.group is None else [group.group] * len(ids)
    names = read_labels(group.groups, "groups").astype(str)[rows].tolist()
    return [patch if is_missing(name) else identifier(name) for patch, name in zip(ids, names, strict=True)]


def _are_planes(masks: RowArray) -> bool:
    return len(masks.shape) == 4 and masks.shape[1] == 2 and masks.shape[3] > 1


def _as_planes(values: np.ndarray, path: Path) -> np.ndarray:
    # Anything but 0 and 1, or 0 and 255, is no plane: probabilities, class numbers, NaN.
    off = values == 0
    for full in (1, 255):
        on = values == full
        if (on | off).all():
            return on.astype(np.uint8)
    other = values[~(off | (values == 1))][0]
    raise InputRefused(
        f"{path}: planes hold 0 and 1, or 0 and 255, but here is {other}; save (planes > 0.5), say, as uint8"
    )


def _read_rows(array: RowArray, rows: np.ndarray) -> np.ndarray:
    """Read some rows (ascending) of an array, in whole runs: most files are compressed in blocks of rows."""
    pieces, i = [], 0
    while i < len(rows):
        j = int(np.searchsorted(rows, rows[i] + _RUN))
        try:
            block = array.read(int(rows[i]), int(rows[j - 1]) + 1)
        except MemoryError as error:
            raise InputRefused(f"{array.path}: rows are too large to read; is the file damaged?") from error
        pieces.append(block[rows[i:j] - rows[i]])
        i = j
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
