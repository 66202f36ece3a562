"""Ours against the library, patch by patch, by rule 3 of the numerics contract (docs/format.md)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histoxai.explain.bases.method import Batch, Method, explain_all

if TYPE_CHECKING:
    from histoxai.explain.network import Network

# Of max|A| to the library; of LIME's weights, absolute; else at most so many times the library's own error.
TO_LIBRARY, TO_WEIGHTS, TIMES_ITS_ERROR = 1e-5, 1e-6, 1.5


@dataclass(frozen=True)
class Parity:
    """The largest difference over patches as a share of max|A| (LIME: absolute), and whether the contract holds.

    our_error and library_error: to the library in float64, where the difference alone did not settle it.
    """

    patches: int
    difference: float
    holds: bool
    our_error: float | None = None
    library_error: float | None = None


def compare(explainer: Method, net: Network, batch: Batch, step: Callable[[], None] = lambda: None) -> Parity | None:
    """Explain a batch with ours, together, and with the library, one patch at a time; None where it has no such method.

    step: called after each of the library's patches.
    """
    if type(explainer).library is Method.library:
        return None
    ours = explain_all(explainer, net, batch)
    found = []
    double = None
    for i in range(len(batch)):
        image, target, seed = batch.patch(i)
        image = net.ready(image[None])[0]
        library = explainer.library(net.exact, image, target, seed)
        if library is None:
            return None
        mine = {part: values[i] for part, values in ours.items()}
        one = _settled(explainer, mine, library)
        if not one.holds:
            double = double or copy.deepcopy(net.exact).double()
            truth = explainer.library(double, image.double(), target, seed)
            assert truth is not None
            one = _by_error(explainer, mine, library, truth)
        found.append(one)
        step()
    return Parity(
        len(found),
        max(p.difference for p in found),
        all(p.holds for p in found),
        max((p.our_error for p in found if p.our_error is not None), default=None),
        max((p.library_error for p in found if p.library_error is not None), default=None),
    )


def _distance(explainer: Method, a: dict[str, np.ndarray], b: dict[str, np.ndarray], scale: float) -> float:
    if "segments" in a and not np.array_equal(a["segments"], b["segments"]):
        return float("inf")
    one, two = (explainer.evidence(x).astype(np.float64) for x in (a, b))
    return float(np.abs(one - two).max(initial=0.0)) / scale if one.shape == two.shape else float("inf")


def _scale(explainer: Method, library: dict[str, np.ndarray]) -> float:
    if "weights" in library:
        return 1.0
    return float(np.abs(explainer.evidence(library)).max(initial=0.0)) or 1.0


def _settled(explainer: Method, ours: dict[str, np.ndarray], library: dict[str, np.ndarray]) -> Parity:
    difference = _distance(explainer, ours, library, _scale(explainer, library))
    return Parity(1, difference, difference <= (TO_WEIGHTS if "weights" in library else TO_LIBRARY))


def _by_error(
    explainer: Method, ours: dict[str, np.ndarray], library: dict[str, np.ndarray], truth: dict[str, np.ndarray]
) -> Parity:
    scale = _scale(explainer, library)
    mine, theirs = (_distance(explainer, x, truth, scale) for x in (ours, library))
    return Parity(1, _distance(explainer, ours, library, scale), mine <= TIMES_ITS_ERROR * theirs, mine, theirs)
