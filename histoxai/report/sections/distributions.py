"""Build the section on distributions: a figure of violins per measure, in the corrected profile."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from histoxai.report.figures.violins import PatchScores, violins
from histoxai.report.sections.base import NamedFigure, ReportInputs, Section
from histoxai.score.summary.scores import label_of


class DistributionsContent(TypedDict):
    """Values of the template `sections/distributions.html`; sure: least probability of a sure prediction."""

    violins: list[NamedFigure]
    sure: float


def build(inputs: ReportInputs) -> Section:
    """Build the section, with the values, labels and cases of all patches as arrays."""
    content: DistributionsContent = {
        "violins": _violin_figures(inputs),
        "sure": inputs.lineage.scores.header["settings"]["sure"],
    }
    arrays = {
        "patch_values": inputs.values,
        "patch_label": inputs.label,
        "patch_case": inputs.case,
        "patch_id": inputs.patch_id,
    }
    return Section(content, arrays)


def _violin_figures(inputs: ReportInputs) -> list[NamedFigure]:
    axes, names = inputs.axes, inputs.class_names
    code = np.full(len(inputs.lineage.patches.classes), -1)  # of the classes that have patches
    code[inputs.present_classes] = np.arange(len(names))
    profile = axes["profile"].index("corrected")
    figures: list[NamedFigure] = []
    for k, measure in enumerate(axes["metric"]):
        values, label = inputs.values[:, :, :, profile, k], label_of(measure)
        scores = PatchScores(values, code[inputs.label], inputs.case, names, axes["method"], axes["mask"])
        figures.append({"name": label, "png": inputs.figures.add(f"violins-{measure}", violins, scores, label)})
    return figures
