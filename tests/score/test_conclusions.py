"""The study's conclusions on scores in which it is known what is true, and the summary around them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from histoxai.core.errors import UsageError
from histoxai.score.measures.base import DEGENERATE
from histoxai.score.summary.conclusions import conclude
from histoxai.score.summary.scores import Method, Scores, apply_convention, cancer_of, measures_of, with_primary
from histoxai.score.summary.summarise import summarise
from histoxai.score.threshold_curves import counts_above
from histoxai.settings import Statistics

CLASSES = ["N", "R1", "R2", "R3"]
NAMES = ("ig", "nt", "lime", "gradcam", "random")
QUICK = Statistics(repetitions=2000)
ALL = tuple(measures_of("corrected"))
AUROC = ALL.index("auroc")
STUDY = ("iou", "precision", "recall", "f1", "pixel_accuracy", "spearman")


def planted(groups: int = 24, seed: int = 0, **effects: float) -> Scores:
    """Patches of four classes; AUROC 0.5 + what a method, mask, class or case adds, and noise of group and patch.

    outside: share of GradCAM's pixels outside of both masks. bright: bright pixels of IG less those of NT, of 1000.
    lead: of GradCAM in IoU, precision, recall and F1; accuracy: its lead in pixel accuracy. spearman: LIME's. glass:
    share of GradCAM's bright pixels on glass, which covers a quarter of each patch.
    """
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), 16)
    n = len(group)
    label = np.tile(np.repeat(np.arange(4), 4), groups)
    right = rng.random(n) < np.array([0.9, 0.9, 0.6, 0.5])[label]
    sure = rng.random(n) < 0.5
    values = np.full((n, len(NAMES), 2, len(ALL)), 0.5)
    noise = rng.normal(0, 0.02, (groups, 1, 1))[group] + rng.normal(0, 0.05, (n, len(NAMES), 2))
    values[..., AUROC] += noise
    for i, name in enumerate(NAMES):
        values[:, i, :, AUROC] += effects.get(name, 0)
    values[:, :4, 0, AUROC] += effects.get("tumor", 0)
    values[label == 1, :4, 0, AUROC] += effects.get("R1", 0)
    values[right, :4, 0, AUROC] += effects.get("right", 0)
    values[~right & ~sure, :4, 0, AUROC] += effects.get("case 4", 0)
    for metric in STUDY:
        values[..., ALL.index(metric)] += noise
    for metric in ("iou", "precision", "recall", "f1"):
        values[:, NAMES.index("gradcam"), 0, ALL.index(metric)] += effects.get("lead", 0) + effects.get(metric, 0)
    values[:, NAMES.index("gradcam"), 0, ALL.index("pixel_accuracy")] += effects.get("accuracy", 0)
    values[:, NAMES.index("lime"), 0, ALL.index("spearman")] += effects.get("spearman", 0) - 0.5
    counts, union = np.zeros((n, len(NAMES), 2, 4), np.int64), np.zeros((n, len(NAMES), 4), np.int64)
    share = effects.get("outside", 0.8)
    outside = (100 * share + rng.normal(0, 4, n)).round().astype(int)[:, None]
    # the masks overlap: a pixel inside counts once against both together
    union[..., 0], union[..., 1] = 100 - outside, outside
    union[..., 2] = 400 - union[..., 0]
    union[..., 3] = 1000 - union[..., :3].sum(axis=-1)
    counts[..., 0] = (100 - outside)[..., None]
    counts[..., 1] = 100 - counts[..., 0]
    counts[..., 2] = 200 - counts[..., 0]
    counts[..., 3] = 1000 - counts[..., :3].sum(axis=-1)
    for k, sign in ((NAMES.index("ig"), 1), (NAMES.index("nt"), -1)):  # 100 bright pixels each, and half the difference
        more = round(effects.get("bright", 0) / 2) * sign + rng.integers(-3, 4, n)[:, None]
        counts[:, k, :, 1] += more
        counts[:, k, :, 3] -= more
    tissue = np.zeros((n, len(NAMES), 4), np.int64)
    on_glass = (100 * effects.get("glass", 0.25) + rng.normal(0, 4, n)).round().astype(int)[:, None]
    tissue[..., 0], tissue[..., 1] = 100 - on_glass, on_glass
    tissue[..., 2], tissue[..., 3] = 750 - tissue[..., 0], 250 - on_glass
    prediction = np.where(right, label, (label + 1) % 4)
    logits = np.where(np.arange(4) == prediction[:, None], np.where(sure, 3.0, 0.5)[:, None], 0.0)
    return Scores(
        profile="corrected",
        values=values,
        chance=np.full(values.shape, 0.5),
        flags=np.zeros(values.shape[:3], np.uint8),
        counts=counts,
        union=union,
        curves=np.ones((n, len(NAMES), 2, 2, 102), np.int32),
        mask_curves=np.ones((n, len(NAMES), 2, 2, 102), np.int32),
        logits=logits,
        label=label,
        prediction=prediction,
        case=np.where(right, np.where(sure, 1, 2), np.where(sure, 3, 4)),
        group=group.astype(str),
        patch_id=np.arange(n).astype(str),
        classes=CLASSES,
        methods={name: Method(name, name == "random") for name in NAMES},
        masks=["tumor", "non_tumor"],
        metrics=list(ALL),
        partial=None,
        tissue=tissue,
    )


def answers(scores: Scores, settings: Statistics = QUICK) -> dict[str, dict[str, Any]]:
    statistics = with_primary(scores, settings)
    rows = conclude(scores, scores.of("auroc"), cancer_of(None, scores.classes), statistics)
    return {row["name"]: dict(row) for row in rows}


TRUE = {"gradcam": 0.2, "lime": 0.1, "tumor": 0.05, "R1": 0.06, "outside": 0.8}
TRUE |= {"bright": 20, "lead": 0.1, "accuracy": -0.1, "spearman": 0.05, "glass": 0.4}
OPPOSITE = {"gradcam": -0.2, "lime": -0.1, "tumor": -0.05, "R1": -0.08, "outside": 0.2}
OPPOSITE |= {"bright": -20, "lead": -0.1, "accuracy": 0.1, "spearman": -0.05, "glass": 0.1}


def test_what_is_planted_is_supported() -> None:
    got = answers(planted(**TRUE))
    assert {k: r["answer"] for k, r in got.items()} == dict.fromkeys(got, "supported")
    assert len(got) == 12
    assert got["gradcam_best"]["parts"]["gradcam - lime"] == pytest.approx(0.1, abs=0.01)
    assert got["gradcam_outside"]["parts"] == pytest.approx({"outside": 0.8, "chance": 0.6}, abs=0.005)
    words = "of what it marks lies outside of both masks, where a map that knows nothing has 60.0% (p = "
    assert words in got["gradcam_outside"]["words"]
    assert got["best_classified"]["parts"]["R1"] > got["best_classified"]["parts"]["R3"]
    bright = got["ig_brighter_than_nt"]
    assert bright["parts"] == pytest.approx({"ig - nt": 0.02, "ig": 0.11, "nt": 0.09}, abs=0.001)
    assert bright["words"].startswith("Supported: 11.0% of the pixels of IG's maps are bright, and 9.0% of those of NT")
    off = got["gradcam_off_tissue"]
    assert off["parts"] == pytest.approx({"outside - chance": 0.15, "outside": 0.4, "chance": 0.25}, abs=0.005)
    assert "where a map that knows nothing has 25.0% (p = " in off["words"]
    assert got["lime_on_nuclei"]["parts"]["lime"] == pytest.approx(0.05, abs=0.01)
    leads = got["gradcam_leads"]["parts"]
    assert set(leads) == {f"{m}: gradcam - {o}" for m in ("iou", "precision", "recall", "f1") for o in NAMES[:3]}
    assert list(leads.values()) == pytest.approx([0.1] * 12, abs=0.015)
    last = got["gradcam_last_in_accuracy"]["parts"]
    assert last == pytest.approx(dict.fromkeys((f"{o} - gradcam" for o in NAMES[:3]), 0.1), abs=0.015)


def test_each_claim_names_its_measure_and_the_studys() -> None:
    got = answers(planted(**TRUE))
    assert all(r["measure"] and r["study_measure"] and "{" not in r["claim"] + r["measure"] for r in got.values())
    assert got["gradcam_best"]["measure"] == "auroc, tumor mask"
    assert got["gradcam_best"]["study_measure"].startswith("means of table 6: IoU, precision")
    assert got["gradcam_leads"]["measure"] == "these four in the corrected profile"
    assert got["lime_on_nuclei"]["study_measure"].startswith("Spearman's correlation of the two binary planes")


def test_one_measure_that_gradcam_does_not_lead_is_enough() -> None:
    got = answers(planted(**TRUE | {"recall": -0.3}))["gradcam_leads"]  # -0.2 from each other method
    assert got["answer"] == "contradicted"
    words = got["words"]
    assert words.index("IoU +0.") < words.index("precision +0.") < words.index("recall -0.2") < words.index("F1 +0.")
    # a lead in three, and none in recall
    got = answers(planted(**TRUE | {"recall": -0.1}))["gradcam_leads"]
    assert got["answer"] == "not supported"


def test_what_is_not_defined_counts_for_nothing() -> None:
    s = planted(**TRUE)
    s.flags[::2, 0] = DEGENERATE["not_finite_map"]
    s.counts[::2, 0, :] = [0, 0, 100, 900]  # no map of IG there: nothing of it is bright
    s.tissue[::4] = [100, 0, 900, 0]  # no glass in the patch
    s.tissue[2::4] = [0, 9, 991, 0]  # too little of it
    s.tissue[1::4] = [0, 0, 750, 250]  # nothing marked
    got = answers(s)
    assert got["ig_brighter_than_nt"]["parts"] == pytest.approx({"ig - nt": 0.02, "ig": 0.11, "nt": 0.09}, abs=0.001)
    off = got["gradcam_off_tissue"]["parts"]
    assert off == pytest.approx({"outside - chance": 0.15, "outside": 0.4, "chance": 0.25}, abs=0.01)


def test_the_four_cases_stay_apart() -> None:
    """A case that differs alone decides, though right patches as a whole are nearly as good as wrong ones."""
    s = planted(**{"case 4": -0.12})
    got = answers(s)["independent_of_prediction"]
    assert got["answer"] == "not supported"
    parts = got["parts"]
    mean = s.values[:, :4, 0, AUROC].mean(axis=1)
    assert [parts[f"case {k}"] for k in (1, 2, 3, 4)] == pytest.approx([mean[s.case == k].mean() for k in (1, 2, 3, 4)])
    for a, b in ((1, 2), (1, 3), (2, 3)):
        assert parts[f"case {a} - case {b}"] == pytest.approx(0, abs=0.02)
        assert parts[f"case {a} - case {b}"] == pytest.approx(parts[f"case {a}"] - parts[f"case {b}"])
        assert parts[f"case {a} - case 4"] == pytest.approx(0.12, abs=0.02)
    assert "case 4 (wrong, unsure) has 0." in got["words"]
    assert " and 4 are furthest apart, by 0.1" in got["words"]
    # too few groups with one case: nothing is claimed of the four
    few = replace(s, case=np.where((s.case == 4) & (s.group.astype(int) >= 7), 3, s.case))
    got = answers(few)["independent_of_prediction"]
    groups = len(set(few.group[few.case == 4].tolist()))
    assert groups < 10
    words = f"Not testable: {groups} groups have patches of case 4 (wrong, unsure) with a value; it takes 10."
    assert got["words"] == words
    assert set(got["parts"]) == {"case 1", "case 2", "case 3", "case 4"}  # their means are there all the same


def test_the_opposite_is_contradicted() -> None:
    got = answers(planted(**OPPOSITE))
    wrong = {k for k, r in got.items() if r["answer"] == "contradicted"}
    assert wrong == set(got) - {"independent_of_prediction"}
    assert got["independent_of_prediction"]["answer"] == "supported"
    depends = answers(planted(right=0.2))["independent_of_prediction"]
    assert depends["answer"] == "not supported"
    assert depends["parts"]["case 1 - case 3"] == pytest.approx(0.2, abs=0.02)
    assert depends["parts"]["case 1 - case 2"] == pytest.approx(0, abs=0.02)


def test_noise_supports_nothing_but_that_there_is_no_difference() -> None:
    """Forty studies of nothing: any wrong conclusion in no more than 5 % of them, within two standard errors."""
    wrong = 0
    for seed in range(40):
        s = planted(seed=seed, outside=0.5)
        rows = conclude(s, s.of("auroc"), [1, 2, 3], replace(QUICK, primary="auroc"))
        got = {row["name"]: row for row in rows}
        assert got.pop("independent_of_prediction")["answer"] == "supported"
        wrong += {r["answer"] for r in got.values()} != {"not supported"}
    assert wrong <= 40 * 0.05 + 2 * np.sqrt(40 * 0.05 * 0.95)


def test_what_cannot_be_tested_says_why() -> None:
    few = answers(planted(groups=6, **TRUE))
    assert {r["answer"] for r in few.values()} == {"not testable"}
    assert few["gradcam_best"]["words"] == "Not testable: 6 groups have the patches it needs; it takes 10."
    whole = planted(**TRUE)
    alone = replace(
        whole,
        values=whole.values[:, :2],
        chance=whole.chance[:, :2],
        flags=whole.flags[:, :2],
        counts=whole.counts[:, :2],
        union=whole.union[:, :2],
        curves=whole.curves[:, :2],
        mask_curves=whole.mask_curves[:, :2],
        tissue=None,
        methods={"ig": Method("ig", False), "nt": Method("nt", False)},
    )
    got = answers(alone)
    assert got["gradcam_best"]["words"] == "Not testable: the store has no gradcam."
    assert got["ig_nt_worst"]["words"] == "Not testable: the store has no other method to compare with."
    assert got["tumor_over_non_tumor"]["answer"] == "supported"
    assert got["lime_on_nuclei"]["words"] == "Not testable: the store has no lime."
    untold = answers(replace(whole, tissue=None))["gradcam_off_tissue"]["words"]
    assert "does not say where tissue is; score again with --force" in untold
    counts = answers(replace(whole, metrics=["x" if m == "spearman" else m for m in ALL]))
    assert counts["lime_on_nuclei"]["words"] == "Not testable: the store has no spearman in the corrected profile."
    benign = answers(replace(whole, classes=["N", "A", "BG", "normal"]))
    assert "name them with --cancer" in benign["tumor_over_non_tumor"]["words"]
    assert "classes with tumor, and patches are of 0" in benign["best_classified"]["words"]


def test_names_that_are_not_there() -> None:
    with pytest.raises(UsageError, match="--primary nonsense: the corrected profile has iou"):
        summarise(planted(), replace(QUICK, primary="nonsense"))
    with pytest.raises(UsageError, match="--cancer R9: the classes are N, R1"):
        summarise(planted(), replace(QUICK, cancer=("R9",)))


def test_best_null_model_and_comparisons() -> None:
    got = summarise(planted(**TRUE), QUICK)
    beyond = {(r["mask"], r["method"]): r for r in got["best_null"]}
    assert len(beyond) == 8
    assert beyond["tumor", "gradcam"]["null"] == "random"
    assert beyond["tumor", "gradcam"]["p_holm"] < 0.05
    assert beyond["non_tumor", "ig"]["p_holm"] > 0.05
    assert len(got["comparisons"]) == 2 * 6
    assert all(r["p_holm"] >= r["p"] for r in got["comparisons"])
    ranks = got["friedman"][0]["ranks"]
    assert min(ranks, key=ranks.get) == "gradcam"


def test_rows_have_chance_and_lift_and_are_strict_json() -> None:
    s = planted(**TRUE)
    s.values[:5, 0, 0, AUROC] = np.nan
    s.flags[:5, 0, 0] = DEGENERATE["empty_mask"]
    got = summarise(s, QUICK)
    json.dumps(got, allow_nan=False)
    row = next(
        r
        for r in got["rows"]
        if (r["method"], r["mask"], r["metric"], r["class"], r["case"]) == ("ig", "tumor", "auroc", "all", "all")
    )
    mine = s.values[5:, 0, 0, AUROC]
    assert row["mean"] == pytest.approx(mine.mean())
    assert (row["n"], row["undefined"], row["degenerate"]["empty_mask"], row["groups"]) == (379, 5, 5, 24)
    assert row["low"] < row["mean"] < row["high"]
    assert row["lift"] == pytest.approx(mine.mean() / 0.5)
    assert row["above_chance"]["mean"] == pytest.approx(mine.mean() - 0.5)
    assert row["above_chance"]["p"] < 0.05


def test_conventions_for_nothing_over_nothing() -> None:
    values = np.array([[[[np.nan, np.nan, np.nan, 0.3]]]])
    names = ["iou", "spearman", "precision_otsu", "recall"]
    names = [measures_of("corrected")[name] for name in names]
    flags = np.array([[[DEGENERATE["empty_mask"]]]])
    assert np.isnan(apply_convention(values, flags, names, "exclude")[0, 0, 0, :3]).all()
    np.testing.assert_array_equal(apply_convention(values, flags, names, "zero").ravel(), [0, np.nan, 0, 0.3])
    np.testing.assert_array_equal(apply_convention(values, flags, names, "one").ravel(), [1, np.nan, 1, 0.3])
    lost = np.array([[[DEGENERATE["not_finite_map"]]]])
    assert np.isnan(apply_convention(values, lost, names, "one")[0, 0, 0, :3]).all()


def test_counts_at_any_threshold_of_a_curve() -> None:
    curves = np.zeros((2, 102), int)
    curves[0, 40], curves[1, 60], curves[0, 101] = 3, 5, 2  # above exactly 40, 60, 101 of the thresholds
    counts = counts_above(curves)
    assert counts[39].tolist() == [5, 5, 0, 0]
    assert counts[40].tolist() == [2, 5, 3, 0]
    assert counts[60].tolist() == [2, 0, 3, 5]


def test_sizes_are_thirds_of_the_masks() -> None:
    s = planted()
    s.counts[:, :, 0, 2] = np.arange(len(s.label))[:, None]  # masks of ever more pixels
    s.counts[:, :, 0, 0] = 1
    rows = [
        r for r in summarise(s, QUICK)["sizes"] if (r["mask"], r["method"], r["metric"]) == ("tumor", "ig", "auroc")
    ]
    assert [r["size"] for r in rows] == ["small", "medium", "large"]
    assert [r["n"] for r in rows] == [128, 128, 128]
    assert [r["pixels"] for r in rows] == [[1, 128], [129, 256], [257, 384]]
