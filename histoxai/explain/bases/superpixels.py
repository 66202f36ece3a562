"""Superpixels, and the colours that stand for them: what LIME, KernelSHAP and their kin switch off.

quickshift holds no lock while it runs (measured: two threads do four patches in 0.51 of the time of one), so threads
segment the next patches while the network has this one; no processes have to be started, fed and cleaned up after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from histoxai.explain.network import Network

Made = TypeVar("Made")


def quickshift(image: np.ndarray, kernel_size: float, max_dist: float, ratio: float) -> np.ndarray:
    """Superpixels (H, W) numbered from 0 of an image (H, W, 3) float64 in 0..1, as lime's default finds them.

    Vedaldi and Soatto 2008; in Lab, ties broken with scikit-image's own seed, 42.
    """
    from skimage.segmentation import quickshift as library

    return library(image, kernel_size=kernel_size, max_dist=max_dist, ratio=ratio, rng=42)


def with_nuclei(superpixels: np.ndarray, nuclei: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Every nucleus a segment of its own, the tissue between them cut as `superpixels` (H, W); numbered from 0.

    nuclei (2, H, W): probabilities of tumor and non-tumor nuclei; connected pixels of one kind above `threshold` are
    one nucleus.
    """
    from scipy import ndimage

    found = superpixels.astype(np.int64)
    for plane in nuclei:
        labels, _ = ndimage.label(plane > threshold)
        found = np.where(labels > 0, labels + found.max(), found)
    return np.unique(found, return_inverse=True)[1].reshape(superpixels.shape)


def mean_colours(image: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) with each segment in its mean colour, to the bit as lime has it.

    One sort instead of a mask for every segment; means of the same values in the same order.
    """
    flat, labels = image.reshape(-1, image.shape[-1]), segments.ravel()
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels))
    columns = np.ascontiguousarray(flat[order].T)
    starts = np.concatenate([[0], ends[:-1]])
    means = np.array([[c[a:b].mean() if b > a else 0.0 for c in columns] for a, b in zip(starts, ends, strict=True)])
    return means[labels].reshape(image.shape)


def ahead(make: Callable[[int], Made], count: int, threads: int) -> Iterator[Made]:
    """make(0), make(1), ... in order, made by threads while the caller is busy; as many as they are and one wait."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="segments")
    waiting: deque[Future[Made]] = deque()
    try:
        for i in range(count):
            waiting.append(pool.submit(make, i))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def threads_beside(net: Network) -> int:
    """How many: on a CPU one, which keeps ahead of the network; a GPU waits for all that the cores can do.

    Measured on two cores: one thread beside the network 3.7 s a patch, both cores first and the network then 3.9.
    """
    import torch

    return torch.get_num_threads() if net.device.type == "cuda" else 1
