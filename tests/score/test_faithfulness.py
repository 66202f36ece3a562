"""Orders, infills, areas and similarities by hand and against their libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from histoxai.score.measures.faithfulness import (
    BACKGROUND,
    area,
    imputed,
    infill,
    rank_plane,
    removal_order,
    removed,
    similarity,
    squares,
)


def test_the_strongest_go_first_and_ties_in_an_order_of_the_seed() -> None:
    plane = np.array([[3, 1, 1, 1], [1, 1, 2, 0]], np.float32)
    orders = np.array([removal_order(plane, seed) for seed in range(400)])
    assert (orders[:, 0] == 0).all()
    assert (orders[:, 1] == 6).all()
    assert (orders[:, 7] == 7).all()
    assert (np.sort(orders, axis=1) == np.arange(8)).all()
    # each of the five that tie comes third about as often
    share = np.bincount(orders[:, 2], minlength=8)[[1, 2, 3, 4, 5]] / 400
    np.testing.assert_allclose(share, 0.2, atol=0.07)
    assert np.array_equal(removal_order(plane, 5), removal_order(plane, 5))


def test_removed_and_area_by_hand() -> None:
    assert removed(10, 4).tolist() == [0, 2, 5, 8, 10]
    assert area(np.array([1.0, 1, 1])) == 1
    assert area(np.array([1.0, 0.5, 0])) == pytest.approx(0.5)
    assert area(np.array([[1.0, 0, 0], [0, 0, 1]])).tolist() == [0.25, 0.25]


def test_infills() -> None:
    image = np.random.default_rng(0).random((28, 56, 3)).astype(np.float32)
    np.testing.assert_allclose(infill(image, "mean")[3, 5], image.reshape(-1, 3).mean(axis=0), rtol=1e-5)
    assert (infill(image, "background") == np.float32(BACKGROUND)).all()
    sigma = (28 * 10 / 224, 56 * 10 / 224, 0)
    np.testing.assert_allclose(infill(image, "blur"), gaussian_filter(image, sigma, mode="nearest"), rtol=1e-6)


def test_imputation_is_the_librarys() -> None:
    rng = np.random.default_rng(1)
    image, kept = rng.random((12, 12, 3)).astype(np.float32), rng.random((12, 12)) > 0.4
    torch.manual_seed(7)
    theirs = NoisyLinearImputer()(torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(kept * 1.0))
    before = torch.get_rng_state()
    ours = imputed(image, kept, 7)
    np.testing.assert_allclose(ours, theirs.numpy().transpose(1, 2, 0), atol=1e-6)
    assert np.array_equal(ours[kept], image[kept])
    assert torch.equal(before, torch.get_rng_state())
    assert imputed(image, kept | True, 7) is image


def test_similarity_is_spearmans_and_ssim_of_scaled_planes() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((20, 20)).astype(np.float32), rng.random((20, 20)).astype(np.float32)
    rank, ssim = similarity(a, b)
    assert rank == pytest.approx(spearmanr(a.ravel(), b.ravel())[0])
    scaled = [(x.astype(float) - x.min()) / np.ptp(x) for x in (a, b)]
    assert ssim == pytest.approx(structural_similarity(*scaled, data_range=1.0), abs=1e-6)
    assert similarity(a, a * 3 + 1) == pytest.approx((1, 1), abs=1e-5)
    assert similarity(a, a * 0) == similarity(a, a * np.nan) == (0, 0)  # nothing is left of the map
    assert np.isnan(similarity(a * 0, a)).all()


def test_ranks_without_ties_cut_at_exact_shares() -> None:
    plane = np.zeros((20, 20), np.float32)
    plane[:2] = 3  # nine tenths are one tie
    ranks = rank_plane(plane, 0)
    assert (ranks[:2] > ranks[2:].max()).all()
    for share in (20, 40, 60, 80):
        assert (ranks < np.percentile(ranks, share)).mean() == share / 100


def test_squares_lie_inside_and_have_the_sizes_promised() -> None:
    gone = squares(0, 300, (32, 48))
    sides = np.sqrt(gone.sum(axis=(1, 2)))
    assert np.array_equal(sides, sides.round())
    assert sides.min() == 4
    assert sides.max() == 16
    assert (gone.any(axis=2).sum(axis=1) == sides).all()
    assert gone.any(axis=0).mean() > 0.95
