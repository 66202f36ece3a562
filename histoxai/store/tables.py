"""Rows as CSV or Parquet files, for spreadsheets, R and pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from histoxai.errors import InputRefused, UsageError
from histoxai.store.files import write_atomically

_BATCH = 50_000  # rows


def check_table(path: Path) -> None:
    """Raise UsageError where a table of this name cannot be written: its suffix says how."""
    if path.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--export {path}: expected a name that ends in .csv or .parquet")
    if not path.parent.is_dir():
        raise InputRefused(f"{path.parent}: no such folder")
    if path.suffix == ".parquet":
        _pyarrow(path)


def write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, all with the keys of the first; keys of inner objects are joined by a dot, None is empty."""
    flat = (dict(_flat(row)) for row in rows)
    if path.suffix == ".csv":
        text = io.StringIO(newline="")
        writer: csv.DictWriter[str] | None = None
        for row in flat:
            if writer is None:
                writer = csv.DictWriter(text, list(row))
                writer.writeheader()
            writer.writerow(row)
        write_atomically(path, text.getvalue().encode())
        return
    arrow, parquet = _pyarrow(path)
    out, sink, batch = io.BytesIO(), None, []
    for row in flat:
        batch.append(row)
        if len(batch) == _BATCH:
            sink = _put(arrow, parquet, out, sink, batch)
            batch = []
    if batch:
        sink = _put(arrow, parquet, out, sink, batch)
    if sink is not None:
        sink.close()
    write_atomically(path, out.getvalue())


def _put(arrow: Any, parquet: Any, out: io.BytesIO, sink: Any, batch: list[dict[str, Any]]) -> Any:
    table = arrow.Table.from_pylist(batch, None if sink is None else sink.schema)
    if sink is None:  # a column of nothing but None would have no type
        schema = arrow.schema([f if f.type != arrow.null() else f.with_type(arrow.float64()) for f in table.schema])
        table = table.cast(schema)
        sink = parquet.ParquetWriter(out, schema)
    sink.write_table(table)
    return sink


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
