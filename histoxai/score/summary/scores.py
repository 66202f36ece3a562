"""What summaries look at: the values of a scores store in one profile, and which of them count for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from histoxai.core.errors import UsageError
from histoxai.score.measures.measures import DEGENERATE

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
    """A scores store in one profile, n patches, M methods, K masks, Q metrics.

    values, chance (n, M, K, Q) float64, NaN undefined; flags (n, M, K); counts (n, M, K, 4); union (n, M, 4): counts
    against both masks together; curves, mask_curves (n, M, K, 2, 102), read piece by piece, None where there are none;
    logits (n, classes); label, prediction, case, group, patch_id (n,).
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

    def of(self, metric: str) -> np.ndarray:
        """Values (n, M, K) of one metric."""
        return self.values[..., self.metrics.index(metric)]

    def real(self) -> list[int]:
        """Places of the methods that are no null models."""
        return [i for i, m in enumerate(self.methods.values()) if not m.null]


def primary_of(primary: str | None, metrics: list[str], profile: str) -> str:
    """The measure that methods are compared by: the one that is asked for, else auroc, else iou.

    Raises UsageError where this profile does not have it.
    """
    chosen = primary or ("auroc" if "auroc" in metrics else "iou")
    if chosen not in metrics:
        raise UsageError(f"--primary {chosen}: the {profile} profile has {', '.join(metrics)}")
    return chosen


def cancer_of(named: tuple[str, ...] | None, classes: list[str]) -> list[int]:
    """Numbers of the classes with tumor: those that are named, else all whose names do not say otherwise.

    Raises UsageError for a class that is not there.
    """
    if named is None:
        return [i for i, c in enumerate(classes) if c.lower() not in NO_TUMOR]
    if unknown := [c for c in named if c not in classes]:
        raise UsageError(f"--cancer {unknown[0]}: the classes are {', '.join(classes)}")
    return [classes.index(c) for c in named]


def agreed(values: np.ndarray, flags: np.ndarray, metrics: list[str], empty: str) -> np.ndarray:
    """Values with 0/0 as a convention has it: left out (NaN), 0 (scikit-learn's default) or 1 (Dice challenges').

    Maps that are not finite stay undefined, and so do correlations and areas under curves.
    """
    if empty == "exclude":
        return values
    those = np.array([m.removesuffix("_area").removesuffix("_otsu") in AGREED for m in metrics])
    finite_map = (flags & DEGENERATE["not_finite_map"]) == 0
    return np.where(np.isnan(values) & those & finite_map[..., None], {"zero": 0.0, "one": 1.0}[empty], values)
