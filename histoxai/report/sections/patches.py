"""Build the section on patches: each method's maps of example patches, and the study's four cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from histoxai.report.content import SectionContent
from histoxai.report.figures.maps import CaseRow, case_sheet, maps_of_method
from histoxai.report.figures.style import METHODS_PER_ROW, abbreviate
from histoxai.report.sections.base import ReportInputs, Section

_CASES = (
    "Case 1: right, highest probability",
    "Case 2: right, lowest probability",
    "Case 3: wrong, highest probability",
    "Case 4: wrong, lowest probability",
)
_COLOURS = {
    "safe": "Map green, tumor mask orange-red, non-tumor mask blue, map and tumor together yellow, on the greyed "
    "patch: colours that colour-blind readers can tell apart.",
    "study": "Map green, tumor mask red, non-tumor mask blue, map and tumor together yellow, on the unchanged "
    "patch, as the study has them.",
}


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section, with the ids of the example patches by case and class."""
    content: SectionContent = {
        "maps": _map_figures(inputs),
        "cases": list(_case_figures(inputs)),
        "colour_words": _COLOURS[inputs.settings.colours],
    }
    ids = [["" if i is None else str(inputs.patch_id[i]) for i in row] for row in inputs.examples]
    return Section(content, {"example_patch_id": np.array(ids)})


def _map_figures(inputs: ReportInputs) -> list[dict[str, Any]]:
    # of each class the right patch of highest probability, else the first of the other cases
    lineage = inputs.lineage
    chosen = {}
    for k, name in enumerate(inputs.class_names):
        position = next((row[k] for row in inputs.examples if row[k] is not None), None)
        if position is not None:
            chosen[position] = lineage.patch_title(position, name)
    positions, look = list(chosen), (lineage.map_threshold, inputs.settings.colours)
    patches = lineage.masked_patches(positions, list(chosen.values()))
    figures = []
    for method in lineage.method_names:
        maps = lineage.patch_maps(method, positions)
        figure = inputs.figures.add(f"maps-{method}", maps_of_method, patches, maps, *look)
        figures.append({"name": method, "png": figure})
    return figures


def _case_figures(inputs: ReportInputs) -> Iterator[dict[str, Any]]:
    # a figure per case and METHODS_PER_ROW methods
    methods, look = inputs.lineage.method_names, (inputs.lineage.map_threshold, inputs.settings.colours)
    for number, (examples, title) in enumerate(zip(inputs.examples, _CASES, strict=True), 1):
        if all(i is None for i in examples):
            yield {"name": title, "png": None}
            continue
        for start in range(0, len(methods), METHODS_PER_ROW):
            some = methods[start : start + METHODS_PER_ROW]
            rows = _case_rows(inputs, examples, some)
            name = f"{title}: {', '.join(some)}" if len(some) < len(methods) else title
            yield {"name": name, "png": inputs.figures.add(f"case-{number}", case_sheet, rows, some, *look)}


def _case_rows(inputs: ReportInputs, examples: Sequence[int | None], methods: Sequence[str]) -> list[CaseRow]:
    lineage, rows = inputs.lineage, []
    for position, name in zip(examples, inputs.class_names, strict=True):
        if position is None:
            rows.append(CaseRow(abbreviate(name)))
            continue
        title = lineage.patch_title(position, name)
        maps = [lineage.rendered_maps(method, [position])[0] for method in methods]
        rows.append(CaseRow(title, lineage.masked_patches([position], [title])[0], maps))
    return rows
