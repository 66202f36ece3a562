"""Arrays of images, labels and masks as patches: what `npy`, `hdf5` and `zarr` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import printable
from histoxai.ingest.chunk_checks import missing_chunks_note, require_all_chunks, require_plausible_size
from histoxai.ingest.formats.base import (
    PatchIndex,
    RowArray,
    as_uint8,
    identifier,
    require_images,
    require_only_settings,
    require_same_size,
    require_unique_ids,
)
from histoxai.ingest.labels import encode_labels, read_labels
from histoxai.ingest.targets import TargetPlanes
from histoxai.settings import Ingest

SPLITS = {"train": 1, "training": 1, "val": 2, "valid": 2, "validation": 2, "test": 3, "testing": 3}
IMAGES = ("images", "image", "x", "imgs", "img", "data")
LABELS = ("labels", "label", "y", "targets", "target", "classes")
MASKS = ("masks", "mask", "segmentation")
GROUPS = ("groups", "group", "patient", "patients", "slide", "scan", "wsi")
_PIECE = 256  # rows read at once where only some are wanted


@dataclass
class ArrayGroup:
    """Arrays that belong together, row by row.

    stem: of their ids. split: 0 none, 1 train, 2 validation, 3 test. group: of all rows, where `groups` is None.
    """

    stem: str
    images: RowArray
    labels: RowArray | None = None
    masks: RowArray | None = None
    groups: RowArray | None = None
    split: int = 0
    group: str | None = None


def assign_roles(found: Mapping[str, RowArray], settings: Ingest, where: Path) -> list[tuple[str, dict[str, RowArray]]]:
    """Which of a source's arrays are `images`, `labels`, `masks` and `groups`, as the settings say, else by name.

    Each folder (a group of HDF5 or Zarr) that has images gives one entry, with its path, or "" where there is only one.
    Only arrays of one folder go together: those of two may have as many rows and nothing else in common. Where all
    images are in one folder, an array may lie elsewhere if it is the only one of its name. Raises InputRefused where
    images or their partners cannot be told, or a name in the settings is not there.
    """
    pictures = _pictures(found, settings, where)
    alone = len(pictures) == 1
    chosen = [("" if alone else _folder(k), _beside(found, k, settings, where, alone)) for k in pictures]
    if not alone:
        _require_no_stray(found, chosen, where)
    return chosen


def _pictures(found: Mapping[str, RowArray], settings: Ingest, where: Path) -> list[str]:
    # names of the images, one a folder
    if (wanted := settings.images) is not None:
        if not (names := [wanted] if wanted in found else [k for k in found if _last(k) == wanted]):
            raise _missing("images", wanted, found, where)
        return names
    best: dict[str, str] = {}
    for word in IMAGES:
        for name, a in found.items():
            if _last(name).lower() == word and len(a.shape) == 4 and a.shape[-1] == 3:
                best.setdefault(_folder(name), name)
    likely = list(best.values()) or [k for k, a in found.items() if len(a.shape) == 4 and a.dtype.kind in "uif"]
    if not best and len(likely) != 1:
        raise InputRefused(
            f"{where}: cannot tell which array holds the images; name it with --images: {_listing(found)}"
        )
    return sorted(likely)


def _beside(
    found: Mapping[str, RowArray], images: str, settings: Ingest, where: Path, alone: bool
) -> dict[str, RowArray]:
    chosen, folder = {"images": found[images]}, _folder(images)
    n = found[images].shape[0] if found[images].shape else 0
    for role, (known, fits) in _ROLES.items():
        wanted = getattr(settings, role, None)
        if wanted is not None:
            places = [*([wanted] if alone else []), f"{folder}/{wanted}" if folder else wanted]
            if not (names := [k for k in places if k in found]):
                raise _missing(role, wanted, found, where)
            chosen[role] = found[names[0]]
            continue
        fitting = [k for k, a in found.items() if k != images and fits(a) and (role != "groups" or a.shape == (n,))]
        near = [k for k in fitting if _folder(k) == folder]
        name = _named(near, known, role, where) or (_named(fitting, known, role, where) if alone else None)
        if name is not None:
            chosen[role] = found[name]
    return chosen


def _named(names: list[str], known: tuple[str, ...], role: str, where: Path) -> str | None:
    for word in known:
        hits = [k for k in names if _last(k).lower() == word]
        if len(hits) > 1:
            raise InputRefused(
                f"{where}: cannot tell which of {', '.join(hits)} holds the {role}; keep it beside the images"
                + ("" if role == "groups" else f", or name it with --{role}")
            )
        if hits:
            return hits[0]
    return None


def _require_no_stray(
    found: Mapping[str, RowArray], chosen: list[tuple[str, dict[str, RowArray]]], where: Path
) -> None:
    folders = [folder for folder, _ in chosen]
    for role, (known, fits) in _ROLES.items():
        if any(role in arrays for _, arrays in chosen):
            continue
        for name, array in found.items():
            if _last(name).lower() in known and fits(array) and _folder(name) not in folders:
                raise InputRefused(
                    f"{where}: '{name}' lies beside no images, which are in {', '.join(f or '/' for f in folders)}; "
                    f"keep {role} beside the images that they belong to, or name one array with --images"
                )


def _missing(role: str, wanted: str, found: Mapping[str, RowArray], where: Path) -> InputRefused:
    return InputRefused(f"{where}: has no array '{wanted}' for --{role}; it has: {_listing(found)}")


def _listing(found: Mapping[str, RowArray]) -> str:
    return ", ".join(f"{n} {a.shape} {a.dtype}" for n, a in found.items()) or "none"


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


# Array's role: names, and what such an array has to be.
_ROLES: dict[str, tuple[tuple[str, ...], Callable[[RowArray], bool]]] = {
    "labels": (LABELS, lambda a: len(a.shape) >= 1 and a.dtype.kind in "biufUSOT"),
    "masks": (MASKS, lambda a: len(a.shape) >= 3),
    "groups": (GROUPS, lambda a: len(a.shape) == 1),
}


class ArrayPatches:
    """Rows of one or more parts as patches; classes from labels, target planes from masks."""

    def __init__(self, root: Path, settings: Ingest, name: str, parts: list[ArrayGroup], notes: list[str]) -> None:
        require_only_settings(root, settings, name, "class_map", "images", "masks", "labels", "tumor", "non_tumor")
        self._targets = TargetPlanes(root, settings)
        self.index = PatchIndex([], settings.mpp, (0, 0), notes=notes)
        self.parts: list[ArrayGroup] = []
        labels: list[np.ndarray | None] = []
        for part in parts:
            try:
                labels.append(self._check(part))
                self.parts.append(part)
            except InputRefused as error:
                self.index.leave_out(part.stem, error, settings)
        self._list(labels, settings)
        require_unique_ids(root, self.index)

    def _check(self, part: ArrayGroup) -> np.ndarray | None:
        first = self.parts[0] if self.parts else None
        require_images(part.images)
        for array in (part.images, part.labels, part.masks):
            if getattr(array, "never_written", False):
                raise InputRefused(f"{array and array.path}: has a header but no data; copy it again from the source")
        require_plausible_size(part.images)
        size = (part.images.shape[1], part.images.shape[2])
        require_same_size(
            part.images.path, size, self.index.size if first else None, first.images.path if first else None
        )
        n = part.images.shape[0]
        for other in (part.labels, part.masks, part.groups):
            if other is not None and (other.shape[:1] != (n,)):
                raise InputRefused(
                    f"{other.path}: has shape {other.shape} but {part.images.path} holds {n} images; "
                    "they must have the same number of rows"
                )
        for what in ("labels", "masks"):
            if first and (getattr(first, what) is None) != (getattr(part, what) is None):
                raise InputRefused(
                    f"{part.images.path}: all parts must have {what}, or none (as {first.images.path}); add them, or "
                    f"name them with --{what}"
                )
        if part.masks is not None:
            _require_mask(part.masks, part.images)
            if first and first.masks and _are_planes(first.masks) != _are_planes(part.masks):
                raise InputRefused(
                    f"{part.masks.path}: has shape {part.masks.shape} and {first.masks.path} {first.masks.shape}; all "
                    "masks must be class numbers, or all planes"
                )
        if part.labels is not None:
            require_all_chunks(part.labels, "labels")
        if part.groups is not None:
            require_all_chunks(part.groups, "groups")
        labels = None if part.labels is None else read_labels(part.labels)
        self.index.notes += [
            note for a in (part.images, part.masks) if a is not None and (note := missing_chunks_note(a))
        ]
        self.index.size = size
        return labels

    def _list(self, labels: list[np.ndarray | None], settings: Ingest) -> None:
        index = self.index
        paths = [p.labels.path if p.labels else p.images.path for p in self.parts]
        if not paths:
            return
        index.classes, coded = encode_labels(labels, paths, settings.classes, settings.metadata is not None)
        index.has_targets = any(p.masks is not None for p in self.parts)
        if not index.has_targets and (settings.tumor or settings.non_tumor or settings.class_map):
            raise InputRefused(f"{paths[0]}: no masks to go with --tumor, --non-tumor or --class-map; name --masks")
        if planes := [p.masks.path for p in self.parts if p.masks is not None and _are_planes(p.masks)]:
            if settings.tumor or settings.non_tumor or settings.class_map:
                raise InputRefused(
                    f"{planes[0]}: holds planes already, tumor and non-tumor; leave out --tumor, --non-tumor and "
                    "--class-map"
                )
            index.facts = {"tumor": ["first plane"], "non_tumor": ["second plane"]}
            index.notes.append("masks: planes of the source; tumor: the first; non-tumor: the second")
        elif index.has_targets:
            index.facts = self._targets.facts
            index.notes.append(self._targets.note)
        self._part: list[int] = []
        self._row: list[int] = []
        for number, (part, codes) in enumerate(zip(self.parts, coded, strict=True)):
            n = part.images.shape[0]
            rows = np.arange(n) if codes is None else np.flatnonzero(codes >= -1)
            ids = [f"{part.stem}#{i}" for i in rows]
            index.label += [-1] * n if codes is None else codes[rows].tolist()
            index.patch_id += ids
            index.group += _names(part, ids, rows)
            index.split += [part.split] * len(rows)
            self._part += [number] * len(rows)
            self._row += rows.tolist()
        if index.classes and (none := index.label.count(-1)):
            index.notes.append(f"{none} patches have no label: their text is empty")
        if named := sorted({p.group for p in self.parts if p.groups is None and p.group}):
            index.notes.append(f"{len(named)} groups are named after the folders that hold images ({named[0]}, say)")
        elif all(p.groups is None for p in self.parts):
            index.notes.append(
                "no scans or patients are named: every patch counts as a group of its own, so a split by group cannot "
                "keep patches of one scan together"
            )

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """images (n, H, W, 3) uint8 and, where the source has masks, targets (n, 2, H, W) uint8 in {0, 1}."""
        images, targets = [], []
        while start < stop:
            number, end = self._part[start], start
            while end < stop and self._part[end] == number:
                end += 1
            part, rows = self.parts[number], np.array(self._row[start:end])
            images.append(as_uint8(_gather(part.images, rows), part.images.path))
            if part.masks is not None:
                targets.append(self._planes(_gather(part.masks, rows), part.masks.path))
            start = end
        return np.concatenate(images), np.concatenate(targets) if targets else None

    def _planes(self, values: np.ndarray, path: Path) -> np.ndarray:
        h, w = self.index.size
        if values.shape[1:] == (2, h, w):
            return _as_planes(values, path)
        return self._targets.planes(values.reshape(-1, h, w), path)


def _names(part: ArrayGroup, ids: list[str], rows: np.ndarray) -> list[str]:
    # the group of each of these rows
    if part.groups is None:
        return ids if part.group is None else [part.group] * len(ids)
    return [identifier(g) for g in read_labels(part.groups, "groups").astype(str)[rows].tolist()]


def _are_planes(masks: RowArray) -> bool:
    return len(masks.shape) == 4 and masks.shape[1] == 2 and masks.shape[3] > 1


def _as_planes(values: np.ndarray, path: Path) -> np.ndarray:
    # what is neither 0 nor 1 (or 255) was no plane: probabilities, class numbers, NaN
    off = values == 0
    for full in (1, 255):
        on = values == full
        if (on | off).all():
            return on.astype(np.uint8)
    odd = values[~(off | (values == 1))][0]
    raise InputRefused(
        f"{path}: planes hold 0 and 1, or 0 and 255, but here is {odd}; save (planes > 0.5), say, as uint8"
    )


def _require_mask(masks: RowArray, images: RowArray) -> None:
    n, h, w = images.shape[:3]
    fitting = [(n, h, w), (n, h, w, 1), (n, 1, h, w), (n, 2, h, w)]
    if masks.shape not in fitting:
        hint = "; for PanNuke name the folder that holds the folds" if masks.shape == (n, h, w, 6) else ""
        raise InputRefused(
            f"{masks.path}: has shape {masks.shape}; expected {fitting[0]} class numbers or {fitting[3]} planes "
            f"(tumor, non-tumor) to go with {images.path}{hint}"
        )
    if masks.dtype.kind not in "buif":
        raise InputRefused(f"{masks.path}: has dtype {masks.dtype}; expected class numbers")


def _gather(array: RowArray, rows: np.ndarray) -> np.ndarray:
    """Chosen rows (ascending) of an array; spans are read whole, since most files are compressed in blocks of rows."""
    pieces, i = [], 0
    while i < len(rows):
        j = int(np.searchsorted(rows, rows[i] + _PIECE))
        try:
            block = array.read(int(rows[i]), int(rows[j - 1]) + 1)
        except MemoryError as error:
            raise InputRefused(f"{array.path}: rows are too large to read; is the file damaged?") from error
        pieces.append(block[rows[i:j] - rows[i]])
        i = j
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def split_of(name: str) -> int:
    """Split that a file's or folder's name tells (`train`, `camelyonpatch_level_2_split_valid_x`), or 0."""
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    return next((SPLITS[word] for word in words if word in SPLITS), 0)


def path_in_source(root: Path, path: Path) -> str:
    """A path below the source's root, or its name where it is the source; as lists have it."""
    return printable(path.name if path == root else path.relative_to(root).as_posix())


def array_groups(chosen: list[tuple[str, dict[str, RowArray]]], stem: str, split: int) -> list[ArrayGroup]:
    """Parts from what `choose` found; each of several folders is a group, and names its split unless `split` does."""
    parts = []
    for folder, found in chosen:
        arrays: dict[str, Any] = found
        words = [w for w in folder.split("/") if w]
        own = next((c for w in words if (c := split_of(w))), 0)
        scan = [w for w in words if w.lower() not in SPLITS]
        group = identifier(stem, *scan) if len(chosen) > 1 and scan else None
        parts.append(ArrayGroup(stem=identifier(stem, *words), split=split or own, group=group, **arrays))
    return parts
