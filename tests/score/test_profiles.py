"""Every measure against its oracle: scikit-learn, scipy, the study's own computation, or a drawn case."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics as sk

from histoxai.score.measures import counts as c
from histoxai.score.measures.localisation import THRESHOLDS, levels, threshold_histogram
from histoxai.score.profiles.corrected import CorrectedProfile
from histoxai.score.profiles.profiles import METRICS, Mask, Profile, stretch
from histoxai.score.profiles.thesis import ThesisProfile, chance
from histoxai.score.summary.strata import cases
from histoxai.statistics.classification import accuracy_table

EXACT = {"rtol": 0, "atol": 1e-9}


def pairs() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Named (map plane, mask probability) pairs in 0..1: random, tied, sparse, empty, full, constant."""
    rng = np.random.default_rng(7)
    made = [(f"random{i}", rng.random((24, 20)), rng.random((24, 20))) for i in range(40)]
    made += [(f"tied{i}", rng.integers(0, 4, (24, 20)) / 3, rng.integers(0, 3, (24, 20)) / 2) for i in range(40)]
    made += [(f"sparse{i}", (rng.random((24, 20)) > 0.97) * 1.0, rng.random((24, 20)) ** 6) for i in range(20)]
    some, zero, one = rng.random((24, 20)), np.zeros((24, 20)), np.ones((24, 20))
    for name, plane in (("some", some), ("zero", zero), ("one", one), ("grey", np.full((24, 20), 0.4))):
        for other_name, mask in (("some", some[::-1]), ("zero", zero), ("one", one), ("same", plane)):
            made.append((f"{name}-{other_name}", plane, mask))
    return made


PAIRS = pairs()
IDS = [name for name, _, _ in PAIRS]


def scored(profile: Profile, plane: np.ndarray, mask: np.ndarray, method: str) -> dict[str, float]:
    masks = [Mask.of(mask, 0.5)]
    counts, stretched = both_counts(plane, masks[0])
    return dict(zip(METRICS, profile.score(plane, masks, method, counts, stretched)[0], strict=True))


def both_counts(plane: np.ndarray, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
    cut = ((plane > 0.3, mask.binary), (stretch(plane) >= 0.3, mask.stretched))
    counts, stretched = (c.confusion_counts(found.ravel(), truth.ravel())[None] for found, truth in cut)
    return counts, stretched


def corrected(plane: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    return scored(CorrectedProfile(0.3, 0.5), plane, mask, "ig")


def thesis(plane: np.ndarray, mask: np.ndarray, method: str) -> dict[str, float]:
    return scored(ThesisProfile(0.3, 0.5), plane, mask, method)


@pytest.mark.parametrize(("name", "plane", "mask"), PAIRS, ids=IDS)
def test_corrected_equals_scikit_learn_on_pooled_pixels(name: str, plane: np.ndarray, mask: np.ndarray) -> None:
    found, truth = (plane > 0.3).ravel(), (mask > 0.5).ravel()
    got = corrected(plane, mask)
    nan = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phi = sk.matthews_corrcoef(truth, found) if len(set(found)) == len(set(truth)) == 2 else nan
        want = {
            "iou": sk.jaccard_score(truth, found) if (found | truth).any() else nan,
            "precision": sk.precision_score(truth, found, zero_division=nan),
            "recall": sk.recall_score(truth, found, zero_division=nan),
            "f1": sk.f1_score(truth, found) if (found | truth).any() else nan,
            "spearman": spearmanr(plane.ravel(), mask.ravel()).statistic,
            "phi": phi,
            "pixel_accuracy": sk.accuracy_score(truth, found),
        }
    np.testing.assert_allclose([got[m] for m in METRICS], [want[m] for m in METRICS], **EXACT)


def study(plane: np.ndarray, mask: np.ndarray, method: str) -> dict[str, float]:
    """The study's measures as PROTOCOL describes its code, with the libraries that it calls."""

    def scaled(x: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (x - x.min()) / (x.max() - x.min())

    soft = 1 / (1 + np.exp(-(scaled(plane) >= 0.3).astype(float)))
    truth_iou = (scaled(mask) >= 0.5).astype(float)
    both = (soft * truth_iou).sum()
    iou = (both + 1) / (soft.sum() + truth_iou.sum() - both + 1)
    found, truth = (plane > 0.3).astype(float), (mask > 0.5).astype(float)
    if method in ("lime", "gradcam"):
        found = scaled(found)
    read = np.nan_to_num(found).astype(int)

    def turned(x: np.ndarray) -> np.ndarray:
        return np.rot90(np.flip(x, 1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p, r, f, _ = sk.precision_recall_fscore_support(
            turned(truth).astype(int), turned(read), average="macro", zero_division=0
        )
        rank = spearmanr(found.ravel(), truth.ravel()).statistic
    accuracy = float((found == truth).mean())
    return dict(zip(METRICS, [iou, p, r, f, rank, rank, accuracy], strict=True))


@pytest.mark.parametrize("method", ["ig", "gradcam"])
@pytest.mark.parametrize(("name", "plane", "mask"), PAIRS, ids=IDS)
def test_thesis_equals_the_studys_computation(name: str, plane: np.ndarray, mask: np.ndarray, method: str) -> None:
    got, want = thesis(plane, mask, method), study(plane, mask, method)
    np.testing.assert_allclose([got[m] for m in METRICS], [want[m] for m in METRICS], **EXACT)


@pytest.mark.parametrize("method", ["ig", "gradcam"])
@pytest.mark.parametrize(("n", "k", "p"), [(12, 5, 4), (12, 1, 7), (12, 0, 4), (12, 12, 4), (12, 6, 0), (12, 5, 12)])
def test_chance_of_the_thesis_is_the_mean_over_every_map_of_that_area(n: int, k: int, p: int, method: str) -> None:
    truth = np.zeros(n)
    truth[np.random.default_rng(p).permutation(n)[:p]] = 1
    mask = Mask.of(truth.reshape(3, 4), 0.5)
    values, first = [], None
    for ones in combinations(range(n), k):
        plane = np.zeros(n)
        plane[list(ones)] = 1
        counts, stretched = both_counts(plane.reshape(3, 4), mask)
        first = first or (counts, stretched)
        values.append(ThesisProfile(0.3, 0.5).score(plane.reshape(3, 4), [mask], method, counts, stretched)[0])
    assert first is not None
    counts, stretched = first
    lines = mask.binary.sum(axis=1)[None, None]
    got = chance(counts[None, None], stretched[None, None], lines, np.array([method == "gradcam"]))[0, 0, 0]
    np.testing.assert_allclose(got, np.mean(values, axis=0), **EXACT)


def test_thesis_reads_a_map_that_is_all_nan_as_empty() -> None:
    # a constant channel of IG or NT makes the whole plane NaN
    mask = np.zeros((10, 10))
    mask[:3] = 1
    got = thesis(np.full((10, 10), np.nan), mask, "ig")
    assert (got["precision"], got["recall"], got["f1"]) == (0, 0, 0)
    assert got["pixel_accuracy"] == pytest.approx(0.7)
    assert np.isnan(got["spearman"])
    assert np.isnan(corrected(np.full((10, 10), np.nan), mask)["pixel_accuracy"])


@pytest.mark.parametrize("share", [0.01, 0.113, 0.3, 0.8])
def test_thesis_iou_of_an_empty_map_is_the_masks_prevalence(share: float) -> None:
    mask = (np.arange(256 * 256).reshape(256, 256) < share * 256 * 256).astype(float)
    p, half = mask.mean(), 256 * 256 / 2
    got = thesis(np.zeros((256, 256)), mask, "nt")["iou"]
    assert got == pytest.approx((p * half + 1) / ((1 + p) * half + 1), abs=1e-12)
    assert abs(got - p / (1 + p)) < 1 / half  # what the smoothing adds


def test_drawn_case() -> None:
    plane, mask = np.zeros((4, 4)), np.zeros((4, 4))
    plane[0, :] = 1  # 4 pixels found
    mask[:2, :2] = 1  # 4 in the mask, 2 of them found
    got = corrected(plane, mask)
    assert got["iou"] == pytest.approx(2 / 6)
    assert got["precision"] == got["recall"] == got["f1"] == pytest.approx(0.5)
    assert got["pixel_accuracy"] == pytest.approx(12 / 16)
    lines = thesis(plane, mask, "ig")
    assert lines["precision"] == pytest.approx(0.5 / 4)  # one line of four has a map, half of it right
    assert lines["recall"] == pytest.approx(1 / 4)


def test_perfect_map_is_perfect_in_corrected_and_not_in_thesis() -> None:
    mask = np.zeros((256, 256))
    mask[:29] = 1  # p = 0.113, the study's example
    assert all(corrected(mask, mask)[m] == pytest.approx(1) for m in METRICS)
    assert thesis(mask, mask, "gradcam")["iou"] == pytest.approx(0.148, abs=0.001)


def test_counts_of_many_planes_at_once_and_large_phi() -> None:
    found, truth = np.array([[1, 1, 0, 0], [0, 0, 0, 0]]), np.array([[1, 0, 1, 0], [1, 0, 0, 0]])
    assert c.confusion_counts(found, truth).tolist() == [[1, 1, 1, 1], [0, 0, 1, 3]]
    assert c.phi(np.array([10**9, 10**9, 10**9, 10**9])) == pytest.approx(0)
    assert c.phi(np.array([10**9, 0, 0, 10**9])) == pytest.approx(1)


def test_threshold_histogram_gives_counts_at_every_threshold() -> None:
    rng = np.random.default_rng(0)
    plane = rng.integers(0, 101, (30, 30)) / 100  # lands on the thresholds themselves
    truth = rng.random((30, 30)) > 0.7
    histogram = threshold_histogram(levels(plane), truth)
    for i, t in enumerate(THRESHOLDS):
        above = histogram[:, i + 1 :].sum(axis=1)
        assert above.tolist() == [int((plane[truth] > t).sum()), int((plane[~truth] > t).sum())]
    assert histogram.sum() == 900


def test_cases() -> None:
    label, predicted = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 1, 1, 1])
    got = cases(label, predicted, np.array([0.6, 0.59, 0.6, 0.1, 1.0]), 0.6)
    assert got.tolist() == [1, 2, 3, 4, 1]


def test_accuracy_table_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    label, predicted = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    table = accuracy_table(label, predicted, ["a", "b", "c", "never"])
    assert table["confusion"][:3] == [[*row, 0] for row in sk.confusion_matrix(label, predicted).tolist()]
    assert table["mean_class_accuracy"] == pytest.approx(sk.balanced_accuracy_score(label, predicted))
    assert table["accuracy"] == pytest.approx(sk.accuracy_score(label, predicted))
    assert table["per_class"]["never"] == {"n": 0, "accuracy": None}
