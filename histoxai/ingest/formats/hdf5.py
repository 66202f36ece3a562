"""HDF5: PatchCamelyon's pairs of files, and files that hold images and labels together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.resources import bounded_memory
from histoxai.core.safe_text import escape_text
from histoxai.ingest.array_roles import IMAGES, LABELS, MASKS, ArrayGroup, RoleFinder, group_by_file
from histoxai.ingest.arrays import ArrayPatches
from histoxai.ingest.chunk_checks import ChunkCounts
from histoxai.ingest.file_listing import list_files, path_in_source, require_utf8_name
from histoxai.ingest.formats.base import PatchIndex, identifier, require_source
from histoxai.ingest.npy_files import RowArray
from histoxai.ingest.split_words import SPLITS, split_of
from histoxai.settings import Ingest

SUFFIXES = {".h5", ".hdf5", ".hdf"}
_COMPRESSED = tuple(f"{suffix}.gz" for suffix in SUFFIXES)  # as PatchCamelyon is downloaded
_ROLES = {"_x": "images", "_y": "labels", "_mask": "masks", "_masks": "masks"}
_NAMES = {"images": IMAGES, "labels": LABELS, "masks": (*MASKS, "x")}  # of the dataset in a file of one role
_READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)


class H5Array:
    """Rows of one dataset; the file is open only while they are read, so that processes and threads share no handle."""

    def __init__(self, file: Path, dataset: Any) -> None:
        self.file, self.name = file, dataset.name.strip("/")
        self.path = file / self.name  # as messages show it
        self.shape: tuple[int, ...] = tuple(dataset.shape or ())
        self.dtype: np.dtype = dataset.dtype
        self.never_written = not dataset.is_virtual and bool(dataset.size) and not dataset.id.get_storage_size()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop); raises InputRefused where they cannot be read."""
        with self._opened() as dataset:
            numbers = (stop - start) * math.prod(self.shape[1:]) + math.prod(dataset.chunks or ())
            with bounded_memory(self.dtype.itemsize * numbers):
                return np.asarray(dataset[start:stop])

    def chunk_counts(self) -> ChunkCounts | None:
        """Count the chunks in the file; None for a dataset that is stored in one piece."""
        with self._opened() as dataset:
            if dataset.chunks is None or dataset.is_virtual:
                return None
            total = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
            present = min(int(dataset.id.get_num_chunks()), total)
            return ChunkCounts(present, total, int(dataset.id.get_storage_size()), dataset.fillvalue)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with _import_h5py(self.file).File(self.file, "r") as file:
                yield file[self.name]
        except MemoryError as error:
            raise InputRefused(f"{self.path}: a chunk unpacks to far more than it should; is it harmful?") from error
        except _READ_ERRORS as error:
            raise InputRefused(f"{self.path}: cannot be read ({error}); copy it again from the source") from error


class Hdf5Format(ArrayPatches):
    """`*_x.h5` with `*_y.h5` and `*_mask.h5` (PatchCamelyon), or one file with images, labels and masks.

    Source: Veeling et al. 2018 (arXiv 1806.03962) for the pairs. `train`, `valid` and `test` in names of files, folders
    or groups become the split. External links and files, and objects other than text, are refused.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Return why `root` looks like HDF5, or None."""
        if root.is_file():
            return "it is an HDF5 file" if root.suffix.lower() in SUFFIXES else None
        folders = [root, *(p for p in sorted(root.iterdir()) if p.name.lower() in SPLITS and p.is_dir())]
        endings = (*SUFFIXES, *_COMPRESSED)
        file = next((p for f in folders for p in sorted(f.iterdir()) if p.name.lower().endswith(endings)), None)
        return f"'{escape_text(file.name)}' is an HDF5 file" if file else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_source(root)
        index = PatchIndex([], settings.mpp, (0, 0))
        files = [root] if root.is_file() else list_files(root, SUFFIXES, index.notes)
        _require_uncompressed(root)
        if not files:
            raise InputRefused(f"{root}: holds no HDF5 file ({', '.join(sorted(SUFFIXES))})")
        _import_h5py(root)
        by_file: dict[str, list[ArrayGroup]] = {}
        for file_set in _file_sets(files):
            name = path_in_source(root, next(iter(file_set.values())))
            with index.skipping_bad(name, settings):
                by_file[name.rpartition(".")[0]] = _read_file_set(root, file_set, settings)
        group_by_file(by_file)
        super().__init__(root, settings, "hdf5", [group for groups in by_file.values() for group in groups], index)
        for file in sorted({a.file for group in self.groups for a in group.arrays if isinstance(a, H5Array)}):
            index.add_file(path_in_source(root, file), file)


def _require_uncompressed(root: Path) -> None:
    for path in list_files(root, {".gz"}, []) if root.is_dir() else []:
        if path.name.lower().endswith(_COMPRESSED) and not path.with_suffix("").exists():
            raise InputRefused(f"{path}: is compressed; unpack it first (`gunzip`)")


def _import_h5py(path: Path) -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise InputRefused(f"{path}: is HDF5, which needs h5py: pip install 'histoxai[hdf5]'") from error
    module: ModuleType = h5py
    return module


def _file_sets(files: list[Path]) -> list[dict[str, Path]]:
    """Group files that belong together: each set maps a role to its file, or "" to a file that holds everything."""
    sets: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in files:
        for ending, role in _ROLES.items():
            if path.stem.endswith(ending):
                sets[path.parent / path.stem.removesuffix(ending)][role] = path
                break
        else:
            sets[path][""] = path
    return [sets[key] for key in sorted(sets)]


def _read_file_set(root: Path, files: dict[str, Path], settings: Ingest) -> list[ArrayGroup]:
    for path in files.values():
        require_utf8_name(path if path == root else path.relative_to(root))
    if "" in files:
        return _read_single_file(root, files[""], settings)
    first = next(iter(files.values()))
    if len(files) == 1:  # `_x` without partners, or a file whose name ends like that by chance
        return _read_single_file(root, first, settings)
    if "images" not in files:
        raise InputRefused(f"{first}: has no file of images beside it (*_x.h5); copy it, or name the file itself")
    arrays: dict[str, Any] = {
        role: _dataset_of_role(path, role, getattr(settings, role)) for role, path in files.items()
    }
    stem = path_in_source(root, files["images"]).rsplit(".", 1)[0]
    return [ArrayGroup(identifier(stem), split=split_of(stem.replace("/", "_")), **arrays)]


def _read_single_file(root: Path, path: Path, settings: Ingest) -> list[ArrayGroup]:
    stem = path_in_source(root, path).rsplit(".", 1)[0]
    by_split: dict[str, dict[str, RowArray]] = defaultdict(dict)
    for name, array in _read_datasets(path).items():
        first, _, rest = name.partition("/")
        folder = first if rest and first.lower() in SPLITS else ""
        by_split[folder][rest if folder else name] = array
    if len(by_split) > 1:
        by_split.pop("", None)  # datasets beside the groups of the splits describe the file
    groups: list[ArrayGroup] = []
    for folder, arrays in sorted(by_split.items()):
        split = split_of(folder) or split_of(stem.replace("/", "_"))
        groups += RoleFinder(arrays, settings, path).find(identifier(stem, *([folder] if folder else [])), split)
    return groups


def _dataset_of_role(path: Path, role: str, given: str | None) -> RowArray:
    """Return the dataset of a file that holds one role: the one that the settings name, else by name, else the only."""
    datasets = _read_datasets(path)
    if given is not None and given not in datasets:
        raise InputRefused(f"{path}: has no array '{given}' for --{role}; it has: {', '.join(datasets)}")
    if given is not None:
        return datasets[given]
    candidates = [a for name, a in datasets.items() if name.lower() in _NAMES[role]] or list(datasets.values())
    if len(candidates) != 1:
        raise InputRefused(
            f"{path}: cannot tell which dataset holds the {role} among {', '.join(datasets)}; name it with --{role}"
        )
    return candidates[0]


def _read_datasets(path: Path) -> dict[str, RowArray]:
    """Return all datasets of numbers or text by their path in the file; only headers are read."""
    h5py = _import_h5py(path)
    arrays: dict[str, RowArray] = {}
    try:
        with h5py.File(path, "r") as file:
            _require_no_links(path, file, h5py)
            for dataset in _members(file, h5py.Dataset):
                _require_inside(path, dataset)
                if dataset.dtype.kind != "O" or h5py.check_string_dtype(dataset.dtype) is not None:
                    arrays[dataset.name.strip("/")] = H5Array(path, dataset)
                elif dataset.name.rsplit("/", 1)[-1].lower() in (*IMAGES, *LABELS, *MASKS):
                    raise InputRefused(f"{path}{dataset.name}: holds objects, which are never loaded; save numbers")
    except _READ_ERRORS as error:
        raise InputRefused(f"{path}: is not an HDF5 file that can be read ({error}); copy it again") from error
    if not arrays:
        raise InputRefused(f"{path}: holds no dataset of numbers; is it the right file?")
    return arrays


def _members(file: Any, kind: type) -> list[Any]:
    members: list[Any] = []
    file.visititems(lambda name, item: members.append(item) if isinstance(item, kind) else None)
    return members


def _require_no_links(path: Path, file: Any, h5py: ModuleType) -> None:
    for group in [file, *_members(file, h5py.Group)]:
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise InputRefused(
                    f"{path}: '{name}' is a link to another file, which is never followed; copy the data into one file "
                    "(h5copy)"
                )


def _require_inside(path: Path, dataset: Any) -> None:
    is_elsewhere = bool(dataset.external)
    if dataset.is_virtual:
        is_elsewhere |= any(source.file_name != "." for source in dataset.virtual_sources())
    if is_elsewhere:
        raise InputRefused(
            f"{path}{dataset.name}: keeps its data in other files, which are never followed; copy it into one "
            "(h5repack)"
        )
