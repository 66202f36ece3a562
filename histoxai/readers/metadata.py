"""A CSV that says of scans, or of single patches, which patient, site, label or place they have."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from histoxai.errors import InputRefused
from histoxai.readers.base import Index

KEYS = {"patch_id": "patch_id", "scan": "group", "scan_id": "group", "slide": "group", "group": "group"}
GROUPS = ("patient", "site")
PLACES: dict[str, Callable[[str], Any]] = {"frame": str, "x": int, "y": int, "extent": float}


def join(index: Index, path: Path) -> None:
    """Add what a CSV knows to an index: `patient`, `site`, the label, or `frame`, `x`, `y`, `extent` of tiles.

    The first column of KEYS is the key: a scan's row is for all its patches. Raises InputRefused for a file that is no
    such table, a key with two rows that differ, a key that the source does not have at all, a value of the wrong kind.
    """
    rows, columns = _read(path)
    key = next((c for c in columns if c in KEYS), None)
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
        else:
            index.extra[column] = [_value(path, column, row[column]) if row else _nothing(column) for row in found]
    _check_places(index, path)
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


def _label(index: Index, path: Path, found: list[dict[str, str] | None]) -> None:
    named = [row["label"] if row else "" for row in found]
    if any(code >= 0 for code in index.label):
        raise InputRefused(f"{path}: has labels, and so has the source; remove the column label")
    index.classes = index.classes or sorted({n for n in named if n})
    if unknown := sorted({n for n in named if n} - set(index.classes)):
        raise InputRefused(f"{path}: label '{unknown[0]}' is not one of {', '.join(index.classes)} (--classes)")
    index.label = [index.classes.index(n) if n else -1 for n in named]


def _value(path: Path, column: str, text: str) -> Any:
    try:
        return PLACES[column](text) if text else _nothing(column)
    except ValueError:
        raise InputRefused(f"{path}: {column} '{text}' is no number") from None


def _nothing(column: str) -> Any:
    return "" if column == "frame" else 0


def _check_places(index: Index, path: Path) -> None:
    # coordinates mean something together only; a tile's side may be left to the patch size
    have = [c for c in ("x", "y") if c in index.extra]
    if len(have) == 1:
        raise InputRefused(f"{path}: has {have[0]} without the other; tiles need x and y")
    if have:
        index.extra.setdefault("frame", list(index.group))
        index.extra.setdefault("extent", [float(max(index.size))] * len(index))
