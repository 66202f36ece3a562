"""Sum up scores: means beside chance, differences between methods, the study's conclusions, and the classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np

from histoxai.score.measures.base import DEGENERATE
from histoxai.score.results import PatchRow, StatisticsFacts, Summary
from histoxai.score.summary.comparisons import compare_methods, compare_with_null, rank_methods
from histoxai.score.summary.conclusions import conclude
from histoxai.score.summary.means import means_by_size, means_of
from histoxai.score.summary.scores import Scores, cancer_of, with_primary
from histoxai.score.summary.thresholds import map_thresholds, mask_thresholds
from histoxai.settings import Statistics
from histoxai.statistics.classification import classifier_scores
from histoxai.statistics.numbers import or_none


def summarise(s: Scores, statistics: Statistics, step: Callable[[], None] = lambda: None) -> Summary:
    """Return everything that `score --json` says beside its schema and faithfulness.

    step: is called after each stratum. Raises UsageError for a primary measure or class that is not there.
    """
    statistics = with_primary(s, statistics)
    assert statistics.primary is not None
    primary, cancer = s.of(statistics.primary), cancer_of(statistics.cancer, s.classes)
    return {
        "profile": s.profile,
        "patches": len(s.label),
        "partial": s.partial,
        "statistics": _facts(s, statistics, cancer),
        "methods": {name: {"method": m.method, "null": m.null} for name, m in s.methods.items()},
        "rows": means_of(s, statistics, step),
        "sizes": means_by_size(s, statistics),
        "map_thresholds": map_thresholds(s, statistics.empty),
        "mask_thresholds": mask_thresholds(s, statistics.empty),
        "comparisons": compare_methods(s, primary, statistics),
        "best_null": compare_with_null(s, primary, statistics),
        "friedman": rank_methods(s, primary, statistics),
        "conclusions": conclude(s, primary, cancer, statistics),
        "classifier": classifier_scores(s.logits, s.label, s.group, s.classes, cancer, statistics),
    }


def _facts(s: Scores, statistics: Statistics, cancer: list[int]) -> StatisticsFacts:
    facts: StatisticsFacts = {**asdict(statistics), "cancer": [s.classes[c] for c in cancer]}  # type: ignore[typeddict-item]
    facts["groups"] = len(set(s.group.tolist()))
    return facts


def patch_rows(s: Scores) -> Iterator[PatchRow]:
    """Yield one row per patch, method, mask and metric, with the keys of the rows of `summarise`."""
    for n in range(len(s.patch_id)):
        for i, method in enumerate(s.methods):
            for j, mask in enumerate(s.masks):
                for k in range(len(s.metrics)):
                    yield _patch_row(s, (n, i, j, k), method, mask)


def _patch_row(s: Scores, at: tuple[int, int, int, int], method: str, mask: str) -> PatchRow:
    n, i, j, k = at
    value = float(s.values[at])
    return {
        "profile": s.profile,
        "patch_id": str(s.patch_id[n]),
        "group": str(s.group[n]),
        "class": s.classes[s.label[n]] if s.label[n] >= 0 else None,
        "method": method,
        "mask": mask,
        "case": str(s.case[n]),
        "metric": s.metrics[k],
        "mean": or_none(value),
        "n": int(np.isfinite(value)),
        "undefined": int(not np.isfinite(value)),
        "chance": or_none(s.chance[at]),
        "degenerate": {flag: int(bool(s.flags[n, i, j] & bit)) for flag, bit in DEGENERATE.items()},
        "partial": s.partial is not None,
    }
