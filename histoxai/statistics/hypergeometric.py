"""Expectations over random sets of pixels: what a curve or an overlap is where nothing is known.

Of N pixels, P are marked and k are drawn without replacement. The number of marked ones among them is hypergeometric.
"""

from __future__ import annotations

import numpy as np


def expected_iou(fixed: float, drawn: float, marked: float, pixels: float, union: float) -> float:
    """Return E[(fixed + T) / (union - fixed - T)] for the number T of marked pixels among those drawn.

    `drawn` of `pixels` pixels are drawn at random, of which `marked` are marked. `fixed` pixels are in the intersection
    whatever is drawn. `union` is the sum of both areas, the intersection counted twice.
    """
    # Terms from the mode to both sides by the ratio of neighbours, as far as they count.
    least, most = max(0, drawn + marked - pixels), min(drawn, marked)
    mode = min(max(np.floor((drawn + 1) * (marked + 1) / (pixels + 2)), least), most)
    spread = np.sqrt(drawn * marked * (pixels - drawn) * (pixels - marked) / pixels / pixels / max(pixels - 1, 1))
    reach = np.ceil(9 * spread + 12)
    t = np.arange(max(least, mode - reach), min(most, mode + reach) + 1)
    following = (marked - t[:-1]) * (drawn - t[:-1]) / ((t[:-1] + 1) * (pixels - marked - drawn + t[:-1] + 1))
    log = np.concatenate([[0.0], np.cumsum(np.log(following))])
    weight = np.exp(log - log.max())
    return float(weight @ ((fixed + t) / (union - fixed - t)) / weight.sum())


def expected_average_precision(marked: int, ends: np.ndarray) -> float:
    """Return the expected average precision of a random set of `marked` pixels; NaN for none.

    ends (T,): how many pixels are at or above each distinct value of the map. The result is the sum over values of
    E[H^2] (e - e') / e^2 / marked, for the marked pixels H among the e strongest, and e' the number before e. Without
    ties it is (p - 1) / (n - 1) (1 - H_n / n) + H_n / n with the harmonic number H_n (Bestgen 2015).
    """
    if not marked:
        return float("nan")
    e, n = ends.astype(np.float64), float(ends[-1])
    mean = e * (marked / n)
    squares = mean**2 + mean * (1 - marked / n) * (n - e) / max(n - 1, 1)
    return float(np.sum(squares * np.diff(e, prepend=0.0) / e**2)) / marked
