"""Does a map matter to the model? What is put in place of pixels, in which order, and what is made of the answers.

Deletion and insertion: Petsiuk, Das and Saenko 2018, arXiv 1806.07421. Noisy linear imputation: Rong et al. 2022, arXiv
2202.00449, as pytorch-grad-cam has it.
"""

from __future__ import annotations

import numpy as np

from histoxai.metrics.ranking import ascending

CURVES = ("deletion", "insertion")
# Glass without tissue in a bright-field scan: nearly white.
BACKGROUND = 243 / 255
BLUR = 10 / 224  # sigma as a share of the side; Petsiuk et al. blur until little more than colours is left


def removal_order(relevance: np.ndarray, seed: int) -> np.ndarray:
    """Pixel numbers (N,) of a relevance (H, W), strongest first; ties in an order drawn from the seed.

    A superpixel is one tie: in the order of memory its top would go first, and edges be made that no evidence made.
    """
    values = relevance.ravel()
    shuffled = np.random.default_rng(seed).permutation(len(values))
    # a stable order of the shuffled values keeps the shuffle within ties
    order = ascending(values[shuffled])
    ordered = values[shuffled][order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    tie = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(values))))
    return shuffled[order[np.lexsort((order, tie))]][::-1]


def removed(pixels: int, steps: int) -> np.ndarray:
    """How many pixels are gone after each step (steps + 1,): from none to all."""
    return np.round(np.linspace(0, pixels, steps + 1)).astype(np.int64)


def area(curve: np.ndarray) -> np.ndarray:
    """Area under curves (..., steps + 1) over the share of pixels, by trapezoids."""
    return ((curve[..., 1:] + curve[..., :-1]) / 2).mean(axis=-1)


def infill(image: np.ndarray, kind: str) -> np.ndarray:
    """What stands in place of removed pixels of an image (H, W, 3) float32 in 0..1: its mean colour, blur, or glass."""
    if kind == "mean":
        return np.broadcast_to(image.mean(axis=(0, 1)), image.shape).astype(np.float32)
    if kind == "background":
        return np.full(image.shape, BACKGROUND, np.float32)
    from scipy.ndimage import gaussian_filter

    sides = [BLUR * n for n in image.shape[:2]]
    return gaussian_filter(image, (*sides, 0), mode="nearest").astype(np.float32)


def imputed(image: np.ndarray, kept: np.ndarray, seed: int) -> np.ndarray:
    """An image (H, W, 3) whose pixels outside `kept` (H, W) bool follow from their neighbours, with a little noise."""
    import torch
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    if kept.all():
        return image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = NoisyLinearImputer()(
            torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(kept.astype(np.float32))
        )
    return found.numpy().transpose(1, 2, 0)


def similarity(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Spearman's rank correlation and SSIM of two relevances (H, W); NaN where one is constant or not finite.

    SSIM (Wang et al. 2004) over planes that are each scaled to 0..1, as Adebayo et al. 2018 compare maps.
    """
    from scipy.stats import spearmanr
    from skimage.metrics import structural_similarity

    if not (np.isfinite(first).all() and np.isfinite(second).all()) or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan"), float("nan")
    rank = float(spearmanr(first.ravel(), second.ravel()).statistic)
    a, b = ((x.astype(np.float64) - x.min()) / np.ptp(x) for x in (first, second))
    return rank, float(structural_similarity(a, b, data_range=1.0))
