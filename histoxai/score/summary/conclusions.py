"""Test the study's claims on scores, each with an answer in words.

Holm's correction is over all testable claims, in both directions.
"""

from __future__ import annotations

import numpy as np

from histoxai.score.results import ConclusionRow
from histoxai.score.summary.claims import CannotTest, ClaimData, Finding
from histoxai.score.summary.scores import Scores
from histoxai.score.summary.study_claims import CLAIMS
from histoxai.settings import Statistics
from histoxai.statistics.numbers import or_none
from histoxai.statistics.tests import holm


def conclude(s: Scores, primary: np.ndarray, cancer: list[int], settings: Statistics) -> list[ConclusionRow]:
    """Test all claims; primary (n, M, K): values of the primary measure, higher is better."""
    data = ClaimData(s, primary, cancer, settings)
    findings, untested = {name: Finding() for name in CLAIMS}, {}
    for name, claim in CLAIMS.items():
        try:
            claim.test(data, findings[name])
        except CannotTest as reason:
            untested[name] = str(reason)
    adjusted = holm(np.array([[f.p, f.opposite] for f in findings.values()]).ravel()).reshape(-1, 2)
    words = {"primary": str(settings.primary).replace("_", " "), "margin": settings.margin, "profile": s.profile}
    rows: list[ConclusionRow] = []
    for (name, found), (p, opposite) in zip(findings.items(), adjusted.tolist(), strict=True):
        claim = CLAIMS[name]
        answer, text = _answer(found, p, opposite, 1 - settings.level)
        if name in untested:
            answer, text = "not testable", f"Not testable: {untested[name]}."
        rows.append(
            {
                "name": name,
                "claim": claim.words.format(**words),
                "answer": answer,
                "words": text,
                "measure": claim.measure.format(**words),
                "study_measure": claim.study_measure,
                "p": or_none(found.p),
                "p_holm": or_none(p),
                "parts": found.parts,
            }
        )
    return rows


def _answer(found: Finding, p: float, opposite: float, alpha: float) -> tuple[str, str]:
    if p <= alpha:
        return "supported", f"Supported: {found.words} (p = {p:.2g})."
    if opposite <= alpha:
        return "contradicted", f"Contradicted: {found.words} (p = {opposite:.2g} for the opposite)."
    return "not supported", f"Not supported: {found.words} (p = {p:.2g})."
