"""report: scores.zarr and its lineage -> report/, an HTML page and data.zarr with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from histoxai.core import provenance
from histoxai.core.progress import Progress
from histoxai.report import build
from histoxai.report.content import partial_words
from histoxai.report.export import qupath
from histoxai.report.export.files import files, tables
from histoxai.report.export.slides import overlay_files
from histoxai.report.figures.pool import Gallery
from histoxai.report.lineage import Lineage, resolve_lineage
from histoxai.report.output import Publication
from histoxai.report.page import render
from histoxai.report.request import ReportRequest
from histoxai.report.slides import places_of, slides_of
from histoxai.score.scores_store import read
from histoxai.settings import Report

SCHEMA = "report/2"


def report(
    scores: Path,
    request: ReportRequest,
    settings: Report,
    progress: Progress,
    moved: Mapping[str, Path | None],
) -> dict[str, Any]:
    """Write the page and its numbers; `data.zarr` comes last, so a report that has it is complete.

    moved: new path of each parent that is no longer where it was, by name. Raises UsageError if a library that the
    export needs is missing, ParentChanged if a store of the lineage is missing or differs from the one that was used,
    and Incomplete if patches are missing and `request.allow_partial` is not set.
    """
    provenance.keep_apart(request.output, scores, *[p for p in moved.values() if p is not None])
    lineage = resolve_lineage(scores, moved, request.allow_partial)
    files_out = Publication(request.output, request.export, [Path(row["path"]) for row in lineage.ancestors()])
    header = _header(lineage, files_out.data, settings)
    summary = {"schema": "histoxai.report/1", "page": str(files_out.page), "data": str(files_out.data)}
    is_written = not request.force and files_out.there(header)
    if request.dry_run or (is_written and request.export is None):
        return summary
    places = places_of(lineage) if request.export is not None and request.slides else None
    if places is not None:
        qupath.require()
    with Gallery(request.workers, request.export is not None, partial_words(lineage.partial)) as gallery:
        report = build.report(lineage, settings, gallery, progress)
    if not is_written:
        text = render.render("report.html", report.content, report.data)
        files_out.write(text, {**header, "axes": report.axes}, report.arrays, progress)
    if request.export is not None:
        facts = {"": build.methods_facts(lineage, report.content["statistics"])}
        exported = files(tables(report.content), gallery, facts)
        if places is not None:
            values, primary = read(scores, "corrected", rows=lineage.rows), report.data["primary"]
            slides = slides_of(lineage, places)
            exported = chain(exported, overlay_files(slides, lineage, values, primary, settings.colours, progress))
        files_out.write_export(exported, len(gallery), progress)
        summary["export"] = str(request.export)
    return summary


def _header(lineage: Lineage, data: Path, settings: Report) -> dict[str, Any]:
    parents = {"scores": provenance.parent(lineage.scores.path, data, lineage.scores.digest())}
    return provenance.header(SCHEMA, settings, None, parents, partial=lineage.partial)
