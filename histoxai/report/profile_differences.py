"""Explain why the corrected profile and the study's code give different scores."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProfileDifference:
    """A heading, the measures that differ, and why they differ."""

    heading: str
    measures: tuple[str, ...]
    explanation: str


PROFILE_DIFFERENCES = (
    ProfileDifference(
        "IoU",
        ("iou",),
        "The study's code passes the already binary map through a sigmoid (0 becomes 0.5, 1 becomes 0.731) and adds 1 "
        "above and below. An almost empty map then scores p / (1 + p), where p is the mask's share of the patch, "
        "whatever the method: the number describes the mask. Corrected: TP / (TP + FP + FN).",
    ),
    ProfileDifference(
        "Precision, recall, F1",
        ("precision", "recall", "f1"),
        "The code hands two-dimensional planes to scikit-learn, which averages over image lines and counts an empty "
        "line as 0. Corrected: one count over all pixels of the patch.",
    ),
    ProfileDifference(
        "Spearman",
        ("spearman",),
        "The code takes the two binary planes, where it equals phi. Corrected: the map's and the mask's intensities.",
    ),
    ProfileDifference(
        "Constant maps",
        ("phi", "pixel_accuracy"),
        "The code rescales LIME's and GradCAM's binary planes once more; a constant one becomes NaN, which scores 0 in "
        "pixel accuracy, precision, recall and F1. A constant colour channel empties an IG or NT map. Corrected: a "
        "constant channel counts as zero, and what has no value is called undefined.",
    ),
)


def explanations() -> dict[str, str]:
    """Return the explanation of every measure that differs, by measure."""
    return {measure: d.explanation for d in PROFILE_DIFFERENCES for measure in d.measures}
