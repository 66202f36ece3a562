"""report: scores.zarr and its lineage -> report/, an HTML page and data.zarr with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from histoxai.core import provenance
from histoxai.core.progress import Progress
from histoxai.report.build import build_page
from histoxai.report.export import qupath
from histoxai.report.export.files import export_files
from histoxai.report.export.report_tables import report_tables
from histoxai.report.export.slides import OverlaySource, overlay_files
from histoxai.report.figures.pool import FigurePool
from histoxai.report.lineage import resolve_lineage
from histoxai.report.output import ReportOutput, ReportRequest
from histoxai.report.page.render import render
from histoxai.report.slides import find_slides, patch_positions
from histoxai.settings import Report

SCHEMA = "report/2"


def report(
    scores: Path, request: ReportRequest, settings: Report, progress: Progress, moved: Mapping[str, Path | None]
) -> dict[str, Any]:
    """Write the page and its numbers; `data.zarr` comes last, so a report that has it is complete.

    moved: new path of each parent that is no longer where it was, by name. Raises UsageError if a library that the
    export needs is missing, ParentChanged if a store of the lineage is missing or differs from the one that was used,
    and Incomplete if patches are missing and `request.allow_partial` is not set.
    """
    provenance.keep_apart(request.output, scores, *[p for p in moved.values() if p is not None])
    lineage = resolve_lineage(scores, moved, request.allow_partial)
    output = ReportOutput(request.output, request.export, [Path(row["path"]) for row in lineage.ancestors()])
    parents = {"scores": provenance.parent(lineage.scores.path, output.data, lineage.scores.digest())}
    header = provenance.header(SCHEMA, settings, None, parents, partial=lineage.partial)
    summary = {"schema": "histoxai.report/1", "page": str(output.page), "data": str(output.data)}
    is_written = not request.force and output.is_written(header)
    if request.dry_run or (is_written and request.export is None):
        return summary
    positions = patch_positions(lineage) if request.export is not None and request.slides else None
    if positions is not None:
        qupath.require_libraries()
    with FigurePool(request.workers, request.export is not None, lineage.partial_note) as figures:
        page = build_page(lineage, settings, figures, progress)
    if not is_written:
        html = render("report.html", page.content, page.data)
        output.write(html, {**header, "axes": page.axes}, page.arrays, progress)
    if request.export is not None:
        exported = export_files(report_tables(page.content), figures, {"": lineage}, page.content["statistics"])
        if positions is not None:
            source = OverlaySource(lineage, page.scores, page.data["primary"], settings.colours)
            exported = chain(exported, overlay_files(find_slides(lineage, positions), source, progress))
        output.write_export(exported, len(figures), progress)
        summary["export"] = str(request.export)
    return summary
