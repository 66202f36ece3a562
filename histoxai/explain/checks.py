"""What the checks beside the maps of a store say, summed up per method."""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.explain.maps_store import checks_path
from histoxai.store.shards import Store
from histoxai.store.state import rows_done

# Checks that count maps; all others are spreads of a number.
_COUNTED = ("constant", "zero")


def summarise(maps: Store) -> dict[str, dict[str, Any]]:
    """Per method: patches, how many maps are constant or zero, and median, least and most of every other check.

    Only finished shards count; checks that were made of no map are left out.
    """
    states = maps.completeness()
    summary: dict[str, dict[str, Any]] = {}
    for method, state in states.items():
        if not state["what"].get("method"):  # no method, or one whose facts are lost
            continue
        done = np.flatnonzero(rows_done(state))
        made: dict[str, Any] = {"patches": len(done)}
        for name, column in _columns(maps, method, done).items():
            values = column[np.isfinite(column)]
            if name in _COUNTED:
                made[name] = int(values.sum())
            elif len(values):
                made[name] = {
                    "median": float(np.median(values)),
                    "min": float(values.min()),
                    "max": float(values.max()),
                    "n": len(values),
                }
        if len(done):
            summary[method] = made
    return summary


def _columns(maps: Store, name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    path = checks_path(name)
    if not maps.has(path):  # a store of an earlier version
        return {}
    columns = maps.array(path).attrs["columns"]
    return dict(zip(map(str, columns), maps.take(path, rows).astype(np.float64).T, strict=True))
