"""Faithfulness of a map to the model: the order in which pixels are removed, their infill, and the measures.

Deletion and insertion: Petsiuk, Das and Saenko 2018, arXiv 1806.07421. Noisy linear imputation: Rong et al. 2022, arXiv
2202.00449, as pytorch-grad-cam has it.
"""

from __future__ import annotations

import numpy as np

from histoxai.statistics.ranks import ascending, tie_starts

CURVES = ("deletion", "insertion")
# Glass without tissue in a bright-field scan: nearly white.
BACKGROUND = 243 / 255
BLUR = 10 / 224  # sigma as a share of the side; Petsiuk et al. blur until little more than colours is left


def removal_order(relevance: np.ndarray, seed: int) -> np.ndarray:
    """Return pixel numbers (N,) of a relevance (H, W), strongest first; ties are shuffled by the seed.

    A superpixel is one tie. In the order of memory its top would go first, which makes an edge that no evidence has.
    """
    values = relevance.ravel()
    shuffled = np.random.default_rng(seed).permutation(len(values))
    # a stable order of the shuffled values keeps the shuffle within ties
    order = ascending(values[shuffled])
    ordered = values[shuffled][order]
    starts = tie_starts(ordered)
    tie = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(values))))
    return shuffled[order[np.lexsort((order, tie))]][::-1]


def removed(pixels: int, steps: int) -> np.ndarray:
    """Return the number of removed pixels after each step (steps + 1,), from none to all."""
    return np.round(np.linspace(0, pixels, steps + 1)).astype(np.int64)


def area(curve: np.ndarray) -> np.ndarray:
    """Return the area under curves (..., steps + 1) over the share of pixels, by trapezoids."""
    return ((curve[..., 1:] + curve[..., :-1]) / 2).mean(axis=-1)


def rank_plane(relevance: np.ndarray, seed: int) -> np.ndarray:
    """Return ranks (H, W) float32 in 0..1 of a relevance, 1 for the strongest; ties are shuffled by the seed."""
    ranks = np.empty(relevance.size, np.float32)
    ranks[removal_order(relevance, seed)] = np.linspace(1, 0, relevance.size, dtype=np.float32)
    return ranks.reshape(relevance.shape)


def squares(seed: int, count: int, size: tuple[int, int]) -> np.ndarray:
    """Draw squares (count, H, W) bool, with sides of an eighth to a half of the shorter side."""
    rng = np.random.default_rng(seed)
    height, width = size
    planes = np.zeros((count, height, width), bool)
    for plane in planes:
        side = int(rng.integers(max(1, min(size) // 8), max(2, min(size) // 2 + 1)))
        y, x = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        plane[y : y + side, x : x + side] = True
    return planes


def infidelity(evidence: np.ndarray, gone: np.ndarray, drop: np.ndarray) -> float:
    """Return the share of the fall of the logit that a map does not explain: 0 is best, 1 explains nothing.

    evidence (H, W): contribution of each pixel according to the map. gone (n, H, W) bool: pixels that were replaced.
    drop (n,): fall of the logit. With the evidence e of the replaced pixels it is the minimum over b >= 0 of
    sum (b e - drop)^2 / sum drop^2, so that the scale of a map does not count. NaN where the logit never changes.
    Source: Yeh et al. 2019, arXiv 1901.09392.
    """
    predicted = np.array([evidence[plane].sum() for plane in gone])
    whole, size, both = (float(np.sum(product)) for product in (drop**2, predicted**2, predicted * drop))
    if not whole > 0:
        return float("nan")
    return 1 - both**2 / (size * whole) if both > 0 and size > 0 else 1.0


def infill(image: np.ndarray, kind: str) -> np.ndarray:
    """Return the values of removed pixels of an image (H, W, 3) float32 in 0..1: its mean colour, blur, or glass."""
    if kind == "mean":
        return np.broadcast_to(image.mean(axis=(0, 1)), image.shape).astype(np.float32)
    if kind == "background":
        return np.full(image.shape, BACKGROUND, np.float32)
    from scipy.ndimage import gaussian_filter

    sides = [BLUR * n for n in image.shape[:2]]
    return gaussian_filter(image, (*sides, 0), mode="nearest").astype(np.float32)


def imputed(image: np.ndarray, kept: np.ndarray, seed: int) -> np.ndarray:
    """Impute the pixels of an image (H, W, 3) outside `kept` (H, W) bool from their neighbours, with a little noise."""
    import torch
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    if kept.all():
        return image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        filled = NoisyLinearImputer()(
            torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(kept.astype(np.float32))
        )
    return filled.numpy().transpose(1, 2, 0)


def similarity(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return Spearman's rank correlation and SSIM of two relevances (H, W).

    SSIM (Wang et al. 2004) is of planes scaled to 0..1 each, as Adebayo et al. 2018 compare maps. Both are NaN where
    the first is constant or not finite, and 0 where only the second is.
    """
    from scipy.stats import spearmanr
    from skimage.metrics import structural_similarity

    if not np.isfinite(first).all() or np.ptp(first) == 0:
        return float("nan"), float("nan")
    if not np.isfinite(second).all() or np.ptp(second) == 0:
        return 0.0, 0.0
    rank = float(spearmanr(first.ravel(), second.ravel()).statistic)
    a, b = ((x.astype(np.float64) - x.min()) / np.ptp(x) for x in (first, second))
    return rank, float(structural_similarity(a, b, data_range=1.0))
