"""DiagSet's `partitions/` (which scan is in which split) and `distributions/` (how many patches a scan has)."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoxai.core.errors import InputRefused
from histoxai.core.provenance import file_checksum

_PARTITIONS = {"train": 1, "validation": 2, "test": 3}
_SHOWN = 5  # differences; the rest are counted


def read_partition(root: Path, wanted: str | None) -> tuple[dict[str, int], list[str], dict[str, Any]]:
    """Scan -> split from `partitions/<name>/{train,validation,test}.csv`, notes, and facts.

    The facts are the partition's name and what its files hold, since both decide what a store's split is.

    One folder is taken as it is; of several `wanted` names one, or none is used. Raises InputRefused for a name that
    is not there, a scan in two splits, and a file that is no CSV with a column scan_id.
    """
    folders = {p.name: p for p in sorted((root / "partitions").glob("*")) if (p / "train.csv").is_file()}
    if wanted is not None and wanted not in folders:
        raise InputRefused(f"{root}: has no partition '{wanted}'; it has {', '.join(folders) or 'none'}")
    if not folders:
        return {}, [], {}
    if wanted is None and len(folders) > 1:
        names = ", ".join(folders)
        note = f"several partitions ({names}): none used; choose with --partition, or split with `histoxai augment`"
        return {}, [note], {}
    folder = folders[wanted or next(iter(folders))]
    table: dict[str, int] = {}
    held: dict[str, str] = {}
    for name, code in _PARTITIONS.items():
        path = folder / f"{name}.csv"
        if not path.is_file():
            continue
        held[path.name] = file_checksum(path)
        for scan in _scan_ids(path):
            if table.setdefault(scan, code) != code:
                raise InputRefused(f"{path}: scan '{scan}' is in two partitions; keep it in one")
    facts = {"partition": {"name": folder.name, "files": held}}
    return table, [f"split by {folder.relative_to(root)}"], facts


def _scan_ids(path: Path) -> list[str]:
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
    root: Path, magnification: str, held: Mapping[tuple[str, str], int], classes: list[str]
) -> list[str]:
    """Notes on scans whose counts in `distributions/S/<magnification>/<scan>.json` are not those of the blobs.

    held: (scan, class) -> patches. Only chosen classes are compared. A scan named in a distribution and without any
    blob counts as a difference too.
    """
    differences = []
    for path in sorted((root / "distributions").rglob("*.json")):
        other = {p for p in path.relative_to(root).parts if p[:-1].isdecimal() and p.endswith("x")}
        if other and magnification not in other:
            continue
        try:
            counted = _counts(json.loads(path.read_text("utf-8")), path.stem)
        except (OSError, ValueError, RecursionError) as error:
            differences.append(f"{path}: is not JSON ({error}); not compared")
            continue
        for (scan, name), n in sorted(counted.items()):
            here = held.get((scan, name), 0)
            if name in classes and n != here:
                where = path.relative_to(root).as_posix()
                differences.append(f"{scan}: {where} says {n} patches of {name}, the blobs hold {here}")
    hidden = len(differences) - _SHOWN
    return differences[:_SHOWN] + ([f"and {hidden} more differences from distributions/"] if hidden > 0 else [])


def _counts(content: Any, scan: str) -> dict[tuple[str, str], int]:
    # {class: n} for the file's scan; nested dictionaries name scans
    found: dict[tuple[str, str], int] = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict):
            found |= _counts(value, str(key))
        elif isinstance(value, int) and not isinstance(value, bool):
            found[scan, str(key)] = value
    return found
