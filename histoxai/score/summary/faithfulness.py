"""Tests on the model, summed up: means of probes with intervals, curves, and what randomised weights leave of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import means
from histoxai.statistics.numbers import or_none

if TYPE_CHECKING:
    from histoxai.score.summary.scores import Scores

# Whether a larger value speaks for a map.
HIGHER_IS_BETTER = {"deletion": False, "insertion": True, "road": True, "infidelity": False, "sensitivity": False}


def faithfulness(s: Scores, values: np.ndarray, probes: list[str], statistics: Statistics) -> list[dict[str, Any]]:
    """Rows for each method, class and probe; values (n, M, probes), NaN where not done or undefined."""
    strata = [("all", np.ones(len(s.label), bool))]
    strata += [(name, s.label == k) for k, name in enumerate(s.classes) if (s.label == k).any()]
    rows = []
    for name, mine in strata:
        flat = values[mine].astype(np.float64).reshape(int(mine.sum()), -1)
        found = means(flat, s.group[mine], statistics.repetitions, statistics.seed, statistics.level)
        for k, (i, q) in enumerate(np.ndindex(len(s.methods), len(probes))):
            rows.append(
                {
                    "method": list(s.methods)[i],
                    "class": name,
                    "probe": probes[q],
                    "higher_is_better": HIGHER_IS_BETTER[probes[q]],
                    "mean": or_none(found.mean[k]),
                    "low": or_none(found.low[k]),
                    "high": or_none(found.high[k]),
                    "n": int(found.n[k]),
                    "groups": int(found.groups[k]),
                    "withheld": found.withheld(k),
                }
            )
    return rows


def mean_curves(s: Scores, curves: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Means over patches of each method's curves; curves: probe -> (n, M, steps + 1)."""
    return [
        {
            "method": method,
            "probe": probe,
            "share": np.linspace(0, 1, values.shape[-1]).tolist(),
            "probability": [or_none(v) for v in _mean(values[:, i])],
        }
        for i, method in enumerate(s.methods)
        for probe, values in curves.items()
    ]


def sanity(s: Scores, similarity: np.ndarray, layers: list[str], statistics: Statistics) -> list[dict[str, Any]]:
    """Rank correlation and SSIM to the trained network's map, for each method and part drawn anew.

    similarity (n, M, 1 + layers, 2), NaN for patches that were not looked at. `down_to` None: nothing is drawn anew but
    the method's own random numbers, which is as similar as a map can be.
    """
    flat = similarity.astype(np.float64).reshape(len(similarity), -1)
    found = means(flat, s.group, statistics.repetitions, statistics.seed, statistics.level)
    rows = []
    for i, method in enumerate(s.methods):
        for k, layer in enumerate([None, *layers]):
            at = [int(np.ravel_multi_index((i, k, q), similarity.shape[1:])) for q in (0, 1)]
            rows.append(
                {
                    "method": method,
                    "down_to": layer,
                    "rank_correlation": or_none(found.mean[at[0]]),
                    "low": or_none(found.low[at[0]]),
                    "high": or_none(found.high[at[0]]),
                    "ssim": or_none(found.mean[at[1]]),
                    "n": int(found.n[at[0]]),
                }
            )
    return rows


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values).all(axis=1)
    return values[known].mean(axis=0, dtype=np.float64) if known.any() else np.full(values.shape[1], np.nan)
