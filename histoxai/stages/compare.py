"""report of several stores: two or more scores.zarr and their lineages -> one page that compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histoxai.core import provenance
from histoxai.core.errors import ParentChanged, UsageError
from histoxai.core.progress import Progress
from histoxai.report.comparison.build import build_comparison
from histoxai.report.comparison.runs import names_of
from histoxai.report.export.comparison_tables import comparison_tables
from histoxai.report.export.files import export_files
from histoxai.report.export.qupath import file_stems
from histoxai.report.figures.pool import FigurePool
from histoxai.report.lineage import Lineage, resolve_lineage
from histoxai.report.output import ReportOutput, ReportRequest
from histoxai.report.page.render import render
from histoxai.settings import Comparison

SCHEMA = "comparison/1"


def compare(scores: Sequence[Path], request: ReportRequest, settings: Comparison, progress: Progress) -> dict[str, Any]:
    """Write a page that compares scores stores with the first of them, tested on the patches that both have.

    Raises UsageError if a store is named twice, and what `report` raises.
    """
    if len({p.resolve() for p in scores}) < len(scores):
        raise UsageError("report: a scores store is named twice; there is nothing to compare")
    provenance.keep_apart(request.output, *scores)
    names = names_of(scores)
    lineages = {name: _lineage(path, request.allow_partial) for name, path in zip(names, scores, strict=True)}
    ancestors = [Path(row["path"]) for lineage in lineages.values() for row in lineage.ancestors()]
    output = ReportOutput(request.output, request.export, ancestors)
    header, partial = _header(lineages, output.data, settings)
    summary = {"schema": "histoxai.comparison/1", "page": str(output.page), "data": str(output.data)}
    is_written = not request.force and output.is_written(header)
    if request.dry_run or (is_written and request.export is None):
        return summary
    note = "; ".join(f"{name}: partial" for name in partial)
    with FigurePool(request.workers, request.export is not None, note) as figures:
        content, arrays = build_comparison(lineages, settings, figures, progress)
    if not is_written:
        output.write(render("compare.html", content), header, arrays, progress)
    if request.export is not None:
        runs = dict(zip(file_stems(names), lineages.values(), strict=True))
        exported = export_files(comparison_tables(content), figures, runs, content["statistics"])
        output.write_export(exported, len(figures), progress)
        summary["export"] = str(request.export)
    return summary


def _header(lineages: Mapping[str, Lineage], data: Path, settings: Comparison) -> tuple[dict[str, Any], dict[str, Any]]:
    # the header of data.zarr, and which of the scores stores are partial
    parents = {
        f"scores{k}": provenance.parent(lineage.scores.path, data, lineage.scores.digest())
        for k, lineage in enumerate(lineages.values())
    }
    partial = {name: lineage.partial for name, lineage in lineages.items() if lineage.partial}
    return provenance.header(SCHEMA, settings, None, parents, partial=partial or None), partial


def _lineage(path: Path, allow_partial: bool) -> Lineage:
    try:
        return resolve_lineage(path, {}, allow_partial)
    except ParentChanged as error:
        # options that name a moved store belong to a report of one run
        remedy = f"to compare runs every store has to be where {path} has it"
        raise ParentChanged(error.problem, remedy) from error
