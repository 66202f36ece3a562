"""Superpixels and their mean colours, for methods that switch superpixels off: LIME and KernelSHAP.

The next patches are segmented while the network runs this one: by a thread on a CPU, where quickshift releases Python's
lock (measured: two threads take 0.51 of the time of one for four patches), by worker processes beside a GPU.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from histoxai.core import signals
from histoxai.core.child_process import spawn_context
from histoxai.core.errors import HistoxaiError

if TYPE_CHECKING:
    from histoxai.explain.network import Network

Result = TypeVar("Result")


def quickshift(image: np.ndarray, kernel_size: float, max_dist: float, ratio: float) -> np.ndarray:
    """Superpixels (H, W), numbered from 0, of an image (H, W, 3) float64 in 0..1, as lime's default segmentation.

    Vedaldi and Soatto 2008, in Lab; ties are broken with scikit-image's own seed, 42.
    """
    from skimage.segmentation import quickshift as library

    return library(image, kernel_size=kernel_size, max_dist=max_dist, ratio=ratio, rng=42)


def with_nuclei(superpixels: np.ndarray, nuclei: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Segments (H, W), numbered from 0: one for every nucleus, and `superpixels` (H, W) for the tissue between them.

    nuclei: (2, H, W) probabilities of tumor and non-tumor nuclei. Connected pixels of one kind above `threshold` are
    one nucleus.
    """
    from scipy import ndimage

    segments = superpixels.astype(np.int64)
    for plane in nuclei:
        labels, _ = ndimage.label(plane > threshold)
        segments = np.where(labels > 0, labels + segments.max(), segments)
    return np.unique(segments, return_inverse=True)[1].reshape(superpixels.shape)


def mean_colours(image: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) with each segment in its mean colour, equal to lime's to the last bit.

    One sort replaces lime's mask for every segment; means are of the same values in the same order.
    """
    flat, labels = image.reshape(-1, image.shape[-1]), segments.ravel()
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels))
    columns = np.ascontiguousarray(flat[order].T)
    starts = np.concatenate([[0], ends[:-1]])
    means = np.array([[c[a:b].mean() if b > a else 0.0 for c in columns] for a, b in zip(starts, ends, strict=True)])
    return means[labels].reshape(image.shape)


def compute_ahead(
    compute: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], workers: int, processes: bool = False
) -> Iterator[Result]:
    """Yield compute(*arguments) of each, in order, computed ahead of the caller; at most workers + 1 wait.

    processes: compute in worker processes, to which function and arguments are pickled, in place of threads. Raises
    HistoxaiError if one of them is killed.
    """
    pool = _worker_processes(workers) if processes else ThreadPoolExecutor(workers, thread_name_prefix="segments")
    waiting: deque[Future[Result]] = deque()
    try:
        for of_one in arguments:
            waiting.append(pool.submit(compute, *of_one))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise HistoxaiError(
            f"a process that segments patches was killed (out of memory?); {signals.RESUME_HINT}, with fewer --threads "
            "if it happens again"
        ) from error
    finally:
        for future in waiting:
            future.cancel()
        if not processes:
            pool.shutdown(wait=False, cancel_futures=True)


@lru_cache(maxsize=1)
def _worker_processes(count: int) -> ProcessPoolExecutor:
    # they live as long as this process: each takes a second to start, and every work item needs them
    return ProcessPoolExecutor(count, mp_context=spawn_context(), initializer=_start_worker)


def _start_worker() -> None:
    # a signal to the whole process group is for the process that explains, without which this one is of no use
    signals.ignore()
    signals.die_with_parent(signal.SIGKILL)


def segmenting(net: Network) -> tuple[int, bool]:
    """Return how many workers segment beside the network, and whether they are processes.

    One thread on a CPU. Measured on two cores: 3.7 s a patch with one thread beside the network, 3.9 s with both cores
    before the network. On a GPU a process for every core: LIME takes the network some 10 ms a patch there, and
    quickshift 400 ms of a core, of which threads would hold Python's lock for 10.
    """
    import torch

    return (torch.get_num_threads(), True) if net.device.type == "cuda" else (1, False)
