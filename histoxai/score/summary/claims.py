"""Define a claim of the study, its test, and the data and helpers that tests share.

Tests are one-sided, from the studentised cluster bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from histoxai.score.measures.base import DEGENERATE
from histoxai.score.summary.scores import Scores
from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import FEWEST, Estimate, any_below, difference, means


class CannotTest(Exception):
    """Reason why a claim cannot be tested, as text."""


@dataclass
class Finding:
    """What the test of a claim found.

    p, opposite: p value of the claim and of its opposite. words: the result in words. parts: the numbers behind it.
    """

    p: float = float("nan")
    opposite: float = float("nan")
    words: str = ""
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ClaimData:
    """Data of the tests: scores, values (n, M, K) of the primary measure, and numbers of the classes with tumor."""

    scores: Scores
    primary: np.ndarray
    cancer: list[int]
    settings: Statistics

    def mask(self, name: str) -> int:
        """Return the position of a mask."""
        return self.scores.masks.index(name)

    def named(self, method: str) -> int:
        """Find the first entry of a registered method that is no null model."""
        kinds = [(m.method, m.null) for m in self.scores.methods.values()]
        if (method, False) in kinds:
            return kinds.index((method, False))
        raise CannotTest(
            f"the store has no {method}" + (" but under random weights" if (method, True) in kinds else "")
        )

    def others(self, *methods: int) -> list[int]:
        """Return positions of all other methods that are no null models."""
        if found := [i for i in self.scores.real() if i not in methods]:
            return found
        raise CannotTest("the store has no other method to compare with")

    def on_tumor(self, metric: str) -> np.ndarray:
        """Return values (n, M) of a metric on the tumor mask."""
        if metric not in self.scores.metrics:
            raise CannotTest(f"the store has no {metric} in the {self.scores.profile} profile")
        return self.scores.of(metric)[:, :, self.mask("tumor")]

    def primary_on_tumor(self) -> np.ndarray:
        """Return values (n, M) of the primary measure on the tumor mask."""
        return self.primary[:, :, self.mask("tumor")]

    def marked(self, method: int, counts: np.ndarray) -> np.ndarray:
        """Return the share (n,) of pixels that a map marks, from counts (n, M, 4); NaN for maps that are not finite."""
        tp, fp, fn, tn = counts[:, method].T.astype(np.float64)
        lost = (self.scores.flags[:, method] & DEGENERATE["not_finite_map"]).any(axis=1)
        return np.where(lost, np.nan, (tp + fp) / (tp + fp + fn + tn))

    def mean(self, values: np.ndarray, against: float = 0.0) -> Estimate:
        """Estimate the mean of values (n,) above `against`."""
        found = means(values[:, None] - against, self.scores.group, *self.settings.bootstrap)
        _require_groups(found)
        return found

    def gap(self, values: np.ndarray, sides: Mapping[str, np.ndarray], against: float = 0.0) -> Estimate:
        """Estimate the mean over the first of two named sets of patches, less that of the second, less `against`."""
        for name, members in sides.items():
            groups = len(np.unique(self.scores.group[members & np.isfinite(values)]))
            if groups < FEWEST:
                raise CannotTest(f"{groups} groups have {name} with a value; it takes {FEWEST}")
        first, second = sides.values()
        shifted = np.where(first, values - against, values)
        return difference(shifted, self.scores.group, (first, second), *self.settings.bootstrap)

    def test_all_above(self, found: Finding, differences: Mapping[str, np.ndarray]) -> None:
        """Test that the mean of each named set of differences (n,) is above 0; their means become parts.

        The claim has the largest p (intersection-union). Its opposite takes one counterexample, tested jointly.
        """
        values, (repetitions, seed, level) = np.stack(list(differences.values()), axis=1), self.settings.bootstrap
        mean = means(values, self.scores.group, repetitions, seed, level)
        _require_groups(mean)
        found.parts |= {name: float(m) for name, m in zip(differences, mean.mean, strict=True)}
        found.p = float(mean.above.max())
        found.opposite = any_below(values, self.scores.group, repetitions, seed)


def _require_groups(found: Estimate) -> None:
    if (fewest := int(found.groups.min())) < FEWEST:
        raise CannotTest(f"{fewest} groups have the patches it needs; it takes {FEWEST}")


def outside_and_chance(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share (n,) of marked pixels that lie outside, and the patch's share outside; from counts (n, 4).

    Both are NaN where nothing is marked.
    """
    tp, fp, fn, tn = counts.T.astype(np.float64)
    marks = tp + fp > 0
    outside = np.where(marks, fp / np.maximum(tp + fp, 1), np.nan)
    return outside, np.where(marks, (fp + tn) / (tp + fp + fn + tn), np.nan)


def differences_from(
    values: np.ndarray, above: Sequence[int], below: Sequence[int], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return each method of `above` less each one of `below`, (n,) from values (n, M), as "a - b"."""
    return {f"{names[a]} - {names[b]}": values[:, a] - values[:, b] for a in above for b in below}


@dataclass(frozen=True)
class Claim:
    """A claim of the study.

    words: the claim; measure: what its test measures here. Both may name {primary}, {margin} and {profile}.
    study_measure: what the study measured. test: fills the finding, or raises CannotTest.
    """

    words: str
    measure: str
    study_measure: str
    test: Callable[[ClaimData, Finding], None]
