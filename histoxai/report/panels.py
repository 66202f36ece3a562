"""What a report draws of patches: distributions of their scores, their maps, and the study's four cases."""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.report.figures import figures
from histoxai.report.figures.pool import Gallery
from histoxai.report.lineage import Lineage
from histoxai.score.summary.scores import label_of


def violins(
    values: np.ndarray,
    label: np.ndarray,
    case: np.ndarray,
    names: list[str],
    axes: dict[str, list[str]],
    gallery: Gallery,
) -> list[dict[str, Any]]:
    """A figure of violins per measure: `name` and `png`."""
    made = []
    first = axes["profile"].index("corrected")
    for k, metric in enumerate(axes["metric"]):
        data = values[:, :, :, first, k]
        words = label_of(metric)
        arguments = (data, label, case, names, axes["method"], axes["mask"], words)
        made.append({"name": words, "png": gallery.add(f"violins-{metric}", figures.violins, *arguments)})
    return made


def maps(
    lineage: Lineage, examples: list[list[int | None]], names: list[str], gallery: Gallery, colours: str
) -> list[dict[str, Any]]:
    """A figure per method: of each class the right patch of highest probability, else the wrong one."""
    chosen, titles = [], []
    for k, name in enumerate(names):
        found = next(
            (row[k] for row in (examples[0], examples[1], examples[2], examples[3]) if row[k] is not None),
            None,
        )
        if found is not None:
            chosen.append(found)
            titles.append(lineage.title(found, name))
    made = []
    images, tumor, other = lineage.pictures(chosen)
    threshold = lineage.scores.header["settings"]["map_threshold"]
    for method in lineage.scores.header["axes"]["method"]:
        shown = lineage.signed(method, chosen), lineage.planes(method, chosen)
        arguments = (images, *shown, tumor, other, titles, threshold, colours)
        made.append({"name": method, "png": gallery.add(f"maps-{method}", figures.maps_of_method, *arguments)})
    return made


def cases(
    lineage: Lineage, examples: list[list[int | None]], names: list[str], gallery: Gallery, colours: str
) -> list[dict[str, Any]]:
    """The study's figures 16 to 19; `png` is None where no class has a patch of the case."""
    words = (
        "Case 1: right, highest probability",
        "Case 2: right, lowest probability",
        "Case 3: wrong, highest probability",
        "Case 4: wrong, lowest probability",
    )
    methods = lineage.scores.header["axes"]["method"]
    threshold = lineage.scores.header["settings"]["map_threshold"]
    made = []
    for number, (row, name) in enumerate(zip(examples, words, strict=True), 1):
        found = [i for i in row if i is not None]
        for first in range(0, len(methods), figures.ACROSS):
            some = methods[first : first + figures.ACROSS]
            png = None
            if found:
                planes = {m: dict(zip(found, lineage.planes(m, found), strict=True)) for m in some}
                pictures = dict(zip(found, zip(*lineage.pictures(found), strict=True), strict=True))
                rows = [
                    (lineage.title(i, label), *pictures[i], [planes[m][i] for m in some])
                    if i is not None
                    else (figures.short(label),)
                    for i, label in zip(row, names, strict=True)
                ]
                png = gallery.add(f"case-{number}", figures.case_sheet, rows, some, threshold, colours)
            elif first:
                continue
            several = found and len(methods) > len(some)
            made.append({"name": f"{name}: {', '.join(some)}" if several else name, "png": png})
    return made
