"""Compare a method with its library, patch by patch, by rule 3 of the numerics contract (docs/format.md)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histoxai.explain.bases.method import Batch, Method, explain_all

if TYPE_CHECKING:
    from histoxai.explain.network import Network

# Largest difference to the library as a share of max|A|, and for LIME's weights, absolute.
SHARE_OF_MAX, OF_WEIGHTS = 1e-5, 1e-6
# Where it is larger: largest error to float64, in errors of the library.
TIMES_LIBRARY_ERROR = 1.5

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Parity:
    """Result of a comparison over patches.

    difference: largest difference as a share of max|A| (LIME: absolute). holds: whether the contract holds. our_error,
    library_error: errors to the library in float64, computed only if the difference is too large.
    """

    patches: int
    difference: float
    holds: bool
    our_error: float | None = None
    library_error: float | None = None


def compare(
    explainer: Method, net: Network, batch: Batch, after_patch: Callable[[], None] = lambda: None
) -> Parity | None:
    """Explain a batch with the method, and patch by patch with its library; None if no library has the method.

    after_patch: called after each of the library's patches.
    """
    if explainer.why_no_library():
        return None
    from histoxai.explain.network import quiet_library

    ours = explain_all(explainer, net, batch)
    comparisons = []
    double = None
    for i in range(len(batch)):
        image, target, seed = batch.patch(i)
        image = net.ready(image[None])[0]
        with quiet_library():
            library = explainer.library(net.exact, image, target, seed)
        if library is None:
            return None
        own = {part: values[i] for part, values in ours.items()}
        comparison = _by_difference(explainer, own, library)
        if not comparison.holds:
            double = double or copy.deepcopy(net.exact).double()
            with quiet_library():
                truth = explainer.library(double, image.double(), target, seed)
            assert truth is not None
            comparison = _by_error(explainer, own, library, truth)
        comparisons.append(comparison)
        after_patch()
    return Parity(
        len(comparisons),
        max(c.difference for c in comparisons),
        all(c.holds for c in comparisons),
        max((c.our_error for c in comparisons if c.our_error is not None), default=None),
        max((c.library_error for c in comparisons if c.library_error is not None), default=None),
    )


def _distance(explainer: Method, a: Arrays, b: Arrays, scale: float) -> float:
    if "segments" in a and not np.array_equal(a["segments"], b["segments"]):
        return float("inf")
    one, two = (explainer.evidence(x).astype(np.float64) for x in (a, b))
    return float(np.abs(one - two).max(initial=0.0)) / scale if one.shape == two.shape else float("inf")


def _scale(explainer: Method, library: Arrays) -> float:
    if "weights" in library:
        return 1.0
    return float(np.abs(explainer.evidence(library)).max(initial=0.0)) or 1.0


def _by_difference(explainer: Method, ours: Arrays, library: Arrays) -> Parity:
    difference = _distance(explainer, ours, library, _scale(explainer, library))
    return Parity(1, difference, difference <= (OF_WEIGHTS if "weights" in library else SHARE_OF_MAX))


def _by_error(explainer: Method, ours: Arrays, library: Arrays, truth: Arrays) -> Parity:
    scale = _scale(explainer, library)
    own, theirs = (_distance(explainer, x, truth, scale) for x in (ours, library))
    return Parity(1, _distance(explainer, ours, library, scale), own <= TIMES_LIBRARY_ERROR * theirs, own, theirs)
