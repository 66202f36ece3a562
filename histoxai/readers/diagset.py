"""DiagSet: `blobs/S/20x/<scan>/<class>/*.npy`, each (n, H, W, 3) uint8 (Koziarski et al. 2021)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from histoxai.errors import InputRefused
from histoxai.readers.base import (
    Index,
    NpyFile,
    Rows,
    identifier,
    require_folder,
    require_images,
    require_size,
)
from histoxai.settings import Ingest

# All labels of the data set; the study leaves out background and unlabelled tissue.
LABELS = ("BG", "T", "A", "N", "R1", "R2", "R3", "R4", "R5")
STUDY = ("A", "N", "R1", "R2", "R3", "R4", "R5")
MPP_20X = 0.5
_PARTITIONS = {"train": 1, "validation": 2, "test": 3}


class DiagSetReader:
    """Reads the 20x blobs of a DiagSet folder; the published partitions become the split.

    Source: arXiv 2105.04014. Group is the scan; mpp is 0.5 unless given.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Says why `root` looks like DiagSet, or None."""
        return "it has blobs/S/20x" if (root / "blobs" / "S" / "20x").is_dir() else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        blobs = root / "blobs" / "S" / "20x"
        if not blobs.is_dir():
            raise InputRefused(f"{root}: has no blobs/S/20x; name the folder that holds DiagSet's `blobs`")
        classes = list(settings.classes or STUDY)
        if unknown := [c for c in classes if c not in LABELS]:
            raise InputRefused(f"{root}: DiagSet has no class '{unknown[0]}'; it has {', '.join(LABELS)}")
        partition, notes = _partitions(root)
        self.index = Index(classes, settings.mpp or MPP_20X, (0, 0), notes=notes)
        self._rows = Rows(self._scan(root, blobs, partition))

    def _scan(self, root: Path, blobs: Path, partition: dict[str, int]) -> list[NpyFile]:
        index, left_out = self.index, set()
        files: list[NpyFile] = []
        for scan in sorted(p for p in blobs.iterdir() if p.is_dir()):
            for folder in sorted(p for p in scan.iterdir() if p.is_dir()):
                if folder.name not in LABELS:
                    raise InputRefused(
                        f"{folder}: unknown class folder '{folder.name}'; DiagSet has {', '.join(LABELS)}: "
                        "rename it or move it away"
                    )
                if folder.name not in index.classes:
                    left_out.add(folder.name)
                    continue
                for path in sorted(folder.glob("*.npy")):
                    files.append(self._blob(root, path, files[0].path if files else None))
                    self._list(files[-1], scan.name, folder.name, partition)
        if not files:
            raise InputRefused(f"{blobs}: holds no .npy blob of the classes {', '.join(index.classes)}")
        if left_out:
            index.notes.append(f"left out: {', '.join(sorted(left_out))} (choose with --classes)")
        return files

    def _blob(self, root: Path, path: Path, first: Path | None) -> NpyFile:
        file = NpyFile(path)
        require_images(file, "uint8")
        size = (file.shape[1], file.shape[2])
        require_size(path, size, self.index.size if first else None, first)
        self.index.size = size
        self.index.files.append((path.relative_to(root).as_posix(), file.bytes))
        return file

    def _list(self, file: NpyFile, scan: str, name: str, partition: dict[str, int]) -> None:
        index, n = self.index, file.shape[0]
        index.label += [index.classes.index(name)] * n
        index.group += [identifier(scan)] * n
        index.patch_id += [identifier(scan, name, f"{file.path.stem}#{i}") for i in range(n)]
        index.split += [partition.get(scan, 0)] * n

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """images (n, H, W, 3) uint8; DiagSet has no masks."""
        return self._rows.read(start, stop), None


def _partitions(root: Path) -> tuple[dict[str, int], list[str]]:
    # scan -> split, from the one folder of partition CSVs; several would be ambiguous
    folders = sorted(p for p in (root / "partitions").glob("*") if (p / "train.csv").is_file())
    if not folders:
        return {}, []
    if len(folders) > 1:
        names = ", ".join(f.name for f in folders)
        return {}, [f"several partitions ({names}): none used, split with `histoxai augment`"]
    table: dict[str, int] = {}
    for name, code in _PARTITIONS.items():
        path = folders[0] / f"{name}.csv"
        for scan in _scan_ids(path) if path.is_file() else []:
            if table.setdefault(scan, code) != code:
                raise InputRefused(f"{path}: scan '{scan}' is in two partitions; keep it in one")
    return table, [f"split by {folders[0].relative_to(root)}"]


def _scan_ids(path: Path) -> list[str]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
            if rows and "scan_id" not in rows[0]:
                raise InputRefused(f"{path}: has no column scan_id")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputRefused(f"{path}: cannot be read as CSV: {error}") from error
    return [str(row["scan_id"]) for row in rows]
