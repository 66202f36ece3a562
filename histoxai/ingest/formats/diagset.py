"""DiagSet: `blobs/S/20x/<scan>/<class>/*.npy`, each (n, H, W, 3) uint8 (Koziarski et al. 2021)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text
from histoxai.ingest.array_checks import require_images
from histoxai.ingest.diagset_tables import compare_distributions, read_partition
from histoxai.ingest.file_listing import require_utf8_name
from histoxai.ingest.formats.base import (
    PatchIndex,
    identifier,
    require_folder,
    require_only_settings,
    require_unique_ids,
)
from histoxai.ingest.npy_files import ConcatenatedRows, NpyFile
from histoxai.settings import Ingest

LABELS = ("BG", "T", "A", "N", "R1", "R2", "R3", "R4", "R5")  # all labels of the data set
STUDY = ("A", "N", "R1", "R2", "R3", "R4", "R5")  # without background and unlabelled tissue
MPP = {"5x": 2.0, "10x": 1.0, "20x": 0.5, "40x": 0.25}


class DiagSetFormat:
    """Blobs of one magnification of a DiagSet folder; the published partitions become the split.

    Source: arXiv 2105.04014. The group is the scan. mpp follows the magnification unless it is given. Where
    `distributions/` counts other numbers of patches than the blobs hold, a note says so.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Return why `root` looks like DiagSet, or None."""
        magnifications = _magnifications(root)
        return f"it has blobs/S/{'20x' if '20x' in magnifications else magnifications[0]}" if magnifications else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        require_only_settings(root, settings, "diagset", "magnification", "partition")
        blobs = _blob_folder(root, settings.magnification)
        classes = list(settings.classes or STUDY)
        if unknown := [c for c in classes if c not in LABELS]:
            raise InputRefused(f"{root}: DiagSet has no class '{unknown[0]}'; it has {', '.join(LABELS)}")
        self._partition, notes, facts = read_partition(root, settings.partition)
        self.index = PatchIndex(classes, settings.mpp or MPP[settings.magnification], (0, 0), notes=notes, facts=facts)
        if settings.magnification != "20x":
            self.index.facts["magnification"] = settings.magnification
        self._root, self._settings = root, settings
        self._rows = ConcatenatedRows(self._list_blobs(blobs))
        require_unique_ids(root, self.index)
        self._compare_tables()

    def _list_blobs(self, blobs: Path) -> list[NpyFile]:
        index = self.index
        files: list[NpyFile] = []
        unselected = set()
        for scan, folder in _class_folders(blobs):
            if folder.name not in index.classes:
                unselected.add(folder.name)
                continue
            for path in sorted(folder.glob("*.npy")):
                with index.skipping_bad(path.relative_to(self._root).as_posix(), self._settings):
                    files.append(self._add_blob(path, scan, folder.name))
        if not files:
            raise InputRefused(f"{blobs}: holds no .npy blob of the classes {', '.join(index.classes)}")
        if unselected:
            index.notes.append(f"left out: {', '.join(sorted(unselected))} (choose with --classes)")
        return files

    def _add_blob(self, path: Path, scan: str, name: str) -> NpyFile:
        index = self.index
        require_utf8_name(path.relative_to(self._root))
        file = NpyFile(path)
        require_images(file, "uint8")
        size = (file.shape[1], file.shape[2])
        index.require_size(path, size)
        index.set_size(path, size)
        index.add_file(path.relative_to(self._root).as_posix(), path)
        ids = [identifier(scan, name, f"{path.stem}#{i}") for i in range(file.shape[0])]
        index.add_patches(ids, identifier(scan), index.classes.index(name), self._partition.get(scan, 0))
        return file

    def _compare_tables(self) -> None:
        """Add notes on differences between the blobs and the data set's own tables."""
        index, partition = self.index, self._partition
        counts = Counter((g, index.classes[k]) for g, k in zip(index.group, index.label, strict=True))
        index.notes += compare_distributions(self._root, self._settings.magnification, counts, index.classes)
        scans = {scan for scan, _ in counts}
        if unknown := sorted(partition.keys() - scans):
            index.notes.append(f"partitions name {len(unknown)} scans without blobs here ({unknown[0]}, say)")
        if partition and (missing := sorted(scans - partition.keys())):
            index.notes.append(f"{len(missing)} scans are in no partition ({missing[0]}, say): no split")

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return images (n, H, W, 3) uint8, and None: DiagSet has no masks."""
        return self._rows.read(start, stop), None


def _magnifications(root: Path) -> list[str]:
    return [m for m in MPP if (root / "blobs" / "S" / m).is_dir()]


def _blob_folder(root: Path, magnification: str) -> Path:
    folder = root / "blobs" / "S" / magnification
    if not folder.is_dir():
        if magnifications := _magnifications(root):
            raise InputRefused(f"{root}: has no blobs/S/{magnification}; choose --magnification {magnifications[0]}")
        raise InputRefused(f"{root}: has no blobs/S/20x; name the folder that holds DiagSet's `blobs`")
    return folder


def _class_folders(blobs: Path) -> Iterator[tuple[str, Path]]:
    """Yield (scan, class folder), sorted; raises InputRefused for a folder that is no class of DiagSet."""
    for scan in sorted(p for p in blobs.iterdir() if p.is_dir()):
        for folder in sorted(p for p in scan.iterdir() if p.is_dir()):
            if folder.name not in LABELS:
                raise InputRefused(
                    f"{escape_text(folder)}: unknown class folder '{escape_text(folder.name)}'; DiagSet has "
                    f"{', '.join(LABELS)}: rename it or move it away"
                )
            yield scan.name, folder
