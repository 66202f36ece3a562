"""The metadata table (CSV): patient, site, label and position of scans or of single patches."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.base import PatchIndex

# Key columns, and the column of the index that each is matched with; the first one in the table is the key.
KEYS = {"patch_id": "patch_id", "scan": "group", "scan_id": "group", "slide": "group", "group": "group"}
GROUPS = ("patient", "site")
POSITIONS = ("frame", "x", "y", "extent")

Row = Mapping[str, str]


@dataclass(frozen=True)
class _Table:
    """A metadata table: its key column, the columns that are used, those that are not, and the rows by key."""

    path: Path
    key: str
    used: list[str]
    unused: list[str]
    rows: dict[str, Row]


def add_metadata(index: PatchIndex, path: Path) -> None:
    """Add the columns of a CSV to an index: `patient`, `site`, the label, or `frame`, `x`, `y`, `extent` of tiles.

    A row of a scan holds for all its patches. Positions need a row for each patch. Raises InputRefused for a file that
    is no such table, a key with two different rows, keys that the source does not have, and wrong values.
    """
    table = _read_table(path)
    keys = getattr(index, KEYS[table.key])
    if not set(keys) & set(table.rows):
        example = f"'{next(iter(table.rows))}', the source has '{keys[0]}'" if table.rows else "none"
        raise InputRefused(f"{path}: none of its {table.key} is in the source; it has {example}")
    rows = [table.rows.get(k) for k in keys]
    for column in table.used:
        if column == "label":
            _add_labels(index, path, rows)
        elif column in GROUPS:
            index.extra[column] = [row[column] if row else "" for row in rows]
    if "patient" in table.used:
        _note_patients(index, path)
    if set(table.used) & set(POSITIONS):
        _add_positions(index, table, rows)
    if missing := sorted({k for k, row in zip(keys, rows, strict=True) if row is None}):
        index.notes.append(f"{path.name}: {len(missing)} {table.key}s have no row, the first is '{missing[0]}'")
    if table.unused:
        index.notes.append(f"{path.name}: columns not used: {', '.join(table.unused)}")


def _note_patients(index: PatchIndex, path: Path) -> None:
    """Say that patients are the groups; what a format said of its own groups holds for patches without one."""
    groups = patch_groups(index)
    scans = set(index.group)
    alone = {g for g, patient in zip(groups, index.extra["patient"], strict=True) if not patient and g in scans}
    known = len(set(groups) - alone)
    note = f"group: the patient of {path.name} ({known:,} in all)"
    if alone:
        index.note_groups(f"{note}; groups without a patient stay as they are ({len(alone):,})")
    else:
        index.replace_group_notes(note)


def _read_table(path: Path) -> _Table:
    lines, columns = _read_csv(path)
    key = next((c for c in KEYS if c in columns), None)
    if key is None:
        raise InputRefused(f"{path}: has no column of {', '.join(KEYS)}; its columns are {', '.join(columns)}")
    used = [c for c in columns if c in (*GROUPS, *POSITIONS, "label")]
    if not used:
        names = ", ".join((*GROUPS, "label", *POSITIONS))
        raise InputRefused(
            f"{path}: has no column that is used here ({names}); its columns are {', '.join(columns)}: rename one"
        )
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, start=2):
        row = {c: line[c] for c in used}
        if not line[key]:
            raise InputRefused(f"{path}: row {number} has an empty {key}; fill it in, or remove the row")
        if rows.setdefault(line[key], row) != row:
            raise InputRefused(f"{path}: {key} '{line[key]}' has two rows that differ (row {number}); keep one")
    return _Table(path, key, used, [c for c in columns if c != key and c not in used], rows)


def _read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            lines, columns = list(reader), [c.strip() for c in reader.fieldnames or []]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputRefused(f"{path}: cannot be read as CSV: {error}") from error
    if not set(columns) & set(KEYS):
        _require_commas(path, columns)
    if len(set(columns)) < len(columns):
        raise InputRefused(f"{path}: has two columns of one name; rename one of {', '.join(columns)}")
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise InputRefused(f"{path}: row {number} has not as many cells as there are columns; complete it")
    return [{k.strip(): v.strip() for k, v in line.items()} for line in lines], columns


def _require_commas(path: Path, columns: list[str]) -> None:
    """Raise InputRefused for a header whose columns are separated by something else than commas."""
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if any(sign in column for column in columns):
            raise InputRefused(
                f"{path}: its columns are separated by {name}; save it with commas (Excel: CSV UTF-8, comma delimited)"
            )


def _add_labels(index: PatchIndex, path: Path, rows: list[Row | None]) -> None:
    names = [row["label"] if row else "" for row in rows]
    if any(code >= 0 for code in index.label):
        raise InputRefused(f"{path}: has labels, and so has the source; remove the column label")
    index.classes = index.classes or sorted({n for n in names if n})
    if unknown := sorted({n for n in names if n} - set(index.classes)):
        raise InputRefused(f"{path}: label '{unknown[0]}' is not one of {', '.join(index.classes)} (--classes)")
    index.label = [index.classes.index(n) if n else -1 for n in names]


def _add_positions(index: PatchIndex, table: _Table, rows: list[Row | None]) -> None:
    """Add the position of each tile; a frame that is not given is the scan, an extent the patch's width."""
    path, given = table.path, set(table.used) & set(POSITIONS)
    if table.key != "patch_id":
        raise InputRefused(f"{path}: has coordinates by {table.key}; give a row to each patch, with a column patch_id")
    if not {"x", "y"} <= given:
        raise InputRefused(f"{path}: has {', '.join(given)} but not x and y; tiles need both")
    columns: dict[str, list[Any]] = {name: [] for name in POSITIONS}
    for row, scan in zip(rows, index.group, strict=True):
        values = _position(path, row, scan, index.size[1]) if row and row["x"] and row["y"] else None
        for name, value in zip(POSITIONS, values or ("", 0, 0, float(index.size[1])), strict=True):
            columns[name].append(value)
    index.extra.update(columns)


def _position(path: Path, row: Row, scan: str, width: int) -> tuple[str, int, int, float]:
    x, y = _whole(path, "x", row["x"]), _whole(path, "y", row["y"])
    text = row.get("extent", "")
    extent = _number(path, "extent", text) if text else float(width)
    if extent <= 0:
        raise InputRefused(f"{path}: extent '{text}' is not the side of a tile; it must be more than 0")
    return row.get("frame") or scan, x, y, extent


def _number(path: Path, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputRefused(f"{path}: {column} '{text}' is not a number; correct it") from None
    if not math.isfinite(value) or abs(value) > 2**53:
        raise InputRefused(f"{path}: {column} '{text}' is not a position or size in a slide; correct it")
    return value


def _whole(path: Path, column: str, text: str) -> int:
    value = _number(path, column, text)
    if value != int(value):
        raise InputRefused(f"{path}: {column} '{text}' is not a whole number of pixels; round it")
    return int(value)


def patch_groups(index: PatchIndex) -> list[str]:
    """Return the group of each patch: its patient where that is known, of it or of its whole scan, else its scan."""
    patients = index.extra.get("patient", [""] * len(index))
    patients_of: dict[str, set[str]] = {}
    for scan, patient in zip(index.group, patients, strict=True):
        patients_of.setdefault(scan, set()).add(patient)
    scans, groups = set(index.group), []
    for scan, patient in zip(index.group, patients, strict=True):
        known = patients_of[scan] - {""}
        # the scan's patients are settled where every patch has one, or where there is only one
        if known and ("" not in patients_of[scan] or len(known) == 1):
            name = patient or next(iter(known))
            groups.append(f"patient {name}" if name in scans else name)  # a patient may have the name of a scan
        else:
            groups.append(scan)
    return groups
