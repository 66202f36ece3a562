"""Tables of DiagSet: `partitions/` (split of each scan) and `distributions/` (patches of each class in a scan)."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoxai.core.errors import InputRefused
from histoxai.core.provenance import file_checksum

_PARTITIONS = {"train": 1, "validation": 2, "test": 3}
_SHOWN = 5  # differences that are listed; the rest are counted


def read_partition(root: Path, name: str | None) -> tuple[dict[str, int], list[str], dict[str, Any]]:
    """Read `partitions/<name>/{train,validation,test}.csv`: split of each scan, notes, and entries for the settings.

    The entries are the partition's name and the checksums of its files, since both decide the split of a store. A
    single folder is used as it is. Of several folders `name` selects one; without a name none is used. Raises
    InputRefused for a name that does not exist, a scan in two splits, and a file without a column scan_id.
    """
    folders = {p.name: p for p in sorted((root / "partitions").glob("*")) if (p / "train.csv").is_file()}
    if name is not None and name not in folders:
        raise InputRefused(f"{root}: has no partition '{name}'; it has {', '.join(folders) or 'none'}")
    if not folders:
        return {}, [], {}
    if name is None and len(folders) > 1:
        names = ", ".join(folders)
        note = f"several partitions ({names}): none used; choose with --partition, or split with `histoxai augment`"
        return {}, [note], {}
    folder = folders[name or next(iter(folders))]
    splits: dict[str, int] = {}
    checksums: dict[str, str] = {}
    for split, code in _PARTITIONS.items():
        path = folder / f"{split}.csv"
        if not path.is_file():
            continue
        checksums[path.name] = file_checksum(path)
        for scan in _read_scan_ids(path):
            if splits.setdefault(scan, code) != code:
                raise InputRefused(f"{path}: scan '{scan}' is in two partitions; keep it in one")
    return (
        splits,
        [f"split by {folder.relative_to(root)}"],
        {"partition": {"name": folder.name, "files": checksums}},
    )


def _read_scan_ids(path: Path) -> list[str]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "scan_id" not in (reader.fieldnames or []):
                raise InputRefused(f"{path}: has no column scan_id; the first line must name it")
            scans = [row["scan_id"] for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputRefused(f"{path}: cannot be read as CSV: {error}; save it again as UTF-8") from error
    if not all(scans):
        raise InputRefused(f"{path}: row {scans.index(next(s for s in scans if not s)) + 2} has no scan_id; fill it in")
    return [str(scan).strip() for scan in scans]


def compare_distributions(
    root: Path, magnification: str, counts: Mapping[tuple[str, str], int], classes: list[str]
) -> list[str]:
    """Compare `distributions/S/<magnification>/<scan>.json` with the blobs; return a note for each difference.

    counts: patches by (scan, class) in the blobs. Only `classes` are compared. A scan in a table that has no blob
    counts as a difference too.
    """
    differences = []
    for path in sorted((root / "distributions").rglob("*.json")):
        magnifications = {p for p in path.relative_to(root).parts if p[:-1].isdecimal() and p.endswith("x")}
        if magnifications and magnification not in magnifications:
            continue
        try:
            stated = _stated_counts(json.loads(path.read_text("utf-8")), path.stem)
        except (OSError, ValueError, RecursionError) as error:
            differences.append(f"{path}: is not JSON ({error}); not compared")
            continue
        for (scan, name), n in sorted(stated.items()):
            in_blobs = counts.get((scan, name), 0)
            if name in classes and n != in_blobs:
                table = path.relative_to(root).as_posix()
                differences.append(f"{scan}: {table} says {n} patches of {name}, the blobs hold {in_blobs}")
    more = len(differences) - _SHOWN
    return differences[:_SHOWN] + ([f"and {more} more differences from distributions/"] if more > 0 else [])


def _stated_counts(content: Any, scan: str) -> dict[tuple[str, str], int]:
    """Read {class: n} for the file's scan; keys of nested dictionaries name other scans."""
    counts: dict[tuple[str, str], int] = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict):
            counts |= _stated_counts(value, str(key))
        elif isinstance(value, int) and not isinstance(value, bool):
            counts[scan, str(key)] = value
    return counts
