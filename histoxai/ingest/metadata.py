"""A CSV that says of scans, or of single patches, which patient, site, label or place they have."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.base import PatchIndex

# by which column rows are found, the first of these that is there
KEYS = {"patch_id": "patch_id", "scan": "group", "scan_id": "group", "slide": "group", "group": "group"}
GROUPS = ("patient", "site")
PLACES = ("frame", "x", "y", "extent")


def add_metadata(index: PatchIndex, path: Path) -> None:
    """Add what a CSV knows to an index: `patient`, `site`, the label, or `frame`, `x`, `y`, `extent` of tiles.

    A scan's row is for all its patches; where they lie only rows of single patches can say. Raises InputRefused for a
    file that is no such table, a key with two rows that differ, keys that the source does not have, a wrong value.
    """
    rows, columns = _read(path)
    key = next((c for c in KEYS if c in columns), None)
    if key is None:
        raise InputRefused(f"{path}: has no column of {', '.join(KEYS)}; its columns are {', '.join(columns)}")
    known = [c for c in columns if c in (*GROUPS, *PLACES, "label")]
    if not known:
        wanted = ", ".join((*GROUPS, "label", *PLACES))
        raise InputRefused(f"{path}: says nothing that is used here ({wanted}); its columns are {', '.join(columns)}")
    table = _table(path, rows, key, known)
    mine = getattr(index, KEYS[key])
    if not set(mine) & set(table):
        example = f"'{next(iter(table))}', the source has '{mine[0]}'" if table else "none"
        raise InputRefused(f"{path}: none of its {key} is in the source; it has {example}")
    found = [table.get(k) for k in mine]
    for column in known:
        if column == "label":
            _label(index, path, found)
        elif column in GROUPS:
            index.extra[column] = [row[column] if row else "" for row in found]
    if set(known) & set(PLACES):
        _places(index, path, key, found, known)
    if unknown := sorted({k for k, row in zip(mine, found, strict=True) if row is None}):
        index.notes.append(f"{path.name}: {len(unknown)} {key}s have no row, the first is '{unknown[0]}'")
    if more := [c for c in columns if c != key and c not in known]:
        index.notes.append(f"{path.name}: columns not used: {', '.join(more)}")


def _read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = list(reader), [c.strip() for c in reader.fieldnames or []]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputRefused(f"{path}: cannot be read as CSV: {error}") from error
    if len(set(columns)) < len(columns):
        raise InputRefused(f"{path}: has two columns of one name; rename one of {', '.join(columns)}")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise InputRefused(f"{path}: row {number} has not as many cells as there are columns")
    return [{k.strip(): v.strip() for k, v in row.items()} for row in rows], columns


def _table(path: Path, rows: list[dict[str, str]], key: str, known: list[str]) -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        kept = {c: row[c] for c in known}
        if not row[key]:
            raise InputRefused(f"{path}: row {number} has an empty {key}")
        if table.setdefault(row[key], kept) != kept:
            raise InputRefused(f"{path}: {key} '{row[key]}' has two rows that differ (row {number}); keep one")
    return table


def _label(index: PatchIndex, path: Path, found: list[dict[str, str] | None]) -> None:
    named = [row["label"] if row else "" for row in found]
    if any(code >= 0 for code in index.label):
        raise InputRefused(f"{path}: has labels, and so has the source; remove the column label")
    index.classes = index.classes or sorted({n for n in named if n})
    if unknown := sorted({n for n in named if n} - set(index.classes)):
        raise InputRefused(f"{path}: label '{unknown[0]}' is not one of {', '.join(index.classes)} (--classes)")
    index.label = [index.classes.index(n) if n else -1 for n in named]


def _places(index: PatchIndex, path: Path, key: str, found: list[dict[str, str] | None], known: list[str]) -> None:
    # coordinates mean something together only; frame and a tile's side may be left to scan and patch size
    if key != "patch_id":
        raise InputRefused(f"{path}: has coordinates by {key}; give a row to each patch, with a column patch_id")
    if not {"x", "y"} <= set(known):
        raise InputRefused(f"{path}: has {', '.join(set(known) & set(PLACES))} but not x and y; tiles need both")
    columns: dict[str, list[Any]] = {name: [] for name in PLACES}
    for row, scan in zip(found, index.group, strict=True):
        there = row is not None and bool(row["x"]) and bool(row["y"])
        cells = row if row is not None and there else {}
        columns["frame"].append((cells.get("frame") or scan) if there else "")
        columns["x"].append(_whole(path, "x", cells["x"]) if there else 0)
        columns["y"].append(_whole(path, "y", cells["y"]) if there else 0)
        side = cells.get("extent", "")
        columns["extent"].append(_number(path, "extent", side) if side else float(index.size[1]))
        if columns["extent"][-1] <= 0:
            raise InputRefused(f"{path}: extent '{side}' is no side of a tile; it must be more than 0")
    index.extra.update(columns)


def _number(path: Path, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputRefused(f"{path}: {column} '{text}' is no number") from None
    if not math.isfinite(value) or abs(value) > 2**53:
        raise InputRefused(f"{path}: {column} '{text}' is no place or size in a slide")
    return value


def _whole(path: Path, column: str, text: str) -> int:
    value = _number(path, column, text)
    if value != int(value):
        raise InputRefused(f"{path}: {column} '{text}' is no whole number of pixels")
    return int(value)


def patch_groups(index: PatchIndex) -> list[str]:
    """The group of each patch: its patient where that is known, of it or of its whole scan, else its scan."""
    patient = index.extra.get("patient", [""] * len(index))
    of_scan: dict[str, set[str]] = {}
    for scan, name in zip(index.group, patient, strict=True):
        of_scan.setdefault(scan, set()).add(name)
    taken = set(index.group)

    def named(name: str) -> str:
        return f"patient {name}" if name in taken else name  # a patient that is called as a scan is

    made = []
    for scan, name in zip(index.group, patient, strict=True):
        known = of_scan[scan] - {""}
        whole = "" not in of_scan[scan] or len(known) == 1  # nobody's patient is open, or there is one only
        made.append(named(name or next(iter(known))) if known and whole else scan)
    return made
