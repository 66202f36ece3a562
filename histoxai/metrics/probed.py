"""Tests on the model, summed up: means of probes with intervals, curves, and what randomised weights leave of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.metrics.bootstrap import means
from histoxai.metrics.faithfulness import CURVES
from histoxai.settings import PROBES, Statistics

if TYPE_CHECKING:
    from histoxai.metrics.summary import Scores

# Whether a larger value speaks for a map.
HIGHER_IS_BETTER = {"deletion": False, "insertion": True, "road": True, "infidelity": False, "sensitivity": False}


def faithfulness(
    s: Scores, values: np.ndarray, curves: np.ndarray, probes: list[str], statistics: Statistics
) -> dict[str, Any]:
    """Rows for each method, class and probe, and mean curves over all patches.

    values (n, M, PROBES), curves (n, M, CURVES, steps + 1), NaN where not done.
    """
    strata = [("all", np.ones(len(s.label), bool))]
    strata += [(name, s.label == k) for k, name in enumerate(s.classes) if (s.label == k).any()]
    columns = [PROBES.index(p) for p in probes]
    rows = []
    for name, mine in strata:
        flat = values[mine][:, :, columns].astype(np.float64).reshape(int(mine.sum()), -1)
        found = means(flat, s.group[mine], statistics.repetitions, statistics.seed, statistics.level)
        for k, (i, q) in enumerate(np.ndindex(len(s.methods), len(probes))):
            rows.append(
                {
                    "method": list(s.methods)[i],
                    "class": name,
                    "probe": probes[q],
                    "higher_is_better": HIGHER_IS_BETTER[probes[q]],
                    "mean": _or_none(found.mean[k]),
                    "low": _or_none(found.low[k]),
                    "high": _or_none(found.high[k]),
                    "n": int(found.n[k]),
                    "groups": int(found.groups[k]),
                    "withheld": found.withheld(k),
                }
            )
    steps = curves.shape[-1]
    drawn = [
        {
            "method": method,
            "probe": curve,
            "share": np.linspace(0, 1, steps).tolist(),
            "probability": [_or_none(v) for v in _mean(curves[:, i, CURVES.index(curve)])],
        }
        for i, method in enumerate(s.methods)
        for curve in CURVES
        if curve in probes
    ]
    return {"rows": rows, "curves": drawn}


def sanity(s: Scores, similarity: np.ndarray, layers: list[str], statistics: Statistics) -> list[dict[str, Any]]:
    """Rank correlation and SSIM to the trained network's map, for each method and number of layers drawn anew.

    similarity (n, M, layers, 2), NaN for patches that were not looked at.
    """
    flat = similarity.astype(np.float64).reshape(len(similarity), -1)
    found = means(flat, s.group, statistics.repetitions, statistics.seed, statistics.level)
    rows = []
    for i, method in enumerate(s.methods):
        for k, layer in enumerate(layers):
            at = [int(np.ravel_multi_index((i, k, q), similarity.shape[1:])) for q in (0, 1)]
            rows.append(
                {
                    "method": method,
                    "down_to": layer,
                    "rank_correlation": _or_none(found.mean[at[0]]),
                    "ssim": _or_none(found.mean[at[1]]),
                    "n": int(found.n[at[0]]),
                }
            )
    return rows


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values).all(axis=1)
    return values[known].mean(axis=0, dtype=np.float64) if known.any() else np.full(values.shape[1], np.nan)


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
