"""report: scores.zarr and its lineage -> report/, one HTML page and data.zarr with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from histoxai.core import provenance
from histoxai.core.progress import Progress
from histoxai.report.build import build_page
from histoxai.report.content import methods_facts, partial_label
from histoxai.report.export import qupath
from histoxai.report.export.files import export_files
from histoxai.report.export.report_tables import report_tables
from histoxai.report.export.slides import OverlaySource, overlay_files
from histoxai.report.figures.pool import FigurePool
from histoxai.report.lineage import resolve_lineage
from histoxai.report.output import ReportOutput
from histoxai.report.page.render import render
from histoxai.report.slides import find_slides, patch_positions
from histoxai.score.scores_store import read
from histoxai.settings import Report

SCHEMA = "report/2"


def report(
    scores_path: Path,
    output: Path,
    settings: Report,
    progress: Progress,
    *,
    moved: Mapping[str, Path | None],
    force: bool = False,
    dry_run: bool = False,
    allow_partial: bool = False,
    export: Path | None = None,
    slides: bool = True,
    workers: int = 1,
) -> dict[str, Any]:
    """Draw everything and write the page; `data.zarr` comes last, so a report that has it is complete.

    export: a folder for tables, figures, methods and, with `slides`, overlays of slides, written anew each time;
    workers: processes that draw. Raises UsageError where a library that it takes is missing, ParentChanged or
    InputRefused where a store of the lineage is gone or is not the one that was used, Incomplete where patches are
    missing and `allow_partial` is not set.
    """
    provenance.keep_apart(output, scores_path, *[p for p in moved.values() if p is not None])
    lineage = resolve_lineage(scores_path, moved, allow_partial)
    place = ReportOutput(output, export, [Path(row["path"]) for row in lineage.ancestors()])
    parents = {"scores": provenance.parent(scores_path, place.data, lineage.scores.digest())}
    header = provenance.header(SCHEMA, settings, None, parents, partial=lineage.partial)
    summary = {"schema": "histoxai.report/1", "page": str(place.page), "data": str(place.data)}
    there = not force and place.is_written(header)
    if dry_run or (there and export is None):
        return summary
    places = patch_positions(lineage) if export is not None and slides else None
    if places is not None:
        qupath.require_libraries()
    with FigurePool(workers, export is not None, partial_label(lineage.partial)) as gallery:
        made = build_page(lineage, settings, gallery, progress)
    if not there:
        text = render("report.html", made.content, made.data)
        place.write(text, {**header, "axes": made.axes}, made.arrays, progress)
    if export is not None:
        facts = {"": methods_facts(lineage, made.content["statistics"])}
        written = export_files(report_tables(made.content), gallery, facts)
        if places is not None:
            scores, primary = read(scores_path, "corrected", rows=lineage.rows), made.data["primary"]
            tissue = find_slides(lineage, places)
            source = OverlaySource(lineage, scores, primary, settings.colours)
            written = chain(written, overlay_files(tissue, source, progress))
        place.write_export(written, len(gallery), progress)
        summary["export"] = str(export)
    return summary
