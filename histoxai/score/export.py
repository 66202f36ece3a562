"""Rows as CSV or Parquet files, for spreadsheets, R and pandas."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from histoxai.core.errors import InputRefused, UsageError
from histoxai.core.s3_paths import require_local
from histoxai.store.storage.files import file_error, temporary_beside

_BATCH = 50_000  # rows
_TEXT = ("withheld", "class")  # columns of words that may all be None


def check_table(path: Path) -> None:
    """Raise UsageError or InputRefused where a table of this name cannot be written: its suffix says how."""
    if path.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--export {path}: expected a name that ends in .csv or .parquet")
    require_local(path, "tables")
    if path.is_dir():
        raise InputRefused(f"{path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise InputRefused(f"{path.parent}: no such folder")
    if path.suffix == ".parquet":
        _pyarrow(path)


def write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, all with the keys of the first; keys of inner objects are joined by a dot, None is empty.

    An older table of that name is replaced. Raises HistoxaiError where the system refuses.
    """
    flat = (dict(_flat(row)) for row in rows)
    temporary = temporary_beside(path)
    try:
        (_csv if path.suffix == ".csv" else _parquet)(temporary, flat)
        os.replace(temporary, path)
    except OSError as error:
        raise file_error(path, "written", error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _csv(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)


def _parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    arrow, parquet = _pyarrow(path)
    sink: Any = None
    try:
        while batch := list(islice(rows, _BATCH)):
            table = arrow.Table.from_pylist(batch, None if sink is None else sink.schema)
            if sink is None:
                table = table.cast(_schema(arrow, table.schema))
                sink = parquet.ParquetWriter(path, table.schema)
            sink.write_table(table)
    finally:
        if sink is not None:
            sink.close()


def _schema(arrow: Any, found: Any) -> Any:
    # a column of which the first batch has nothing but None has no type of its own
    kind = {True: arrow.string(), False: arrow.float64()}
    return arrow.schema([f.with_type(kind[f.name in _TEXT]) if f.type == arrow.null() else f for f in found])


def _flat(row: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            f"--export {path}: Parquet needs pyarrow; `pip install 'histoxai[parquet]'`, or use .csv"
        ) from None
    return pyarrow, parquet
