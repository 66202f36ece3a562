"""report: scores.zarr and its lineage -> report/, one HTML page and data.zarr with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoxai import provenance
from histoxai.errors import InputRefused
from histoxai.models import reporting
from histoxai.models.lineage import Lineage, resolve_lineage
from histoxai.places import require_local
from histoxai.plots import page
from histoxai.plots.content import partial_words
from histoxai.plots.export import files
from histoxai.plots.gallery import Gallery
from histoxai.progress import Progress
from histoxai.settings import Report
from histoxai.store.create import create_or_match, match
from histoxai.store.files import read_json, write_atomically, write_json

SCHEMA = "report/2"
_EXPORTED = "export.json"  # in an export's folder: what is of it


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
    workers: int = 1,
) -> dict[str, Any]:
    """Draw everything and write the page; `data.zarr` comes last, so a report that has it is complete.

    export: a folder for tables, figures and methods as files, which are written anew each time; workers: processes that
    draw. Raises ParentChanged or
    InputRefused where a store of the lineage is gone or is not the one that was used, Incomplete where patches are
    missing and `allow_partial` is not set.
    """
    provenance.keep_apart(output, scores_path, *[p for p in moved.values() if p is not None])
    lineage = resolve_lineage(scores_path, moved, allow_partial)
    ancestors = [Path(row["path"]) for row in lineage.ancestors()]
    provenance.keep_apart(output, *ancestors)
    if export is not None:
        require_local(export, "exports")
        provenance.keep_apart(export, output, *ancestors)
        exported = _exported(export)
    parents = {"scores": provenance.parent(scores_path, output / "data.zarr", lineage.scores.digest())}
    header = provenance.header(SCHEMA, settings, None, parents, partial=lineage.partial)
    summary = {
        "schema": "histoxai.report/1",
        "page": str(output / "index.html"),
        "data": str(output / "data.zarr"),
    }
    _check_output(output)
    there = (output / "data.zarr").exists() and (output / "index.html").exists() and not force
    if there:
        match(output / "data.zarr", header, [])
    if dry_run or (there and export is None):
        return summary
    with Gallery(workers, export is not None, partial_words(lineage.partial)) as gallery:
        made = reporting.report(lineage, settings, gallery, progress)
    content = made.content
    if not there:
        write_atomically(output / "index.html", page.render("report.html", content, made.data).encode())
        header["axes"] = made.axes
        create_or_match(output / "data.zarr", header, made.arrays, [], force=True)
        progress.say(f"{output / 'index.html'} and {output / 'data.zarr'} written")
    if export is not None:
        progress.start("export", len(gallery))
        written = []
        for name, data in files(content, gallery, _methods_facts(lineage, content)):
            written.append(name)
            write_json(export / _EXPORTED, {"schema": "export/1", "files": sorted({*exported, *written})})
            write_atomically(export / name, data)
            progress.advance(name.endswith(".svg"))
        for stale in set(exported) - set(written):
            (export / stale).unlink(missing_ok=True)
        write_json(export / _EXPORTED, {"schema": "export/1", "files": sorted(written)})
        progress.stop()
        summary["export"] = str(export)
    return summary


def _exported(folder: Path) -> list[str]:
    """What an export has written there before; raises InputRefused for a folder with anything else in it."""
    facts = read_json(folder / _EXPORTED)
    known = facts["files"] if isinstance(facts, dict) and isinstance(facts.get("files"), list) else []
    there = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
    strange = [n for n in there if n not in known and n != _EXPORTED and not Path(n).name.startswith(".")]
    if strange:
        raise InputRefused(f"{folder}: holds {strange[0]}, which no export wrote; choose another folder for --export")
    return [n for n in known if n in there]


def _methods_facts(lineage: Lineage, content: dict[str, Any]) -> dict[str, Any]:
    kept = ("size", "patches", "groups", "split", "split_by", "target", "version", "partial")
    return {
        **{k: content[k] for k in kept},
        "classifier": lineage.classifier.facts,
        "segmenter": lineage.segmenter.facts,
        "methods": [
            {"name": m.name, "method": m.method, "null": m.null, "options": provenance.plain(m.explainer.options)}
            for m in (lineage.methods[name] for name in content["methods"])
        ],
        "score": lineage.scores.header["settings"],
        "statistics": content["statistics"],
    }


def _check_output(output: Path) -> None:
    # whatever --force may replace must be a report, nothing else
    known = {"index.html", "data.zarr"}
    strange = [p.name for p in output.iterdir() if p.name not in known] if output.is_dir() else []
    if strange := [n for n in strange if not n.startswith(".")]:
        raise InputRefused(f"{output}: holds {strange[0]}, which no report makes; choose another output")
