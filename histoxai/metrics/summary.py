"""Scores summed up: means with what stands behind them, what chance gives, how methods differ, what may be concluded.

Arrays in, plain rows out; the CLI prints them and the report draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from histoxai.errors import UsageError
from histoxai.metrics import chance
from histoxai.metrics.bootstrap import Estimate, means
from histoxai.metrics.classification import classifier_scores
from histoxai.metrics.comparisons import friedman, holm, paired
from histoxai.metrics.conclusions import conclude
from histoxai.metrics.localisation import THRESHOLDS
from histoxai.metrics.measures import COUNTED, DEGENERATE
from histoxai.metrics.statistics import strata
from histoxai.settings import Statistics

# 0/0 of these may be given a value; a correlation or an area under a curve cannot.
AGREED = (
    "iou",
    "precision",
    "recall",
    "f1",
    "mass_accuracy",
    "rank_accuracy",
    "top_k",
    "pointing_game",
    "energy_pointing",
)
NO_TUMOR = ("a", "n", "bg", "t", "artifact", "artefact", "normal", "benign", "background", "tissue", "stroma")
SIZES = ("small", "medium", "large")
MASK_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Method:
    """The registered method behind a name, and whether it is a null model: one that cannot know the classifier."""

    method: str
    null: bool


@dataclass(frozen=True)
class Scores:
    """A scores store in one profile, n patches, M methods, K masks, Q metrics.

    values, chance (n, M, K, Q) float64, NaN undefined; flags (n, M, K); counts (n, M, K, 4); union (n, M, 4): counts
    against both masks together; curves, mask_curves (n, M, K, 2, 102); logits (n, classes); label, prediction, case,
    group, patch_id (n,). sure: the probability that parts cases.
    """

    profile: str
    values: np.ndarray
    chance: np.ndarray
    flags: np.ndarray
    counts: np.ndarray
    union: np.ndarray
    curves: np.ndarray
    mask_curves: np.ndarray
    logits: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    case: np.ndarray
    group: np.ndarray
    patch_id: np.ndarray
    classes: list[str]
    methods: dict[str, Method]
    masks: list[str]
    metrics: list[str]
    partial: dict[str, Any] | None
    sure: float

    def of(self, metric: str) -> np.ndarray:
        """Values (n, M, K) of one metric.

        Raises UsageError where this profile does not have it.
        """
        if metric not in self.metrics:
            raise UsageError(f"--primary {metric}: the {self.profile} profile has {', '.join(self.metrics)}")
        return self.values[..., self.metrics.index(metric)]

    def real(self) -> list[int]:
        """Places of the methods that are no null models."""
        return [i for i, m in enumerate(self.methods.values()) if not m.null]

    def cancer(self, named: tuple[str, ...] | None) -> list[int]:
        """Numbers of the classes with tumor.

        Raises UsageError for a class that is not there.
        """
        if named is None:
            return [i for i, c in enumerate(self.classes) if c.lower() not in NO_TUMOR]
        if unknown := [c for c in named if c not in self.classes]:
            raise UsageError(f"--cancer {unknown[0]}: the classes are {', '.join(self.classes)}")
        return [self.classes.index(c) for c in named]


def agreed(values: np.ndarray, flags: np.ndarray, metrics: list[str], empty: str) -> np.ndarray:
    """Values with 0/0 as a convention has it: left out (NaN), 0 (scikit-learn's default) or 1 (Dice challenges').

    Maps that are not finite stay undefined, and so do correlations and areas under curves.
    """
    if empty == "exclude":
        return values
    those = np.array([m.removesuffix("_area").removesuffix("_otsu") in AGREED for m in metrics])
    finite_map = (flags & DEGENERATE["not_finite_map"]) == 0
    return np.where(np.isnan(values) & those & finite_map[..., None], {"zero": 0.0, "one": 1.0}[empty], values)


def summarise(s: Scores, statistics: Statistics, step: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Everything that `score --json` says beside its schema. step: is called after each stratum.

    Raises UsageError for a primary measure or class that is not there.
    """
    chosen = statistics.primary or ("auroc" if "auroc" in s.metrics else "iou")
    statistics = replace(statistics, primary=chosen)
    primary, cancer = s.of(chosen), s.cancer(statistics.cancer)
    rows = []
    for name, number, mine in strata(s.label, s.case, s.classes):
        rows += _rows(s, statistics, {"class": name, "case": number}, mine)
        step()
    _correct(rows)
    facts = asdict(statistics) | {"cancer": [s.classes[c] for c in cancer], "groups": len(set(s.group.tolist()))}
    return {
        "profile": s.profile,
        "patches": len(s.label),
        "partial": s.partial,
        "statistics": facts,
        "methods": {name: asdict(m) for name, m in s.methods.items()},
        "rows": rows,
        "sizes": _by_size(s, statistics),
        "map_thresholds": _map_thresholds(s, statistics.empty),
        "mask_thresholds": _mask_thresholds(s, statistics.empty),
        "comparisons": _comparisons(s, primary, statistics),
        "best_null": _against_null(s, primary, statistics),
        "friedman": _friedman(s, primary, statistics),
        "conclusions": conclude(s, primary, cancer, statistics),
        "classifier": classifier_scores(s.logits, s.label, s.group, s.classes, cancer, statistics),
    }


def patches(s: Scores) -> Iterator[dict[str, Any]]:
    """One row per patch, method, mask and metric, with the keys of the rows of `summarise`."""
    for n, patch_id in enumerate(s.patch_id):
        name = s.classes[s.label[n]] if s.label[n] >= 0 else None
        about = {"patch_id": str(patch_id), "group": str(s.group[n]), "class": name}
        for i, method in enumerate(s.methods):
            for j, mask in enumerate(s.masks):
                for k, metric in enumerate(s.metrics):
                    value = float(s.values[n, i, j, k])
                    yield {
                        "profile": s.profile,
                        **about,
                        "method": method,
                        "mask": mask,
                        "case": str(s.case[n]),
                        "metric": metric,
                        "mean": _or_none(value),
                        "n": int(np.isfinite(value)),
                        "undefined": int(not np.isfinite(value)),
                        "chance": _or_none(s.chance[n, i, j, k]),
                        "degenerate": {flag: int(bool(s.flags[n, i, j] & bit)) for flag, bit in DEGENERATE.items()},
                        "partial": s.partial is not None,
                    }


# ---- means


def _rows(s: Scores, statistics: Statistics, about: dict[str, str], mine: np.ndarray) -> list[dict[str, Any]]:
    values, by_chance = s.values[mine], s.chance[mine]
    shape = values.shape[1:]
    both = np.isfinite(values) & np.isfinite(by_chance)
    columns = np.stack([values, np.where(both, values - by_chance, np.nan)], axis=1)
    found = _means(columns, s.group[mine], statistics)
    low, high = _clipped(found, s.metrics, 2 * int(np.prod(shape[:-1])))
    with np.errstate(invalid="ignore"):
        expected = np.where(both, by_chance, 0).sum(axis=0) / both.sum(axis=0)
    flagged = {name: ((s.flags[mine] & bit) > 0).sum(axis=0) for name, bit in DEGENERATE.items()}
    rows = []
    for flat, (i, j, k) in enumerate(np.ndindex(shape)):
        above, base = flat + int(np.prod(shape)), float(expected[i, j, k])
        rows.append(
            {
                "method": list(s.methods)[i],
                "mask": s.masks[j],
                **about,
                "metric": s.metrics[k],
                "mean": _or_none(found.mean[flat]),
                "n": int(found.n[flat]),
                "undefined": len(values) - int(found.n[flat]),
                "partial": s.partial is not None,
                "low": _or_none(low[flat]),
                "high": _or_none(high[flat]),
                "groups": int(found.groups[flat]),
                "withheld": found.withheld(flat),
                "chance": _or_none(base),
                # of the patches that have both, which under --empty are not all
                "lift": _or_none((float(found.mean[above]) + base) / base) if base else None,
                "above_chance": {
                    "mean": _or_none(found.mean[above]),
                    "low": _or_none(found.low[above]),
                    "high": _or_none(found.high[above]),
                    "p": _or_none(found.p[above]),
                    "p_holm": None,
                },
                "degenerate": {name: int(count[i, j]) for name, count in flagged.items()},
            }
        )
    return rows


def _correct(rows: list[dict[str, Any]]) -> None:
    # one family: every method, mask and measure over all classes and cases
    family = [r["above_chance"] for r in rows if r["class"] == "all" and r["case"] == "all"]
    for row, value in zip(family, holm(np.array([_nan(r["p"]) for r in family])), strict=True):
        row["p_holm"] = _or_none(value)


def _clipped(found: Estimate, metrics: list[str], times: int) -> tuple[np.ndarray, np.ndarray]:
    # an interval of a measure ends where the measure does
    least = [-1.0 if m.startswith(("phi", "spearman")) else 0.0 for m in metrics] * times
    return np.clip(found.low, least, 1.0), np.clip(found.high, least, 1.0)


def _means(values: np.ndarray, group: np.ndarray, statistics: Statistics) -> Estimate:
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    if not len(flat):
        nothing = np.full(flat.shape[1], np.nan)
        none = np.zeros(flat.shape[1], np.int64)
        return Estimate(nothing, nothing, nothing, nothing, nothing, none, none)
    return means(flat, group, statistics.repetitions, statistics.seed, statistics.level)


def _by_size(s: Scores, statistics: Statistics) -> list[dict[str, Any]]:
    # means of every metric for small, medium and large masks: thirds of the patches whose mask is not empty
    area = s.counts[:, 0, :, 0] + s.counts[:, 0, :, 2]
    rows = []
    for j, mask in enumerate(s.masks):
        there = area[:, j] > 0
        if not there.any():
            continue
        ends = np.quantile(area[there, j], [1 / 3, 2 / 3])
        third = np.where(there, np.searchsorted(ends, area[:, j], side="left"), -1)
        for k, size in enumerate(SIZES):
            mine = third == k
            found = _means(s.values[mine][:, :, j], s.group[mine], statistics)
            low, high = _clipped(found, s.metrics, len(s.methods))
            both = np.isfinite(s.values[mine][:, :, j]) & np.isfinite(s.chance[mine][:, :, j])
            with np.errstate(invalid="ignore"):
                expected = np.where(both, s.chance[mine][:, :, j], 0).sum(axis=0) / both.sum(axis=0)
            for flat, (i, q) in enumerate(np.ndindex(len(s.methods), len(s.metrics))):
                rows.append(
                    {
                        "method": list(s.methods)[i],
                        "mask": mask,
                        "size": size,
                        "pixels": [int(area[mine, j].min()), int(area[mine, j].max())] if mine.any() else None,
                        "metric": s.metrics[q],
                        "mean": _or_none(found.mean[flat]),
                        "n": int(found.n[flat]),
                        "low": _or_none(low[flat]),
                        "high": _or_none(high[flat]),
                        "groups": int(found.groups[flat]),
                        "withheld": found.withheld(flat),
                        "chance": _or_none(expected[i, q]),
                    }
                )
    return rows


def _map_thresholds(s: Scores, empty: str) -> list[dict[str, Any]]:
    # the six measures of maps that are cut at every one of 101 thresholds, from one histogram of each
    if s.profile != "corrected" or not s.curves.any():
        return []
    rows = []
    for i, j in np.ndindex(len(s.methods), len(s.masks)):
        above = s.curves[:, i, j, :, ::-1].cumsum(axis=-1, dtype=np.int64)[..., ::-1]  # (n, 2, 102), from j up
        tp, fp = above[:, 0, 1:], above[:, 1, 1:]
        counts = np.stack([tp, fp, above[:, 0, :1] - tp, above[:, 1, :1] - fp], axis=-1)
        lost = (s.flags[:, i, j] & DEGENERATE["not_finite_map"]) > 0
        row: dict[str, Any] = {"method": list(s.methods)[i], "mask": s.masks[j], "threshold": THRESHOLDS.tolist()}
        for name, measure in COUNTED.items():
            values = np.where(lost[:, None], np.nan, measure(counts))
            values = agreed(values[..., None], s.flags[:, i, j, None], [name], empty)[..., 0]
            n = np.isfinite(values).sum(axis=0)
            means_ = np.nansum(values, axis=0) / np.maximum(n, 1)
            row[name] = [float(m) if k else None for m, k in zip(means_, n, strict=True)]
        rows.append(row)
    return rows


def _mask_thresholds(s: Scores, empty: str) -> list[dict[str, Any]]:
    # the six measures where masks are cut elsewhere, all from one histogram of each map, cut where it always is
    if s.profile != "corrected" or not s.mask_curves.any():  # curves come with all measures
        return []
    rows = []
    for threshold in MASK_THRESHOLDS:
        counts = counts_at(s.mask_curves, threshold)[..., [0, 2, 1, 3]]  # there the map is the truth
        expected = chance.of_counts(counts, exact=False)
        for name, measure in COUNTED.items():
            values = np.where(s.flags & DEGENERATE["not_finite_map"], np.nan, measure(counts))
            values = agreed(values[..., None], s.flags, [name], empty)[..., 0]
            for i, j in np.ndindex(len(s.methods), len(s.masks)):
                known = np.isfinite(values[:, i, j])
                both = known & np.isfinite(expected[name][:, i, j])
                rows.append(
                    {
                        "method": list(s.methods)[i],
                        "mask": s.masks[j],
                        "mask_threshold": threshold,
                        "metric": name,
                        "mean": float(values[known, i, j].mean()) if known.any() else None,
                        "n": int(known.sum()),
                        "chance": float(expected[name][both, i, j].mean()) if both.any() else None,
                    }
                )
    return rows


def counts_at(curves: np.ndarray, threshold: float) -> np.ndarray:
    """TP, FP, FN, TN (..., 4) at one of the thresholds 0, 0.01, ..., 1 from `curves` (..., 2, 102)."""
    at = int(np.argmin(np.abs(THRESHOLDS - threshold))) + 1
    above, whole = curves[..., at:].sum(axis=-1), curves.sum(axis=-1)
    tp, fp = above[..., 0], above[..., 1]
    return np.stack([tp, fp, whole[..., 0] - tp, whole[..., 1] - fp], axis=-1)


# ---- differences between methods


def _comparisons(s: Scores, primary: np.ndarray, statistics: Statistics) -> list[dict[str, Any]]:
    # every pair of methods that are no null models, on every mask; one family
    names, real = list(s.methods), s.real()
    rows = [
        _pair(s, primary, j, a, b, statistics)
        for j in range(len(s.masks))
        for n, a in enumerate(real)
        for b in real[n + 1 :]
    ]
    return _corrected([{"a": names[a], "b": names[b], **row} for a, b, row in rows])


def _against_null(s: Scores, primary: np.ndarray, statistics: Statistics) -> list[dict[str, Any]]:
    # every other method against the best of the null models, which is found on the same patches: that favours it
    names, real = list(s.methods), s.real()
    null = [i for i in range(len(names)) if i not in real]
    if not null:
        return []
    rows = []
    for j in range(len(s.masks)):
        known = [float(np.nanmean(v)) if np.isfinite(v := primary[:, i, j]).any() else -np.inf for i in null]
        best = null[int(np.argmax(known))]
        rows += [_pair(s, primary, j, a, best, statistics) for a in real]
    return _corrected([{"method": names[a], "null": names[b], **row} for a, b, row in rows])


def _pair(
    s: Scores, primary: np.ndarray, mask: int, a: int, b: int, statistics: Statistics
) -> tuple[int, int, dict[str, Any]]:
    found = paired(
        primary[:, a, mask], primary[:, b, mask], s.group, statistics.repetitions, statistics.seed, statistics.level
    )
    numbers = {k: v if isinstance(v, int) else _or_none(v) for k, v in asdict(found).items()}
    return a, b, {"mask": s.masks[mask], "metric": statistics.primary, "difference": numbers.pop("mean"), **numbers}


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for key in ("p", "wilcoxon"):
        adjusted = holm(np.array([_nan(r[key]) for r in rows]))
        for row, value in zip(rows, adjusted, strict=True):
            row[f"{key}_holm"] = _or_none(value)
    return rows


def _friedman(s: Scores, primary: np.ndarray, statistics: Statistics) -> list[dict[str, Any]]:
    names = list(s.methods)
    rows = []
    for j, mask in enumerate(s.masks):
        found = friedman(primary[:, :, j], s.group, statistics.level)
        about: dict[str, Any] = {"mask": mask, "metric": statistics.primary}
        if isinstance(found, str):
            nothing: dict[str, Any] = {
                "p": None,
                "ranks": {},
                "critical_difference": None,
                "groups": None,
                "cliques": [],
            }
            rows.append({**about, **nothing, "withheld": found})
            continue
        rows.append(
            {
                **about,
                "p": found.p,
                "ranks": {n: float(r) for n, r in zip(names, found.ranks, strict=True)},
                "critical_difference": found.critical,
                "groups": found.blocks,
                "cliques": [[names[i] for i in clique] for clique in found.cliques],
                "withheld": None,
            }
        )
    return rows


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
