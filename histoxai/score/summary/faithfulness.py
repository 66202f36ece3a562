"""Summarise tests of maps on the model: means with intervals, curves, and the sanity check."""

from __future__ import annotations

import numpy as np

from histoxai.score.results import FaithfulnessCurve, FaithfulnessRow, SanityRow
from histoxai.score.summary.scores import Scores
from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import Estimate, means
from histoxai.statistics.numbers import or_none

# Whether a larger value speaks for a map.
HIGHER_IS_BETTER = {"deletion": False, "insertion": True, "road": True, "infidelity": False, "sensitivity": False}


def faithfulness(s: Scores, values: np.ndarray, probes: list[str], statistics: Statistics) -> list[FaithfulnessRow]:
    """Return a row for each method, class and faithfulness measure.

    values (n, M, probes): NaN where not done or undefined.
    """
    strata = [("all", np.ones(len(s.label), bool))]
    strata += [(name, s.label == k) for k, name in enumerate(s.classes) if (s.label == k).any()]
    rows = []
    for name, members in strata:
        flat = values[members].astype(np.float64).reshape(int(members.sum()), -1)
        found = means(flat, s.group[members], *statistics.bootstrap)
        pairs = [(method, probe) for method in s.methods for probe in probes]
        rows += [_row(found, k, name, method, probe) for k, (method, probe) in enumerate(pairs)]
    return rows


def _row(found: Estimate, k: int, class_name: str, method: str, probe: str) -> FaithfulnessRow:
    return {
        "method": method,
        "class": class_name,
        "probe": probe,
        "higher_is_better": HIGHER_IS_BETTER[probe],
        "mean": or_none(found.mean[k]),
        "low": or_none(found.low[k]),
        "high": or_none(found.high[k]),
        "n": int(found.n[k]),
        "groups": int(found.groups[k]),
        "withheld": found.withheld(k),
    }


def mean_curves(s: Scores, curves: dict[str, np.ndarray]) -> list[FaithfulnessCurve]:
    """Return means over patches of each method's curves; curves: probe -> (n, M, steps + 1)."""
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


def sanity(s: Scores, similarity: np.ndarray, layers: list[str], statistics: Statistics) -> list[SanityRow]:
    """Return rank correlation and SSIM to the trained network's map, for each method and part drawn anew.

    similarity (n, M, 1 + layers, 2): NaN for patches that were not tested. `down_to` None: only the method's own random
    numbers are drawn anew, which is as similar as a map can be.
    """
    flat = similarity.astype(np.float64).reshape(len(similarity), -1)
    found = means(flat, s.group, *statistics.bootstrap)
    rows: list[SanityRow] = []
    for i, method in enumerate(s.methods):
        for k, layer in enumerate([None, *layers]):
            rank, ssim = (int(np.ravel_multi_index((i, k, q), similarity.shape[1:])) for q in (0, 1))
            rows.append(
                {
                    "method": method,
                    "down_to": layer,
                    "rank_correlation": or_none(found.mean[rank]),
                    "low": or_none(found.low[rank]),
                    "high": or_none(found.high[rank]),
                    "ssim": or_none(found.mean[ssim]),
                    "n": int(found.n[rank]),
                }
            )
    return rows


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values).all(axis=1)
    return values[known].mean(axis=0, dtype=np.float64) if known.any() else np.full(values.shape[1], np.nan)
