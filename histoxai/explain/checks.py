"""Summarise the checks that are stored with the maps of each method."""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.explain.maps_store import checks_path
from histoxai.store.shards import Store
from histoxai.store.state import rows_done

# Checks that count maps; the others are numbers with a distribution.
_COUNTS = ("constant", "zero")


def summarise(maps: Store) -> dict[str, dict[str, Any]]:
    """Checks by method: number of patches, of constant and of zero maps; median, min, max and n of every other check.

    Only finished shards count; checks without any value are left out.
    """
    summary: dict[str, dict[str, Any]] = {}
    for method, state in maps.completeness().items():
        if not state["what"].get("method"):  # not a method, or one whose facts are lost
            continue
        rows = np.flatnonzero(rows_done(state))
        if len(rows):
            summary[method] = {"patches": len(rows), **_summary(_columns(maps, method, rows))}
    return summary


def _summary(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name, column in columns.items():
        values = column[np.isfinite(column)]
        if name in _COUNTS:
            summary[name] = int(values.sum())
        elif len(values):
            summary[name] = {
                "median": float(np.median(values)),
                "min": float(values.min()),
                "max": float(values.max()),
                "n": len(values),
            }
    return summary


def _columns(maps: Store, name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    path = checks_path(name)
    if not maps.has(path):  # a store of an earlier version
        return {}
    columns = maps.array(path).attrs["columns"]
    return dict(zip(map(str, columns), maps.take(path, rows).astype(np.float64).T, strict=True))
