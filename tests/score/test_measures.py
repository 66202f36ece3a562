"""Threshold-free measures, chance and thresholds against scikit-learn, scipy, brute force, and Quantus."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import distance_transform_edt
from scipy.stats import rankdata, spearmanr
from skimage.filters import threshold_otsu
from sklearn.metrics import average_precision_score, roc_auc_score

from histoxai.core import registry
from histoxai.score.measures.base import DEGENERATE, PatchMasks, RenderedMap
from histoxai.score.measures.counts import FORMULAS, chance_of_counts, chance_of_iou, otsu
from histoxai.score.measures.mass import mass_accuracy, pointing_game, within
from histoxai.score.patch_scores import STUDY, CorrectedProfile
from histoxai.score.threshold_curves import THRESHOLDS, levels
from histoxai.settings import Score
from histoxai.statistics.confusion import confusion_counts
from histoxai.statistics.hypergeometric import expected_average_precision
from histoxai.statistics.ranks import Ranking, ascending, centred_ranks, rank_correlation
from tests.conftest import ROOT

EXACT = {"rtol": 0, "atol": 1e-9}
ALL = tuple(m.name for m in CorrectedProfile.measures())
MEASURES = tuple(name for name in ALL if name not in STUDY)
FREE = tuple(m.name for m in CorrectedProfile.measures() if m.name in MEASURES and not m.variant_of)


def measure(
    relevance: np.ndarray, plane: np.ndarray, mask: np.ndarray, **settings: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Values (ALL) and chances (ALL) of one map and the probability of one mask, and its flags."""
    chosen = Score(**settings)  # type: ignore[arg-type]
    rendered = RenderedMap("ig", plane, relevance, PatchMasks.of(mask[None], chosen.mask_threshold), chosen)
    values, chances = CorrectedProfile().score(rendered)
    return values[0], chances[0], int(rendered.flags[0])


def planes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "random": rng.random((40, 30)).astype(np.float32),
        "tied": rng.integers(0, 4, (40, 30)).astype(np.float32),
        "sparse": np.where(rng.random((40, 30)) > 0.95, rng.random((40, 30)), 0).astype(np.float32),
        "constant": np.full((40, 30), 0.25, np.float32),
        "zero": np.zeros((40, 30), np.float32),
        "huge and tiny": (10.0 ** rng.integers(-40, 38, (40, 30))).astype(np.float32),
        "nearly constant": np.where(rng.random((40, 30)) > 0.5, 1000, np.nextafter(np.float32(1000), 1e4)).astype(
            np.float32
        ),
    }


def masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    one = np.zeros((40, 30), bool)
    one[7, 9] = True
    return {"half": rng.random((40, 30)) > 0.5, "few": rng.random((40, 30)) > 0.97, "one": one}


PAIRS = [pytest.param(p, m, id=f"{a}, {b}") for a, p in planes().items() for b, m in masks().items()]


@pytest.mark.parametrize(("plane", "mask"), PAIRS)
def test_curves_equal_scikit_learn(plane: np.ndarray, mask: np.ndarray) -> None:
    hits = Ranking.of(plane).against(mask)
    assert hits.auroc() == pytest.approx(roc_auc_score(mask.ravel(), plane.ravel()), abs=1e-9)
    expected = average_precision_score(mask.ravel(), plane.ravel())
    assert hits.average_precision() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("plane", "mask"), PAIRS)
def test_the_strongest_pixels_are_those_of_ties_broken_at_random(plane: np.ndarray, mask: np.ndarray) -> None:
    """Against the mean over many random orders of tied pixels, and exactly where nothing is tied."""
    hits = Ranking.of(plane).against(mask)
    for k in (1, 7, int(mask.sum()), 400, plane.size):
        value = np.sort(plane.ravel())[::-1][k - 1]
        above, tied = plane > value, plane == value
        expected = (above & mask).sum() + (k - above.sum()) * (tied & mask).sum() / tied.sum()
        assert hits.among(k) == pytest.approx(expected, abs=1e-9)
        assert hits.counts_among(k).sum() == pytest.approx(plane.size)
    assert hits.among(0) == 0


def test_nothing_is_ranked_of_an_empty_or_full_mask() -> None:
    plane = planes()["random"]
    empty, full = (Ranking.of(plane).against(np.full(plane.shape, v)) for v in (False, True))
    assert np.isnan([empty.auroc(), empty.average_precision(), empty.share_among(9), full.auroc()]).all()
    assert full.average_precision() == full.share_among(9) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(planes()))
def test_ascending_sorts(name: str, dtype: type) -> None:
    for values in (planes()[name].astype(dtype).ravel(), -planes()[name].astype(dtype).ravel()):
        order = ascending(values)
        assert sorted(order.tolist()) == list(range(len(values)))
        assert np.array_equal(values[order], np.sort(values))


def test_ascending_sorts_numbers_that_differ_in_their_last_bits() -> None:
    values = np.nextafter(np.full(1000, 0.3), 1) + np.arange(1000)[::-1] * 2.0**-54
    assert np.array_equal(values[ascending(values)], np.sort(values))
    mixed = np.array([-0.0, 0.0, 1e-300, -0.0])
    assert np.array_equal(mixed[ascending(mixed)], np.sort(mixed))


@pytest.mark.parametrize("name", list(planes()))
def test_ranks_and_spearman_equal_scipy(name: str) -> None:
    plane = planes()[name].astype(np.float64)
    other = planes()["random"].astype(np.float64)
    ranks = centred_ranks(plane)
    if np.ptp(plane) == 0:
        assert ranks is None
        return
    assert ranks is not None
    scaled = rankdata(plane) - (plane.size + 1) / 2
    assert_allclose(ranks, scaled / np.linalg.norm(scaled), **EXACT)
    assert rank_correlation(ranks, centred_ranks(other)) == pytest.approx(
        spearmanr(plane.ravel(), other.ravel())[0], abs=1e-9
    )


def test_levels_count_the_thresholds_below() -> None:
    rng = np.random.default_rng(2)
    on = rng.integers(0, 101, 5000) / 100
    for values in (rng.random(5000), on, np.nextafter(on, 2), np.nextafter(on, -2), np.array([np.nan, -3, 0, 1, 2])):
        expected = np.searchsorted(THRESHOLDS, np.nan_to_num(values, nan=-1), side="left")
        assert np.array_equal(levels(values), expected)


def test_pointing_game_drawn_by_hand() -> None:
    truth = np.zeros((9, 9), bool)
    truth[4, 4] = True
    plane = np.zeros((9, 9), np.float32)
    plane[4, 6] = 1
    assert pointing_game(plane, within(truth, 0)) == 0
    assert pointing_game(plane, within(truth, 1.9)) == 0
    assert pointing_game(plane, within(truth, 2)) == 1
    plane[4, 4] = plane[0, 0] = 1  # three strongest, one of them inside
    assert pointing_game(plane, truth) == pytest.approx(1 / 3)
    assert np.isnan(pointing_game(plane, np.zeros_like(truth)))
    assert np.array_equal(within(truth, 3), distance_transform_edt(~truth) <= 3)
    assert not within(np.zeros_like(truth), 3).any()


def test_mass_accuracy_drawn_by_hand() -> None:
    plane, truth = np.array([[1, 2], [3, 4]], np.float32), np.array([[True, False], [False, True]])
    assert mass_accuracy(plane, truth) == pytest.approx(0.5)
    assert np.isnan(mass_accuracy(plane * 0, truth))
    assert np.isnan(mass_accuracy(plane, truth & False))


@pytest.mark.parametrize("name", list(planes()))
def test_otsu_is_scikit_images(name: str) -> None:
    plane = planes()[name]
    if np.ptp(plane) == 0:
        assert not otsu(plane).any()
        return
    scaled = (plane.astype(float) - plane.min()) / (float(plane.max()) - float(plane.min()))
    assert np.array_equal(otsu(plane), scaled > threshold_otsu(scaled))
    if name in ("random", "tied", "sparse"):  # where scikit-image takes the plane as it is
        assert np.array_equal(otsu(plane), plane > threshold_otsu(plane))


# ---- chance


def every_map(n: int, k: int) -> list[np.ndarray]:
    return [np.isin(np.arange(n), at) for at in combinations(range(n), k)]


@pytest.mark.parametrize(("n", "k", "p"), [(8, 3, 4), (7, 1, 6), (9, 9, 3), (6, 2, 6), (8, 5, 5), (6, 0, 2), (6, 2, 0)])
def test_chance_of_counts_is_the_mean_over_every_map_of_that_area(n: int, k: int, p: int) -> None:
    truth = np.arange(n) < p
    four = [confusion_counts(found, truth) for found in every_map(n, k)]
    expected = {name: np.mean([one(f) for f in four]) for name, one in FORMULAS.items()}
    got = chance_of_counts(four[0])
    for name in FORMULAS:
        assert_allclose(got[name], expected[name], err_msg=name, **EXACT)


@pytest.mark.parametrize(
    ("k", "p", "n"), [(20000, 8000, 65536), (3, 60000, 65536), (1, 1, 65536), (32768, 65536, 65536)]
)
def test_chance_of_iou_on_whole_patches(k: int, p: int, n: int) -> None:
    from scipy.stats import hypergeom

    t = np.arange(max(0, k + p - n), min(k, p) + 1)
    assert chance_of_iou(k, p, n) == pytest.approx(float(hypergeom(n, p, k).pmf(t) @ (t / (k + p - t))), rel=1e-9)


@pytest.mark.parametrize(("n", "p"), [(6, 2), (7, 1), (5, 5), (8, 4)])
def test_chance_of_average_precision_is_the_mean_over_every_order(n: int, p: int) -> None:
    scores = [average_precision_score(found, np.arange(n)[::-1]) for found in every_map(n, p)]
    assert expected_average_precision(p, np.arange(1, n + 1)) == pytest.approx(np.mean(scores), abs=1e-9)
    tied = [average_precision_score(found, np.minimum(np.arange(n), 2)) for found in every_map(n, p)]
    assert expected_average_precision(p, np.array([n - 2, n - 1, n])) == pytest.approx(np.mean(tied), abs=1e-9)
    first = sum(1 / k for k in range(1, n + 1)) / n
    closed = (p - 1) / (n - 1) * (1 - first) + first
    assert expected_average_precision(p, np.arange(1, n + 1)) == pytest.approx(closed, abs=1e-9)


def test_chance_of_iou_by_its_curvature_is_close() -> None:
    counts = np.array([[2000, 18000, 6000, 39536], [5, 95, 200, 65236], [0, 0, 3, 97], [4, 0, 0, 12]])
    exact, nearly = (chance_of_counts(counts, exact)["iou"] for exact in (True, False))
    assert_allclose(nearly[:3], exact[:3], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("plane", "mask"), PAIRS)
def test_iou_of_the_strongest_pixels_is_the_mean_over_ties(plane: np.ndarray, mask: np.ndarray) -> None:
    hits, k = Ranking.of(plane).against(mask), int(mask.sum())
    rng = np.random.default_rng(5)
    found = []
    for _ in range(300):
        noise = rng.permutation(plane.size)
        strongest = np.lexsort((noise, -plane.ravel().astype(float)))[:k]
        tp = mask.ravel()[strongest].sum()
        found.append(tp / (2 * k - tp))
    spread = (np.std(found) or 0.03) / np.sqrt(300)  # a pixel that was never hit says little
    assert hits.iou_among(k) == pytest.approx(np.mean(found), abs=4.5 * spread + 1e-9)


def test_chance_is_what_random_maps_give() -> None:
    """Every measure with a chance, over 400 random maps of one mask: within four standard errors."""
    rng = np.random.default_rng(3)
    probability = np.where(np.hypot(*(np.mgrid[:24, :24] - 11.5)) < 7, 0.9, 0.1) + rng.random((24, 24)) * 0.01
    rows, expected = [], []
    for _ in range(400):
        relevance = rng.random((24, 24)).astype(np.float32)
        values, chances, _ = measure(
            relevance, relevance.astype(np.float64), probability, map_threshold=0.7, tolerance=2.0, top_k=0.05
        )
        rows.append(values)
        expected.append(chances)
    made, wanted = np.array(rows, float), np.array(expected)
    error = (made - wanted).std(axis=0) / 20
    off = np.abs(made.mean(axis=0) - wanted.mean(axis=0)) / np.maximum(error, 1e-12)
    assert dict(zip(ALL, off, strict=True)) == pytest.approx(dict.fromkeys(ALL, 0), abs=4)


# ---- all of them


def test_a_perfect_map_is_perfect_and_its_opposite_is_not() -> None:
    truth = np.zeros((32, 32), bool)
    truth[8:16, 8:24] = True
    for plane, best in ((truth, 1.0), (~truth, 0.0)):
        values, chances, flags = measure(plane.astype(np.float32), plane.astype(float), truth.astype(float), top_k=0.1)
        got = dict(zip(ALL, values, strict=True))
        for name in (
            "auroc",
            "mass_accuracy",
            "rank_accuracy",
            "top_k",
            "pointing_game",
            "energy_pointing",
            "iou_otsu",
        ):
            assert got[name] == pytest.approx(best), name
        assert got["phi_area"] == pytest.approx(1 if best else -(128 / 896), abs=1e-9)
        assert (got["average_precision"] == pytest.approx(1)) == bool(best)
        assert np.isfinite(chances).all()
        assert flags == 0


def test_degenerate_maps_and_masks_are_flagged_and_defined_as_documented() -> None:
    plane = planes()["random"]
    cases = {
        "empty": (np.zeros(plane.shape, bool), DEGENERATE["empty_mask"]),
        "full": (np.ones(plane.shape, bool), DEGENERATE["full_mask"]),
    }
    for name, (truth, flag) in cases.items():
        values, _, flags = measure(plane, plane.astype(float), truth.astype(float))
        got = dict(zip(ALL, values, strict=True))
        assert flags == flag
        assert np.isnan(got["auroc"])
        assert all(np.isnan(got[m]) == (name == "empty") for m in FREE if m != "auroc")
    half = np.tri(40, 30)
    for bad in (np.full((40, 30), np.nan, np.float32), np.full((40, 30), np.inf, np.float32)):
        values, chances, flags = measure(bad, bad.astype(float), half)
        assert np.isnan(values).all()
        assert np.isnan(chances).all()
        assert flags == DEGENERATE["not_finite_map"]
    flat = np.full((40, 30), 0.5, np.float32)
    values, chances, flags = measure(flat, flat.astype(float) * 0, half)
    got, by_chance = (dict(zip(ALL, row, strict=True)) for row in (values, chances))
    assert flags == DEGENERATE["constant_map"]
    same = ("auroc", "average_precision", "mass_accuracy", "rank_accuracy", "top_k", "pointing_game")
    for name in (*same, *(f"{m}_area" for m in FORMULAS)):
        assert got[name] == pytest.approx(by_chance[name], abs=1e-12), name
    assert np.isnan(got["precision_otsu"])


def test_names_are_told_apart() -> None:
    assert len(set(ALL)) == len(ALL) == len(STUDY) + len(MEASURES)


# ---- Quantus


def test_quantus_where_it_is_right_and_where_it_is_not() -> None:
    """Quantus' localisation metrics on the same maps; then three faults of its that ours does not have."""
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed (scripts/test installs it)")
    rng = np.random.default_rng(4)
    maps = rng.random((6, 24, 24)).astype(np.float32)
    truth = np.stack([np.hypot(*(np.mgrid[:24, :24] - rng.uniform(6, 18, (2, 1, 1)))) < 5 for _ in range(6)])

    def theirs(metric: object, a: np.ndarray = maps, s: np.ndarray = truth) -> np.ndarray:
        x = np.zeros((len(a), 1, 24, 24), np.float32)
        found = metric(  # type: ignore[operator]
            model=None,
            x_batch=x,
            y_batch=np.zeros(len(a), int),
            a_batch=a[:, None],
            s_batch=s[:, None].astype(np.float32),
        )
        return np.array(found, float)

    quiet = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
    hits = [Ranking.of(a).against(s) for a, s in zip(maps, truth, strict=True)]
    pairs = {
        "AUC": (quantus.AUC(**quiet), [h.auroc() for h in hits]),
        "RelevanceMassAccuracy": (
            quantus.RelevanceMassAccuracy(**quiet),
            [mass_accuracy(a, s) for a, s in zip(maps, truth, strict=True)],
        ),
        "RelevanceRankAccuracy": (
            quantus.RelevanceRankAccuracy(**quiet),
            [h.share_among(h.positives) for h in hits],
        ),
        "TopKIntersection": (quantus.TopKIntersection(k=50, **quiet), [h.share_among(50) for h in hits]),
        "PointingGame": (
            quantus.PointingGame(**quiet),
            [pointing_game(a, s) for a, s in zip(maps, truth, strict=True)],
        ),
    }
    for name, (metric, ours) in pairs.items():
        assert_allclose(theirs(metric), ours, err_msg=name, rtol=0, atol=1e-6)
    tied = np.zeros((1, 24, 24), np.float32)
    tied[0, :, 12:] = 1  # half of the page is strongest; its first pixel in memory decides for Quantus
    corner = np.zeros((1, 24, 24), bool)
    corner[0, 0, 12:14] = True
    assert theirs(quantus.PointingGame(**quiet), tied, corner)[0] == 1
    assert pointing_game(tied[0], corner[0]) == pytest.approx(2 / 288)
    # an empty mask is a hit
    nothing = np.zeros((1, 24, 24), bool)
    assert theirs(quantus.PointingGame(**quiet), maps[:1], nothing)[0] == 1
    assert np.isnan(pointing_game(maps[0], nothing[0]))
    # a map with a NaN has a value, and takes the whole batch with it
    lost = maps.copy()
    lost[0, 0, 0] = np.nan
    assert np.isfinite(theirs(quantus.RelevanceRankAccuracy(**quiet), lost)[0])
    with pytest.raises(ValueError, match="contains NaN"):
        theirs(quantus.AUC(**quiet), lost)
    assert np.isnan(measure(lost[0], lost[0].astype(float), truth[0].astype(float))[0]).all()


# ---- the objects and what is written of them


def test_the_table_of_the_docs_is_made_of_the_objects() -> None:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for measure in CorrectedProfile.measures():
        bounds = f"{measure.lowest:g} to {measure.highest:g}"
        groups.setdefault((measure.subject, measure.description, bounds), []).append(f"`{measure.name}`")
    rows = [f"| {' '.join(names)} | {' | '.join(words)} |" for words, names in groups.items()]
    text = (ROOT / "docs" / "score.md").read_text()
    assert "\n".join(["| measure | of | what | bounds |", "|---|---|---|---|", *rows]) in text, "\n".join(rows)


def test_every_measure_has_a_source_that_can_be_cited_and_its_bounds() -> None:
    bibliography = (ROOT / "histoxai/core/references.bib").read_text()
    for profile in registry.names("profile"):
        for measure in registry.resolve("profile", profile).measures():
            assert f"{{{measure.source}," in bibliography or " " in measure.source
            assert measure.lowest < measure.highest == 1
            assert measure.label
            assert measure.description


def test_registered_names_are_those_of_the_objects() -> None:
    for name in registry.names("measure"):
        assert registry.resolve("measure", name).name == name
