"""report of several stores: two or more scores.zarr and their lineages -> one page that sets them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histoxai.core import provenance
from histoxai.core.errors import ParentChanged, UsageError
from histoxai.core.progress import Progress
from histoxai.report.comparison.build import build_comparison
from histoxai.report.comparison.runs import names_of
from histoxai.report.content import methods_facts
from histoxai.report.export.comparison_tables import comparison_tables
from histoxai.report.export.files import export_files
from histoxai.report.export.qupath import file_stems
from histoxai.report.figures.pool import FigurePool
from histoxai.report.lineage import Lineage, resolve_lineage
from histoxai.report.output import ReportOutput
from histoxai.report.page.render import render
from histoxai.settings import Comparison

SCHEMA = "comparison/1"


def compare(
    paths: Sequence[Path],
    output: Path,
    settings: Comparison,
    progress: Progress,
    *,
    force: bool = False,
    dry_run: bool = False,
    allow_partial: bool = False,
    export: Path | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Write a page that compares scores stores with the first of them, tested on the patches that both have.

    export, workers: as for `report`. Raises UsageError where a store is named twice, and what `report` raises.
    """
    if len({p.resolve() for p in paths}) < len(paths):
        raise UsageError("report: a scores store is named twice; there is nothing to compare")
    provenance.keep_apart(output, *paths)
    names = names_of(paths)
    lineages = {name: _lineage(path, allow_partial) for name, path in zip(names, paths, strict=True)}
    place = ReportOutput(output, export, [Path(r["path"]) for line in lineages.values() for r in line.ancestors()])
    parents = {
        f"scores{k}": provenance.parent(line.scores.path, place.data, line.scores.digest())
        for k, line in enumerate(lineages.values())
    }
    partial = {name: line.partial for name, line in lineages.items() if line.partial}
    header = provenance.header(SCHEMA, settings, None, parents, partial=partial or None)
    summary = {"schema": "histoxai.comparison/1", "page": str(place.page), "data": str(place.data)}
    there = not force and place.is_written(header)
    if dry_run or (there and export is None):
        return summary
    with FigurePool(workers, export is not None, "; ".join(f"{n}: partial" for n in partial)) as gallery:
        content, arrays = build_comparison(lineages, settings, gallery, progress)
    if not there:
        place.write(render("compare.html", content), header, arrays, progress)
    if export is not None:
        facts = {
            stem: methods_facts(line, content["statistics"])
            for stem, line in zip(file_stems(names), lineages.values(), strict=True)
        }
        place.write_export(export_files(comparison_tables(content), gallery, facts), len(gallery), progress)
        summary["export"] = str(export)
    return summary


def _lineage(path: Path, allow_partial: bool) -> Lineage:
    try:
        return resolve_lineage(path, {}, allow_partial)
    except ParentChanged as error:
        why = str(error).split("; name ")[0]  # the flags that name a moved store are of a report of one run
        raise ParentChanged(f"{why}; to compare runs every store has to be where {path} has it") from error
