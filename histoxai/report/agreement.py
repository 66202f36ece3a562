"""Measure how far methods agree: rank correlations between their maps of the same patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoxai.core.progress import Progress
from histoxai.core.provenance import keyed_seed
from histoxai.report.lineage import Lineage
from histoxai.statistics.ranks import centred_ranks, rank_correlation

MAX_PATCHES = 200


@dataclass(frozen=True)
class MethodAgreement:
    """Mean rank correlation (M, M) between methods, NaN without a common map, over so many patches."""

    correlations: np.ndarray
    patches: int


def method_agreement(lineage: Lineage, patch_id: np.ndarray, progress: Progress) -> MethodAgreement:
    """Average the rank correlation of the methods' relevance over patches.

    At most MAX_PATCHES patches are drawn by their ids (n,). Maps that are not finite or constant count for nothing.
    """
    methods = lineage.method_names
    order = np.argsort([float(keyed_seed(0, "agreement", i)) for i in patch_id.tolist()], kind="stable")
    positions = np.sort(order[:MAX_PATCHES])
    sums, counts = np.zeros((len(methods), len(methods))), np.zeros((len(methods), len(methods)))
    progress.start("agreement", len(positions))
    for position in positions:
        ranks = [centred_ranks(lineage.relevance_maps(name, [position])[0]) for name in methods]
        for i, first in enumerate(ranks):
            for j, second in enumerate(ranks[: i + 1]):
                value = rank_correlation(first, second)
                if np.isfinite(value):
                    sums[[i, j], [j, i]] += value  # once if i is j
                    counts[[i, j], [j, i]] += 1
        progress.advance()
    progress.stop()
    with np.errstate(invalid="ignore"):
        return MethodAgreement(sums / counts, len(positions))
