"""Explain why the corrected profile and the study's code give different scores."""

from __future__ import annotations

from dataclasses import dataclass

from histoxai.score.profiles.thesis import ThesisProfile


@dataclass(frozen=True)
class ProfileDifference:
    """A heading, the measures that differ, and why they differ."""

    heading: str
    measures: tuple[str, ...]
    explanation: str


PROFILE_DIFFERENCES = tuple(
    ProfileDifference(heading, tuple(m.name for m in ThesisProfile.measures() if m.heading == heading), explanation)
    for heading, explanation in dict.fromkeys((m.heading, m.difference) for m in ThesisProfile.measures())
)


def explanations() -> dict[str, str]:
    """Return the explanation of every measure that differs, by measure."""
    return {measure: d.explanation for d in PROFILE_DIFFERENCES for measure in d.measures}
