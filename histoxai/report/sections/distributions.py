"""Build the section on distributions: a figure of violins per measure, in both profiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.report.content import SectionContent
from histoxai.report.figures.violins import PatchScores, violins
from histoxai.report.sections.base import ReportInputs, Section
from histoxai.score.summary.scores import label_of


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section, with the values, labels and cases of all patches as arrays."""
    content: SectionContent = {
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


def _violin_figures(inputs: ReportInputs) -> list[dict[str, Any]]:
    # of each profile: its figures, and the measures without one, whose values are those of the first profile
    axes, first = inputs.axes, inputs.values[..., 0, :]
    sections = []
    for p, profile in enumerate(axes["profile"]):
        drawn, same = {}, []
        for k, measure in enumerate(axes["metric"]):
            values = inputs.values[:, :, :, p, k]
            if p and np.array_equal(values, first[..., k], equal_nan=True):
                same.append(label_of(measure))
            else:
                drawn[measure] = values
        stem = f"violins-{profile}" if p else "violins"
        sections.append({"profile": profile, "figures": _figures_of(inputs, drawn, stem), "same": same})
    return sections


def _figures_of(inputs: ReportInputs, drawn: dict[str, np.ndarray], stem: str) -> list[dict[str, Any]]:
    axes, names = inputs.axes, inputs.class_names
    code = np.full(len(inputs.lineage.patches.classes), -1)  # of the classes that have patches
    code[inputs.present_classes] = np.arange(len(names))
    figures, has_note = [], inputs.lineage.partial is not None
    for measure, values in drawn.items():
        label = label_of(measure)
        scores = PatchScores(values, code[inputs.label], inputs.case, names, axes["method"], axes["mask"])
        figure = inputs.figures.add(f"{stem}-{measure}", violins, scores, label, has_note)
        figures.append({"name": label, "png": figure})
    return figures
