"""DiagSet: `blobs/S/20x/<scan>/<class>/*.npy`, each (n, H, W, 3) uint8 (Koziarski et al. 2021)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import printable
from histoxai.ingest.diagset_tables import compare_distributions, read_partition
from histoxai.ingest.file_listing import require_utf8_name
from histoxai.ingest.formats.base import (
    ConcatenatedRows,
    NpyFile,
    PatchIndex,
    identifier,
    require_folder,
    require_images,
    require_only_settings,
    require_same_size,
    require_unique_ids,
)
from histoxai.settings import Ingest

# All labels of the data set; the study leaves out background and unlabelled tissue.
LABELS = ("BG", "T", "A", "N", "R1", "R2", "R3", "R4", "R5")
STUDY = ("A", "N", "R1", "R2", "R3", "R4", "R5")
MPP = {"5x": 2.0, "10x": 1.0, "20x": 0.5, "40x": 0.25}


class DiagSetFormat:
    """Reads the blobs of one magnification of a DiagSet folder; the published partitions become the split.

    Source: arXiv 2105.04014. Group is the scan; mpp is the magnification's unless given. What `distributions/` counts
    is compared with what the blobs hold.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Says why `root` looks like DiagSet, or None."""
        found = _magnifications(root)
        return f"it has blobs/S/{'20x' if '20x' in found else found[0]}" if found else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        require_only_settings(root, settings, "diagset", "magnification", "partition")
        blobs = root / "blobs" / "S" / settings.magnification
        if not blobs.is_dir():
            if found := _magnifications(root):
                raise InputRefused(
                    f"{root}: has no blobs/S/{settings.magnification}; choose --magnification {found[0]}"
                )
            raise InputRefused(f"{root}: has no blobs/S/20x; name the folder that holds DiagSet's `blobs`")
        classes = list(settings.classes or STUDY)
        if unknown := [c for c in classes if c not in LABELS]:
            raise InputRefused(f"{root}: DiagSet has no class '{unknown[0]}'; it has {', '.join(LABELS)}")
        partition, notes, facts = read_partition(root, settings.partition)
        self.index = PatchIndex(classes, settings.mpp or MPP[settings.magnification], (0, 0), notes=notes, facts=facts)
        if settings.magnification != "20x":
            self.index.facts["magnification"] = settings.magnification
        self._settings = settings
        self._rows = ConcatenatedRows(self._scan(root, blobs, partition))
        require_unique_ids(root, self.index)
        self._compare(root, partition)

    def _compare(self, root: Path, partition: dict[str, int]) -> None:
        # with what the data set says of itself
        index = self.index
        held = Counter((g, index.classes[k]) for g, k in zip(index.group, index.label, strict=True))
        index.notes += compare_distributions(root, self._settings.magnification, held, index.classes)
        scans = {scan for scan, _ in held}
        if strangers := sorted(partition.keys() - scans):
            index.notes.append(f"partitions name {len(strangers)} scans without blobs here ({strangers[0]}, say)")
        if partition and (without := sorted(scans - partition.keys())):
            index.notes.append(f"{len(without)} scans are in no partition ({without[0]}, say): no split")

    def _scan(self, root: Path, blobs: Path, partition: dict[str, int]) -> list[NpyFile]:
        index, left_out = self.index, set()
        files: list[NpyFile] = []
        for scan in sorted(p for p in blobs.iterdir() if p.is_dir()):
            for folder in sorted(p for p in scan.iterdir() if p.is_dir()):
                if folder.name not in LABELS:
                    raise InputRefused(
                        f"{printable(folder)}: unknown class folder '{printable(folder.name)}'; DiagSet has "
                        f"{', '.join(LABELS)}: rename it or move it away"
                    )
                if folder.name not in index.classes:
                    left_out.add(folder.name)
                    continue
                for path in sorted(folder.glob("*.npy")):
                    try:
                        require_utf8_name(path.relative_to(root))
                        files.append(self._blob(root, path, files[0].path if files else None))
                    except InputRefused as error:
                        index.leave_out(printable(path.relative_to(root).as_posix()), error, self._settings)
                        continue
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
        require_same_size(path, size, self.index.size if first else None, first)
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


def _magnifications(root: Path) -> list[str]:
    return [m for m in MPP if (root / "blobs" / "S" / m).is_dir()]
