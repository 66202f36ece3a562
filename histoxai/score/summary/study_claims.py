"""List the study's claims, and test each: its seven conclusions, then further claims of its text.

Source: Valatkaite 2024. A claim with several parts (a method is above each other one) has the largest p of its parts.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from histoxai.core.digits import decimals_for, fixed, signed
from histoxai.score.summary.claims import CannotTest, Claim, ClaimData, Finding, differences_from, outside_and_chance

_LEAST_SHARE = 0.01  # of glass and of tissue in a patch, which without one of them says nothing
_CASES = {1: "right, sure", 2: "right, unsure", 3: "wrong, sure", 4: "wrong, unsure"}


def _mean_of_methods(values: np.ndarray) -> np.ndarray:
    # mean over the methods that have a value; NaN where none has
    n = np.isfinite(values).sum(axis=1)
    return np.where(n > 0, np.nansum(values, axis=1) / np.maximum(n, 1), np.nan)


def _mean_on_tumor(d: ClaimData) -> np.ndarray:
    # mean (n,) over all methods but null models of the primary measure on the tumor mask
    return _mean_of_methods(d.primary_on_tumor()[:, d.scores.real()])


def _percent(values: list[float]) -> list[str]:
    # with the digits that tell the values apart
    decimals = decimals_for(values) - 2
    return [f"{100 * v:.{decimals}f}%" for v in values]


# ---- the seven conclusions


def _tumor_over_non_tumor(d: ClaimData, found: Finding) -> None:
    if not d.cancer:
        raise CannotTest("no class is known to have tumor; name them with --cancer")
    s, real = d.scores, d.scores.real()
    gap = d.primary[:, real, d.mask("tumor")] - d.primary[:, real, d.mask("non_tumor")]
    gap = np.where(np.isin(s.label, d.cancer)[:, None], gap, np.nan)
    mean = d.mean(_mean_of_methods(gap))
    found.p, found.opposite = float(mean.above[0]), float(mean.below[0])
    found.parts = {
        list(s.methods)[i]: float(np.nanmean(gap[:, k])) for k, i in enumerate(real) if np.isfinite(gap[:, k]).any()
    }
    found.words = (
        f"in patches of {', '.join(s.classes[k] for k in d.cancer)} maps agree with the tumor mask by "
        f"{_apart(float(mean.mean[0]))} more than with the other one"
    )


def _apart(value: float) -> str:
    # a difference with as many digits as tell it from 0
    return signed(value, decimals_for([0.0, value]))


def _words_of_pairs(parts: dict[str, float]) -> str:
    decimals = decimals_for([0.0, *parts.values()])
    pairs = ((*pair.split(" - "), signed(mean, decimals)) for pair, mean in parts.items())
    return ", ".join(f"{a} is {mean} from {b}" for a, b, mean in pairs)


def _gradcam_best(d: ClaimData, found: Finding) -> None:
    best = d.named("gradcam")
    d.test_all_above(found, differences_from(d.primary_on_tumor(), [best], d.others(best), list(d.scores.methods)))
    found.words = _words_of_pairs(found.parts)


def _gradcam_outside(d: ClaimData, found: Finding) -> None:
    outside, chance = outside_and_chance(d.scores.union[:, d.named("gradcam")])
    share = d.mean(outside, against=0.5)
    found.p, found.opposite = float(share.above[0]), float(share.below[0])
    mean, base = float(share.mean[0]) + 0.5, float(np.nanmean(chance))
    found.parts = {"outside": mean, "chance": base}
    there, by_chance = _percent([mean, base])
    found.words = f"{there} of what it marks lies outside of both masks, where a map that knows nothing has {by_chance}"


def _lime_second(d: ClaimData, found: Finding) -> None:
    lime, cam = d.named("lime"), d.named("gradcam")
    values, names = d.primary_on_tumor(), list(d.scores.methods)
    differences = differences_from(values, [lime], d.others(lime, cam), names)
    d.test_all_above(found, differences | differences_from(values, [cam], [lime], names))
    found.words = _words_of_pairs(found.parts)


def _ig_nt_worst(d: ClaimData, found: Finding) -> None:
    worst = [d.named("ig"), d.named("nt")]
    names = list(d.scores.methods)
    d.test_all_above(found, differences_from(d.primary_on_tumor(), d.others(*worst), worst, names))
    found.words = _words_of_pairs(found.parts)


def _best_classified(d: ClaimData, found: Finding) -> None:
    s = d.scores
    present = [k for k in d.cancer if (s.label == k).any()]
    if len(present) < 3:
        raise CannotTest(f"it takes three classes with tumor, and patches are of {len(present)}")
    recall = {k: float((s.prediction[s.label == k] == k).mean()) for k in present}
    best = sorted(present, key=lambda k: -recall[k])[:2]
    others = [k for k in present if k not in best]
    sides = {"/".join(s.classes[k] for k in some): np.isin(s.label, some) for some in (best, others)}
    gap = d.gap(_mean_on_tumor(d), sides)
    found.p, found.opposite = float(gap.above[0]), float(gap.below[0])
    found.parts = {s.classes[k]: recall[k] for k in present}
    found.words = (
        f"maps of {' and '.join(s.classes[k] for k in best)}, the cancer classes classified best, agree with the tumor "
        f"mask by {_apart(float(gap.mean[0]))} more than those of the others"
    )


def _independent(d: ClaimData, found: Finding) -> None:
    # every two of the four cases are equivalent (two one-sided tests, Schuirmann 1987)
    values, margin = _mean_on_tumor(d), d.settings.margin
    members = {case: (d.scores.case == case) & np.isfinite(values) for case in _CASES}
    case_means = {case: float(values[of].mean()) for case, of in members.items() if of.any()}
    found.parts = {f"case {case}": mean for case, mean in case_means.items()}
    ps, gaps = [], {}
    for a, b in combinations(_CASES, 2):
        sides = {f"patches of case {case} ({_CASES[case]})": members[case] for case in (a, b)}
        low, high = d.gap(values, sides, -margin), d.gap(values, sides, margin)
        ps += [float(low.above[0]), float(high.below[0])]
        gaps[a, b] = float(low.mean[0]) - margin
    found.parts |= {f"case {a} - case {b}": gap for (a, b), gap in gaps.items()}
    found.p = max(ps)
    one, other = max(gaps, key=lambda pair: abs(gaps[pair]))
    decimals = decimals_for(case_means.values())
    each = ", ".join(f"case {case} ({_CASES[case]}) has {fixed(mean, decimals)}" for case, mean in case_means.items())
    found.words = (
        f"{each}; cases {one} and {other} are furthest apart, by {fixed(abs(gaps[one, other]), decimals)}; "
        f"the equivalence margin is {margin:g}"
    )


# ---- further claims


def _ig_brighter(d: ClaimData, found: Finding) -> None:
    counts = d.scores.counts[:, :, 0]
    ig, nt = (d.marked(d.named(method), counts) for method in ("ig", "nt"))
    both = np.isfinite(ig - nt)
    d.test_all_above(found, {"ig - nt": ig - nt})
    found.parts |= {"ig": float(ig[both].mean()), "nt": float(nt[both].mean())}
    first, second = _percent([found.parts["ig"], found.parts["nt"]])
    found.words = f"{first} of the pixels of IG's maps are bright, and {second} of those of NT's"


def _gradcam_leads(d: ClaimData, found: Finding) -> None:
    best, names = d.named("gradcam"), list(d.scores.methods)
    leads: dict[str, dict[str, np.ndarray]] = {}
    for metric in ("iou", "precision", "recall", "f1"):
        leads[metric] = differences_from(d.on_tumor(metric), [best], d.others(best), names)
    d.test_all_above(found, {f"{metric}: {k}": v for metric, rows in leads.items() for k, v in rows.items()})
    words = []
    for metric, rows in leads.items():
        least = min(rows, key=lambda pair: found.parts[f"{metric}: {pair}"])
        lead, rival = _apart(found.parts[f"{metric}: {least}"]), least.split(" - ")[1]
        words.append(f"{metric.replace('iou', 'IoU').replace('f1', 'F1')} {lead} ({rival})")
    found.words = f"its lead over the next method is {', '.join(words)}"


def _gradcam_last_in_accuracy(d: ClaimData, found: Finding) -> None:
    last, names = d.named("gradcam"), list(d.scores.methods)
    d.test_all_above(found, differences_from(d.on_tumor("pixel_accuracy"), d.others(last), [last], names))
    found.words = _words_of_pairs(found.parts)


def _lime_on_nuclei(d: ClaimData, found: Finding) -> None:
    lime = d.on_tumor("spearman")[:, d.named("lime")]
    d.test_all_above(found, {"lime": lime})
    found.words = f"its mean correlation with the tumor mask is {_apart(found.parts['lime'])}"


def _gradcam_off_tissue(d: ClaimData, found: Finding) -> None:
    if d.scores.tissue is None:
        raise CannotTest("the store does not say where tissue is; score again with --force, where the patches are")
    outside, chance = outside_and_chance(d.scores.tissue[:, d.named("gradcam")])
    mixed = (chance >= _LEAST_SHARE) & (chance <= 1 - _LEAST_SHARE)
    outside, chance = np.where(mixed, outside, np.nan), np.where(mixed, chance, np.nan)
    d.test_all_above(found, {"outside - chance": outside - chance})
    found.parts |= {"outside": float(np.nanmean(outside)), "chance": float(np.nanmean(chance))}
    there, by_chance = _percent([found.parts["outside"], found.parts["chance"]])
    found.words = (
        f"in patches with glass and tissue {there} of what it marks is glass, where a map that knows nothing has "
        f"{by_chance}"
    )


_TABLE_6 = "means of table 6: IoU, precision, recall, F1, Spearman, pixel accuracy"
_NO_MEASURE = "none on record; its figures show maps"
_SAME = "means of table 6, by its code: the thesis profile"

CLAIMS = {
    "tumor_over_non_tumor": Claim(
        "Maps of cancer classes agree more with the tumor than with the non-tumor mask ({primary})",
        "{primary} on the tumor mask less that on the other one",
        _TABLE_6,
        _tumor_over_non_tumor,
    ),
    "gradcam_best": Claim(
        "GradCAM agrees best with the tumor mask ({primary})", "{primary}, tumor mask", _TABLE_6, _gradcam_best
    ),
    "gradcam_outside": Claim(
        "GradCAM often (more than half) marks areas outside nuclei",
        "share of bright pixels outside of both masks",
        _NO_MEASURE,
        _gradcam_outside,
    ),
    "lime_second": Claim(
        "LIME is second to GradCAM ({primary}, tumor mask)", "{primary}, tumor mask", _TABLE_6, _lime_second
    ),
    "ig_nt_worst": Claim(
        "IG and NT are worst ({primary}, tumor mask)", "{primary}, tumor mask", _TABLE_6, _ig_nt_worst
    ),
    "best_classified": Claim(
        "Maps are best for the cancer classes classified best ({primary}, tumor mask)",
        "{primary}, tumor mask, mean of methods; accuracy of each class",
        "means of table 6, and the accuracies of table 4",
        _best_classified,
    ),
    "independent_of_prediction": Claim(
        "Map quality does not depend on whether and how surely the classifier was right "
        "({primary}, tumor mask, four cases equivalent within {margin:g})",
        "{primary}, tumor mask, mean of methods in each of the four cases",
        "violin plots with the means of the four cases",
        _independent,
    ),
    "ig_brighter_than_nt": Claim(
        "IG's maps have more bright pixels than NT's",
        "share of pixels above the map's threshold",
        _NO_MEASURE,
        _ig_brighter,
    ),
    "gradcam_leads": Claim(
        "GradCAM leads IoU, precision, recall and F1 (tumor mask)",
        "these four in the {profile} profile",
        _SAME,
        _gradcam_leads,
    ),
    "gradcam_last_in_accuracy": Claim(
        "GradCAM is last in pixel accuracy (tumor mask)",
        "pixel accuracy in the {profile} profile",
        _SAME,
        _gradcam_last_in_accuracy,
    ),
    "lime_on_nuclei": Claim(
        "LIME marks nuclei rather than what surrounds them (positive Spearman, tumor mask)",
        "Spearman's correlation in the {profile} profile",
        "Spearman's correlation of the two binary planes: the thesis profile",
        _lime_on_nuclei,
    ),
    "gradcam_off_tissue": Claim(
        "GradCAM marks areas outside tissue (more than chance would)",
        "share of bright pixels on glass, less the patch's share of glass",
        _NO_MEASURE,
        _gradcam_off_tissue,
    ),
}
