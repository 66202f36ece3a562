"""HDF5: PatchCamelyon's pairs of files, and files that hold images and labels together."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.resources import bounded_memory
from histoxai.core.safe_text import printable
from histoxai.ingest.arrays import (
    IMAGES,
    LABELS,
    MASKS,
    SPLITS,
    ArrayGroup,
    ArrayPatches,
    array_groups,
    assign_roles,
    path_in_source,
    split_of,
)
from histoxai.ingest.chunk_checks import ChunkCounts
from histoxai.ingest.file_listing import list_files, require_utf8_name
from histoxai.ingest.formats.base import PatchIndex, RowArray, identifier, require_source
from histoxai.settings import Ingest

SUFFIXES = {".h5", ".hdf5", ".hdf"}
_PACKED = tuple(f"{suffix}.gz" for suffix in SUFFIXES)  # as PatchCamelyon is downloaded
_ROLES = {"_x": "images", "_y": "labels", "_mask": "masks", "_masks": "masks"}
_BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError)


class H5Array:
    """Rows of one dataset; the file is open only while they are read, so that worker processes share nothing."""

    def __init__(self, file: Path, dataset: Any) -> None:
        self.file, self.name = file, dataset.name.strip("/")
        self.path = file / self.name  # as messages show it
        self.shape: tuple[int, ...] = tuple(dataset.shape or ())
        self.dtype: np.dtype = dataset.dtype
        self.never_written = not dataset.is_virtual and bool(dataset.size) and not dataset.id.get_storage_size()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop); raises InputRefused where they cannot be read."""
        try:
            with _h5py(self.file).File(self.file, "r") as file:
                dataset = file[self.name]
                numbers = (stop - start) * math.prod(self.shape[1:]) + math.prod(dataset.chunks or ())
                with bounded_memory(self.dtype.itemsize * numbers):
                    return np.asarray(dataset[start:stop])
        except MemoryError as error:
            raise InputRefused(f"{self.path}: a chunk unpacks to far more than it should; is it harmful?") from error
        except _BROKEN as error:
            raise InputRefused(f"{self.path}: cannot be read ({error}); copy it again from the source") from error

    def held(self) -> ChunkCounts | None:
        """Which chunks are there; None for a dataset in one piece."""
        try:
            with _h5py(self.file).File(self.file, "r") as file:
                dataset = file[self.name]
                if dataset.chunks is None or dataset.is_virtual:
                    return None
                total = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
                there = int(dataset.id.get_num_chunks())
                return ChunkCounts(min(there, total), total, int(dataset.id.get_storage_size()), dataset.fillvalue)
        except _BROKEN as error:
            raise InputRefused(f"{self.path}: cannot be read ({error}); copy it again from the source") from error


class Hdf5Format(ArrayPatches):
    """Reads `*_x.h5` with `*_y.h5` and `*_mask.h5` (PatchCamelyon), or one file with images, labels and masks.

    Source: Veeling et al. 2018 (arXiv 1806.03962) for the pairs. `train`, `valid` and `test` in names of files,
    folders or groups become the split. External links and files, and objects other than text, are refused.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Says why `root` looks like HDF5, or None."""
        if root.is_file():
            return "it is an HDF5 file" if root.suffix.lower() in SUFFIXES else None
        places = [root, *(p for p in sorted(root.iterdir()) if p.name.lower() in SPLITS and p.is_dir())]
        ends = (*SUFFIXES, *_PACKED)
        found = next((p for f in places for p in sorted(f.iterdir()) if p.name.lower().endswith(ends)), None)
        return f"'{printable(found.name)}' is an HDF5 file" if found else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_source(root)
        notes: list[str] = []
        files = [root] if root.is_file() else list_files(root, SUFFIXES, notes)
        _require_unpacked(root)
        if not files:
            raise InputRefused(f"{root}: holds no HDF5 file ({', '.join(sorted(SUFFIXES))})")
        _h5py(root)
        scan = PatchIndex([], None, (0, 0))
        parts: list[ArrayGroup] = []
        for group in _together(files):
            try:
                parts += _parts(root, group, settings)
            except InputRefused as error:
                scan.leave_out(path_in_source(root, next(iter(group.values()))), error, settings)
        super().__init__(root, settings, "hdf5", parts, notes)
        self.index.left_out = scan.left_out + self.index.left_out
        used = {
            a.file
            for part in self.parts
            for a in (part.images, part.labels, part.masks, part.groups)
            if isinstance(a, H5Array)
        }
        self.index.files = [(path_in_source(root, f), f.stat().st_size) for f in sorted(used)]


def _require_unpacked(root: Path) -> None:
    for path in list_files(root, {".gz"}, []) if root.is_dir() else []:
        if path.name.lower().endswith(_PACKED) and not path.with_suffix("").exists():
            raise InputRefused(f"{path}: is compressed; unpack it first (`gunzip`)")


def _h5py(path: Path) -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise InputRefused(f"{path}: is HDF5, which needs h5py: pip install 'histoxai[hdf5]'") from error
    module: ModuleType = h5py
    return module


def _together(files: list[Path]) -> list[dict[str, Path]]:
    # what a file holds -> the file; "" where it holds everything
    groups: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in files:
        for ending, role in _ROLES.items():
            if path.stem.endswith(ending):
                groups[path.parent / path.stem.removesuffix(ending)][role] = path
                break
        else:
            groups[path][""] = path
    return [groups[key] for key in sorted(groups)]


def _parts(root: Path, files: dict[str, Path], settings: Ingest) -> list[ArrayGroup]:
    for path in files.values():
        require_utf8_name(path if path == root else path.relative_to(root))
    if "" in files:
        return _one_file(root, files[""], settings)
    first = next(iter(files.values()))
    if len(files) == 1:  # x alone, or a single file that merely ends so
        return _one_file(root, first, settings)
    if "images" not in files:
        raise InputRefused(f"{first}: has no file of images beside it (*_x.h5); copy it, or name the file itself")
    found = {role: _only(path, role, getattr(settings, role)) for role, path in files.items()}
    stem = path_in_source(root, files["images"]).rsplit(".", 1)[0]
    return array_groups([("", found)], identifier(stem), split_of(stem.replace("/", "_")))


def _one_file(root: Path, path: Path, settings: Ingest) -> list[ArrayGroup]:
    stem = path_in_source(root, path).rsplit(".", 1)[0]
    sides: dict[str, dict[str, RowArray]] = defaultdict(dict)
    for name, array in _datasets(path).items():
        first, _, rest = name.partition("/")
        side = first if rest and first.lower() in SPLITS else ""
        sides[side][rest if side else name] = array
    if len(sides) > 1:
        sides.pop("", None)  # facts beside the splits
    parts: list[ArrayGroup] = []
    for side, found in sorted(sides.items()):
        split = split_of(side) or split_of(stem.replace("/", "_"))
        parts += array_groups(assign_roles(found, settings, path), identifier(stem, *([side] if side else [])), split)
    return parts


def _only(path: Path, role: str, wanted: str | None) -> RowArray:
    found = _datasets(path)
    if wanted is not None and wanted not in found:
        raise InputRefused(f"{path}: has no array '{wanted}' for --{role}; it has: {', '.join(found)}")
    if wanted is not None:
        return found[wanted]
    known = {"images": IMAGES, "labels": LABELS, "masks": (*MASKS, "x")}[role]
    named = [a for name, a in found.items() if name.lower() in known]
    chosen = named or list(found.values())
    if len(chosen) != 1:
        raise InputRefused(
            f"{path}: cannot tell which dataset holds the {role} among {', '.join(found)}; name it with --{role}"
        )
    return chosen[0]


def _datasets(path: Path) -> dict[str, RowArray]:
    """All datasets of numbers or text by name; headers only."""
    h5py = _h5py(path)
    found: dict[str, RowArray] = {}
    try:
        with h5py.File(path, "r") as file:
            _require_no_links(path, file, h5py)
            datasets: list[Any] = []
            file.visititems(lambda name, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
            for dataset in datasets:
                _require_inside(path, dataset)
                text = h5py.check_string_dtype(dataset.dtype) is not None
                if dataset.dtype.kind == "O" and not text:
                    if dataset.name.rsplit("/", 1)[-1].lower() in (*IMAGES, *LABELS, *MASKS):
                        raise InputRefused(f"{path}{dataset.name}: holds objects, which are never loaded; save numbers")
                    continue
                found[dataset.name.strip("/")] = H5Array(path, dataset)
    except _BROKEN as error:
        raise InputRefused(f"{path}: is not an HDF5 file that can be read ({error}); copy it again") from error
    if not found:
        raise InputRefused(f"{path}: holds no dataset of numbers; is it the right file?")
    return found


def _require_no_links(path: Path, file: Any, h5py: ModuleType) -> None:
    groups = [file]
    file.visititems(lambda name, item: groups.append(item) if isinstance(item, h5py.Group) else None)
    for group in groups:
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise InputRefused(
                    f"{path}: '{name}' is a link to another file, which is never followed; copy the data into one file "
                    "(h5copy)"
                )


def _require_inside(path: Path, dataset: Any) -> None:
    elsewhere = bool(dataset.external)
    if dataset.is_virtual:
        elsewhere |= any(source.file_name != "." for source in dataset.virtual_sources())
    if elsewhere:
        raise InputRefused(
            f"{path}{dataset.name}: keeps its data in other files, which are never followed; copy it into one "
            "(h5repack)"
        )
