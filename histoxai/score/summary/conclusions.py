"""Test the study's seven conclusions, each with an answer in words.

Tests are one-sided, from the studentised cluster bootstrap. A claim with several parts (a method is above each other
one) has the largest p of its parts (intersection-union). The seventh claims that there is no difference, which takes a
test of equivalence (two one-sided tests, Schuirmann 1987). Holm's correction is over all testable claims, in both
directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from histoxai.core.digits import signed
from histoxai.score.results import ConclusionRow
from histoxai.score.summary.scores import Scores
from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import FEWEST, Estimate, difference, means
from histoxai.statistics.numbers import or_none
from histoxai.statistics.tests import holm


@dataclass
class Conclusion:
    """One claim and its test.

    p, opposite: p value of the claim and of its opposite. found: the result in words. untested: why there is no test.
    parts: the numbers behind the result.
    """

    name: str
    claim: str
    p: float = float("nan")
    opposite: float = float("nan")
    found: str = ""
    untested: str = ""
    parts: dict[str, float] = field(default_factory=dict)


class _CannotTest(Exception):
    """Reason why a claim cannot be tested, as text."""


@dataclass
class _Data:
    """Data of the tests: scores, values (n, M, K) of the primary measure, and numbers of the classes with tumor."""

    scores: Scores
    primary: np.ndarray
    cancer: list[int]
    settings: Statistics

    def mask(self, name: str) -> int:
        return self.scores.masks.index(name)

    def named(self, method: str) -> int:
        """Find the first entry of a registered method that is no null model."""
        kinds = [(m.method, m.null) for m in self.scores.methods.values()]
        if (method, False) in kinds:
            return kinds.index((method, False))
        raise _CannotTest(
            f"the store has no {method}" + (" but under random weights" if (method, True) in kinds else "")
        )

    def mean(self, values: np.ndarray, against: float = 0.0) -> Estimate:
        """Estimate the mean of values (n,) above `against`."""
        found = means(values[:, None] - against, self.scores.group, *self.settings.bootstrap)
        if found.groups[0] < FEWEST:
            raise _CannotTest(f"{int(found.groups[0])} groups have the patches it needs; it takes {FEWEST}")
        return found

    def tumor(self) -> np.ndarray:
        """Return the mean (n,) over all methods but null models of the primary measure on the tumor mask."""
        return _mean_of_methods(self.primary[:, self.scores.real(), self.mask("tumor")])


def conclude(s: Scores, primary: np.ndarray, cancer: list[int], settings: Statistics) -> list[ConclusionRow]:
    """Test all seven claims; primary (n, M, K): values of the primary measure, higher is better."""
    data = _Data(s, primary, cancer, settings)
    words = {"primary": str(settings.primary).replace("_", " "), "margin": settings.margin}
    conclusions = []
    for name, (claim, test) in CLAIMS.items():
        conclusion = Conclusion(name, claim.format(**words))
        try:
            test(data, conclusion)
        except _CannotTest as reason:
            conclusion.untested = str(reason)
        conclusions.append(conclusion)
    adjusted = holm(np.array([[c.p, c.opposite] for c in conclusions]).ravel()).reshape(-1, 2)
    return [_row(c, float(p), float(q), 1 - settings.level) for c, (p, q) in zip(conclusions, adjusted, strict=True)]


def _row(c: Conclusion, p: float, opposite: float, alpha: float) -> ConclusionRow:
    if c.untested:
        answer, words = "not testable", f"Not testable: {c.untested}."
    elif p <= alpha:
        answer, words = "supported", f"Supported: {c.found} (p = {p:.2g})."
    elif opposite <= alpha:
        answer, words = "contradicted", f"Contradicted: {c.found} (p = {opposite:.2g} for the opposite)."
    else:
        answer, words = "not supported", f"Not supported: {c.found} (p = {p:.2g})."
    return {
        "name": c.name,
        "claim": c.claim,
        "answer": answer,
        "words": words,
        "p": or_none(c.p),
        "p_holm": or_none(p),
        "parts": c.parts,
    }


def _mean_of_methods(values: np.ndarray) -> np.ndarray:
    # mean over the methods that have a value; NaN where none has
    n = np.isfinite(values).sum(axis=1)
    return np.where(n > 0, np.nansum(values, axis=1) / np.maximum(n, 1), np.nan)


# ---- the seven


def _tumor_over_non_tumor(d: _Data, c: Conclusion) -> None:
    if not d.cancer:
        raise _CannotTest("no class is known to have tumor; name them with --cancer")
    s, real = d.scores, d.scores.real()
    gap = d.primary[:, real, d.mask("tumor")] - d.primary[:, real, d.mask("non_tumor")]
    gap = np.where(np.isin(s.label, d.cancer)[:, None], gap, np.nan)
    found = d.mean(_mean_of_methods(gap))
    c.p, c.opposite = float(found.above[0]), float(found.below[0])
    c.parts = {
        list(s.methods)[i]: float(np.nanmean(gap[:, k])) for k, i in enumerate(real) if np.isfinite(gap[:, k]).any()
    }
    c.found = (
        f"in patches of {', '.join(s.classes[k] for k in d.cancer)} maps agree with the tumor mask by "
        f"{signed(found.mean[0])} more than with the other one"
    )


def _above_all(d: _Data, c: Conclusion, above: list[int], below: list[int]) -> None:
    # whether every method of `above` is better than every one of `below` on the tumor mask
    if not above or not below:
        raise _CannotTest("the store has no other method to compare with")
    j, names = d.mask("tumor"), list(d.scores.methods)
    ps, opposites, words = [], [], []
    for a in above:
        for b in below:
            found = d.mean(d.primary[:, a, j] - d.primary[:, b, j])
            ps.append(float(found.above[0]))
            opposites.append(float(found.below[0]))
            c.parts[f"{names[a]} - {names[b]}"] = float(found.mean[0])
            words.append(f"{names[a]} is {signed(found.mean[0])} from {names[b]}")
    c.p = max(ps)
    c.opposite = min(1.0, min(opposites) * len(opposites))  # Bonferroni: one counterexample is enough
    c.found = ", ".join(words)


def _gradcam_best(d: _Data, c: Conclusion) -> None:
    best = d.named("gradcam")
    _above_all(d, c, [best], [i for i in d.scores.real() if i != best])


def _gradcam_outside(d: _Data, c: Conclusion) -> None:
    tp, fp, fn, tn = d.scores.union[:, d.named("gradcam")].T.astype(np.float64)
    outside = np.where(tp + fp > 0, fp / np.maximum(tp + fp, 1), np.nan)
    tissue = (fp + tn) / (tp + fp + fn + tn)
    share = d.mean(outside, against=0.5)
    c.p, c.opposite = float(share.above[0]), float(share.below[0])
    mean, base = float(share.mean[0]) + 0.5, float(np.mean(tissue[np.isfinite(outside)]))
    c.parts = {"outside": mean, "chance": base}
    c.found = f"{mean:.1%} of what it marks lies outside of both masks, where a map that knows nothing has {base:.1%}"


def _lime_second(d: _Data, c: Conclusion) -> None:
    lime, cam = d.named("lime"), d.named("gradcam")
    others = [i for i in d.scores.real() if i not in (lime, cam)]
    _above_all(d, c, [lime], others)
    words, p, opposite = c.found, c.p, c.opposite
    _above_all(d, c, [cam], [lime])
    c.found, c.p, c.opposite = f"{words}, {c.found}", max(p, c.p), min(1.0, 2 * min(opposite, c.opposite))


def _ig_nt_worst(d: _Data, c: Conclusion) -> None:
    worst = [d.named("ig"), d.named("nt")]
    _above_all(d, c, [i for i in d.scores.real() if i not in worst], worst)


def _best_classified(d: _Data, c: Conclusion) -> None:
    s = d.scores
    present = [k for k in d.cancer if (s.label == k).any()]
    if len(present) < 3:
        raise _CannotTest(f"it takes three classes with tumor, and patches are of {len(present)}")
    recall = {k: float((s.prediction[s.label == k] == k).mean()) for k in present}
    best = sorted(present, key=lambda k: -recall[k])[:2]
    others = [k for k in present if k not in best]
    sides = {"/".join(s.classes[k] for k in some): np.isin(s.label, some) for some in (best, others)}
    found = _gap(d, d.tumor(), sides)
    c.p, c.opposite = float(found.above[0]), float(found.below[0])
    c.parts = {s.classes[k]: recall[k] for k in present}
    c.found = (
        f"maps of {' and '.join(s.classes[k] for k in best)}, the cancer classes classified best, agree with the tumor "
        f"mask by {signed(found.mean[0])} more than those of the others"
    )


def _independent(d: _Data, c: Conclusion) -> None:
    s, values = d.scores, d.tumor()
    known = s.label >= 0
    ps, words = [], []
    margin = d.settings.margin
    contrasts = {("right", "wrong"): s.prediction == s.label, ("sure", "unsure"): np.isin(s.case, (1, 3))}
    for (one, other), members in contrasts.items():
        sides = {f"{one} patches": known & members, f"{other} patches": known & ~members}
        low, high = _gap(d, values, sides, -margin), _gap(d, values, sides, margin)
        ps += [float(low.above[0]), float(high.below[0])]
        name = f"{one} from {other}"
        c.parts[name] = float(low.mean[0]) - margin
        words.append(f"{signed(c.parts[name])} sets {name}")
    c.p = max(ps)
    c.found = f"{', '.join(words)}; the equivalence margin is {margin:g}"


def _gap(d: _Data, values: np.ndarray, sides: dict[str, np.ndarray], against: float = 0.0) -> Estimate:
    # mean over the first of two named sets of patches - mean over the second - against
    for name, members in sides.items():
        groups = len(np.unique(d.scores.group[members & np.isfinite(values)]))
        if groups < FEWEST:
            raise _CannotTest(f"{groups} groups have {name} with a value; it takes {FEWEST}")
    first, second = sides.values()
    shifted = np.where(first, values - against, values)
    return difference(shifted, d.scores.group, (first, second), *d.settings.bootstrap)


CLAIMS: dict[str, tuple[str, Callable[[_Data, Conclusion], None]]] = {
    "tumor_over_non_tumor": (
        "Maps of cancer classes agree more with the tumor than with the non-tumor mask ({primary})",
        _tumor_over_non_tumor,
    ),
    "gradcam_best": ("GradCAM agrees best with the tumor mask ({primary})", _gradcam_best),
    "gradcam_outside": ("GradCAM often (more than half) marks areas outside nuclei", _gradcam_outside),
    "lime_second": ("LIME is second to GradCAM ({primary}, tumor mask)", _lime_second),
    "ig_nt_worst": ("IG and NT are worst ({primary}, tumor mask)", _ig_nt_worst),
    "best_classified": (
        "Maps are best for the cancer classes classified best ({primary}, tumor mask)",
        _best_classified,
    ),
    "independent_of_prediction": (
        "Map quality does not depend on whether and how surely the classifier was right "
        "({primary}, tumor mask, equivalent within {margin:g})",
        _independent,
    ),
}
