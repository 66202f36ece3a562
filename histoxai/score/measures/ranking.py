"""Measures without a threshold: how well the strongest pixels of a map are pixels of a mask."""

from __future__ import annotations

from histoxai.score.measures.base import FormulaMeasure, Pair
from histoxai.statistics.hypergeometric import expected_average_precision


def _top_k(pair: Pair) -> float:
    return pair.hits.share_among(max(1, round(pair.map.settings.top_k * pair.hits.pixels)))


AUROC = FormulaMeasure(
    name="auroc",
    label="AUROC",
    subject="relevance",
    description="probability that a pixel of the mask is above one outside, ties as half",
    source="The area under the ROC curve of pixels, as scikit-learn computes it.",
    convention=False,
    headline=True,
    formula=lambda pair: pair.hits.auroc(),
    expected=lambda pair: 0.5,
)
AVERAGE_PRECISION = FormulaMeasure(
    name="average_precision",
    label="average precision",
    subject="relevance",
    description="area under precision over recall, by steps (scikit-learn's)",
    source="The area under precision over recall, as scikit-learn computes it; its chance: Bestgen 2015.",
    convention=False,
    headline=True,
    formula=lambda pair: pair.hits.average_precision(),
    expected=lambda pair: expected_average_precision(pair.hits.positives, pair.hits.ends),
)
RANK_ACCURACY = FormulaMeasure(
    name="rank_accuracy",
    label="rank accuracy",
    subject="relevance",
    description="share of mask pixels among as many strongest pixels as the mask has (Arras et al. 2022)",
    source="Arras, Osman and Samek 2022, arXiv 2003.07258",
    formula=lambda pair: pair.hits.share_among(pair.hits.positives),
    expected=lambda pair: pair.prevalence,
)
TOP_K = FormulaMeasure(
    name="top_k",
    label="top k",
    subject="relevance",
    description="share of mask pixels among the strongest `--top-k` (2 %) of all",
    source="Precision among the k strongest pixels.",
    formula=_top_k,
    expected=lambda pair: pair.prevalence,
)
