"""Build a report's page from a scores store and its lineage: put the sections together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from histoxai.core.progress import Progress
from histoxai.report.content import PageContent
from histoxai.report.figures.pool import FigurePool
from histoxai.report.lineage import Lineage
from histoxai.report.patch_explorer import choose_patches, positions_of
from histoxai.report.script_data import PagePatches, add_explorer, choose_points, script_data
from histoxai.report.sections import (
    answer,
    classifier,
    data,
    distributions,
    evidence,
    faithfulness,
    masks,
    patches,
    robustness,
    scores,
    slides,
)
from histoxai.report.sections.base import ReportInputs
from histoxai.report.wording import hyphenated
from histoxai.score.summary.scores import Scores
from histoxai.settings import Report

# Their figures take longest, so they are drawn while statistics are computed; their arrays come last in data.zarr.
_SLOW_BUILDERS = (distributions.build, patches.build)
_BUILDERS = (
    answer.build,
    slides.build,
    data.build,
    classifier.build,
    masks.build,
    scores.build,
    evidence.build,
    faithfulness.build,
    robustness.build,
    scores.build_all_means,
)


@dataclass(frozen=True)
class Page:
    """A page: values of its template, data of its scripts, arrays of data.zarr and the names along their axes.

    scores: in the corrected profile, from which the page is made.
    """

    content: PageContent
    data: dict[str, Any]
    scores: Scores
    arrays: dict[str, np.ndarray]
    axes: dict[str, list[str]]


def build_page(lineage: Lineage, settings: Report, figures: FigurePool, progress: Progress) -> Page:
    """Build every section of the page; all figures are drawn when this returns.

    Raises UsageError for a measure, class or patch that the store lacks.
    """
    inputs = ReportInputs(lineage, settings, figures, progress)
    from_option = positions_of(settings.show, inputs.patch_id)
    slow_sections = [build(inputs) for build in _SLOW_BUILDERS]
    sections = [*[build(inputs) for build in _BUILDERS], *slow_sections]
    with_layers = choose_patches(inputs, from_option)
    with_points = choose_points(inputs.results.scores, with_layers)
    scripts = script_data(inputs, with_points)
    figures.finish(progress)
    count = add_explorer(inputs, scripts, PagePatches(with_layers, with_points, from_option))
    content: PageContent = {
        **lineage.facts(),
        "title": settings.title,
        "methods": lineage.method_names,
        "explorer": {"count": count, "points": len(with_points), "mask": hyphenated(inputs.primary_mask)},
        "lineage": lineage.ancestors(),
        "commands": lineage.commands(),
    }
    arrays: dict[str, np.ndarray] = {}
    for section in sections:
        content.update(section.content)
        arrays |= section.arrays
    return Page(content, scripts, inputs.results.scores, arrays, _axes_of_arrays(inputs))


def _axes_of_arrays(inputs: ReportInputs) -> dict[str, list[str]]:
    # names along each axis, then the axes of each array or group of arrays
    axes = inputs.axes
    tables = ("means", "primary", "above_chance", "conclusion", "faithfulness", "sanity", "sizes", "ink")
    return {
        "class": [*inputs.class_names, "all"],
        "method": axes["method"],
        "mask": axes["mask"],
        "profile": axes["profile"],
        "metric": axes["metric"],
        "case": ["1", "2", "3", "4"],
        "table6": ["profile", "mask", "metric", "method", "class"],
        "case_mean": ["profile", "mask", "metric", "method", "class", "case"],
        "example_patch_id": ["case", "class"],
        "patch_values": ["patch", "method", "mask", "profile", "metric"],
        **{name: ["row"] for name in tables},
        "cuts": ["method and mask", "threshold"],
        "agreement": ["method", "method"],
    }
