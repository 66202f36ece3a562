"""The values of a scores store in one profile, as summaries read them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from histoxai.core import registry
from histoxai.core.errors import UsageError
from histoxai.score.measures.base import DEGENERATE, Measure
from histoxai.settings import Statistics

NO_TUMOR = ("a", "n", "bg", "t", "artifact", "artefact", "normal", "benign", "background", "tissue", "stroma")


_MOST_REPETITIONS = 20_000


class Pieces(Protocol):
    """An array of which rows are read as they are needed; an array in memory is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Method:
    """The registered method behind a name, and whether it is a null model: one that cannot know the classifier."""

    method: str
    null: bool


@dataclass(frozen=True)
class Scores:
    """A scores store in one profile: n patches, M methods, K masks, Q metrics.

    values, chance (n, M, K, Q) float64, NaN undefined; flags (n, M, K); counts (n, M, K, 4); union (n, M, 4): counts
    against both masks together; tissue (n, M, 4): counts against the patch's tissue, None where the store has none;
    curves, mask_curves (n, M, K, 2, 102), read piece by piece, None where there are none; logits (n, classes); label,
    prediction, case, group, patch_id (n,).
    """

    profile: str
    values: np.ndarray
    chance: np.ndarray
    flags: np.ndarray
    counts: np.ndarray
    union: np.ndarray
    curves: Pieces | None
    mask_curves: Pieces | None
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
    tissue: np.ndarray | None = None

    def of(self, metric: str) -> np.ndarray:
        """Return values (n, M, K) of one metric."""
        return self.values[..., self.metrics.index(metric)]

    def real(self) -> list[int]:
        """Return positions of the methods that are no null models."""
        return [i for i, m in enumerate(self.methods.values()) if not m.null]

    @cached_property
    def measures(self) -> dict[str, Measure | None]:
        """The measure behind each metric; None where its plugin is no longer installed."""
        known = measures_of(self.profile)
        return {name: known.get(name) for name in self.metrics}


def measures_of(profile: str) -> dict[str, Measure]:
    """Return the measures of a registered profile by name.

    Raises UsageError for an unknown profile.
    """
    return {m.name: m for m in registry.resolve("profile", profile).measures()}


def label_of(metric: str) -> str:
    """Return a measure's name as pages and figures print it, whatever profile has it."""
    for profile in registry.names("profile"):
        if measure := measures_of(profile).get(metric):
            return measure.label
    return metric.replace("_", " ")


def primary_of(primary: str | None, metrics: list[str], profile: str) -> str:
    """Return the measure that methods are compared by: the one asked for, else auroc, else iou, else the first.

    Raises UsageError where this profile does not have it.
    """
    default = next((m for m in ("auroc", "iou") if m in metrics), metrics[0])
    if (chosen := primary or default) not in metrics:
        raise UsageError(f"--primary {chosen}: the {profile} profile has {', '.join(metrics)}")
    return chosen


def with_primary(s: Scores, statistics: Statistics) -> Statistics:
    """Name the primary measure, and raise repetitions until the least p can stand Holm's correction.

    Repetitions other than the default are left as they are. Raises UsageError for a measure that is not there.
    """
    statistics = replace(statistics, primary=primary_of(statistics.primary, s.metrics, s.profile))
    methods = len(s.methods)
    return enough_repetitions(statistics, len(s.masks) * max(methods, methods * (methods - 1) // 2))


def enough_repetitions(statistics: Statistics, tests: int) -> Statistics:
    """Raise repetitions to what a family of so many tests needs, unless their number was chosen."""
    if statistics.repetitions != Statistics.repetitions:
        return statistics
    needed = math.ceil(4 * tests / (1 - statistics.level))
    return replace(statistics, repetitions=min(_MOST_REPETITIONS, max(statistics.repetitions, needed)))


def cancer_of(named: tuple[str, ...] | None, classes: list[str]) -> list[int]:
    """Return numbers of the classes with tumor: those named, else all whose names do not say otherwise.

    Raises UsageError for a class that is not there.
    """
    if named is None:
        return [i for i, c in enumerate(classes) if c.lower() not in NO_TUMOR]
    if unknown := [c for c in named if c not in classes]:
        raise UsageError(f"--cancer {unknown[0]}: the classes are {', '.join(classes)}")
    return [classes.index(c) for c in named]


def apply_convention(values: np.ndarray, flags: np.ndarray, measures: list[Measure | None], empty: str) -> np.ndarray:
    """Give 0/0 the value of a convention: left out (NaN), 0 (scikit-learn's default) or 1 (Dice challenges').

    values (..., Q) of Q measures; flags (...). Maps that are not finite stay undefined, and so do measures without a
    convention, such as correlations and areas under curves.
    """
    if empty == "exclude":
        return values
    has_convention = np.array([m is not None and m.convention for m in measures])
    finite_map = (flags & DEGENERATE["not_finite_map"]) == 0
    filled = np.isnan(values) & has_convention & finite_map[..., None]
    return np.where(filled, {"zero": 0.0, "one": 1.0}[empty], values)
