"""report: scores.zarr and its lineage -> report/, one HTML page and data.zarr with its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from histoxai import __version__, provenance
from histoxai.errors import InputRefused
from histoxai.models import pictures
from histoxai.models.lineage import SCORES, Lineage, resolve_lineage
from histoxai.models.scored import summary as summed
from histoxai.places import require_local
from histoxai.plots import evidence, figures, page
from histoxai.plots.answer import answer
from histoxai.plots.content import (
    accuracy_rows,
    case_means,
    class_counts,
    partial_words,
    pick_cases,
    table6,
)
from histoxai.plots.export import files
from histoxai.plots.gallery import Gallery
from histoxai.progress import Progress
from histoxai.settings import Report, Statistics
from histoxai.store.create import create_or_match, match
from histoxai.store.files import read_json, write_atomically, write_json

SCHEMA = "report/2"
_EXPORTED = "export.json"  # in an export's folder: what is of it
_MOST = 20_000  # repetitions


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
) -> dict[str, Any]:
    """Draw everything and write the page; `data.zarr` comes last, so a report that has it is complete.

    export: a folder for tables, figures and methods as files, which are written anew each time. Raises ParentChanged or
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
    parents = {"scores": provenance.parent(scores_path, output / "data.zarr", lineage.scores.digest(SCORES))}
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
    gallery = Gallery(keep=export is not None)
    content, arrays, axes = _content(lineage, settings, gallery, progress)
    if not there:
        write_atomically(output / "index.html", page.render(content).encode())
        header["axes"] = axes
        create_or_match(output / "data.zarr", header, arrays, [], force=True)
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


def _statistics(methods: int, masks: int) -> Statistics:
    # enough repetitions that the least p of the largest family can be significant after Holm
    default = Statistics()
    tests = masks * max(methods, methods * (methods - 1) // 2)
    enough = math.ceil(4 * tests / (1 - default.level))
    return replace(default, repetitions=min(_MOST, max(default.repetitions, enough)))


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


def _content(
    lineage: Lineage, settings: Report, gallery: Gallery, progress: Progress
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, list[str]]]:
    scores, axes = lineage.scores, lineage.scores.header["axes"]
    classes = lineage.patches.classes
    label, case = (lineage.column(k).astype(np.int64) for k in ("label", "case"))
    values, counts = lineage.column("values"), lineage.column("counts")
    present = [c for c in range(len(classes)) if (label == c).any()]
    names = [classes[c] for c in present]
    position = np.full(len(classes), -1)
    position[present] = np.arange(len(present))
    examples = pick_cases(label, lineage.column("prediction"), lineage.column("probability"), case, present)
    table1 = class_counts(
        lineage.patches.label, lineage.patches.split, classes, lineage.patches.store.header.get("table")
    )
    tables, means = table6(values, label, names, present, axes)
    progress.start("statistics", None)
    tested = summed(
        scores.path, "corrected", _statistics(len(axes["method"]), len(axes["mask"])), progress, lineage.rows
    )
    progress.start("figures", len(axes["metric"]) + 2 * len(axes["method"]) + 8)
    with figures.marked(partial_words(lineage.partial)):
        violins = pictures.violins(values, position[label], case, names, axes, gallery, progress)
        maps = pictures.maps(lineage, examples, names, gallery, progress)
        sheets = pictures.cases(lineage, examples, names, gallery, progress)
        proof = evidence.section(tested, gallery)
        progress.advance()
    content: dict[str, Any] = {
        "title": settings.title,
        "version": __version__,
        "patches": len(label),
        "partial": partial_words(lineage.partial),
        "groups": len(set(lineage.column("group").tolist())),
        "split": lineage.maps.header["settings"]["split"],
        "size": lineage.patches.size,
        "target": scores.header["target"],
        "sure": scores.header["settings"]["sure"],
        "methods": axes["method"],
        "profiles": axes["profile"],
        "answer": answer(tested, lineage.patches.size),
        "evidence": proof,
        "statistics": tested["statistics"],
        "split_by": lineage.patches.store.header["settings"].get("split_by"),
        "table1": table1,
        "notes": _notes(lineage),
        "classifier": _classifier(lineage, gallery, progress),
        "segmenter": _segmenter(lineage, counts, axes, gallery, progress),
        "table6": tables,
        "violins": violins,
        "maps": maps,
        "cases": sheets,
        "lineage": lineage.ancestors(),
    }
    progress.stop()
    ids = lineage.column("patch_id")
    arrays = {
        **{f"table1_{k}": np.array(v) for k, v in _columns(table1).items()},
        "table4_accuracy": evidence.numbers(
            [r["accuracy"] for r in accuracy_rows(lineage.classifier.facts["metrics"])]
        ),
        "table4_patches": np.array([r["n"] for r in accuracy_rows(lineage.classifier.facts["metrics"])]),
        "confusion": np.array(lineage.classifier.facts["metrics"]["confusion"]),
        **{f"classifier_{k}": v for k, v in lineage.history("classifier").items()},
        **{f"segmenter_{k}": v for k, v in lineage.history("segmenter").items()},
        "table6_mean": means["mean"],
        "table6_n": means["n"],
        "table6_undefined": means["undefined"],
        **case_means(values, label, case, present),
        **evidence.arrays(tested),
        "patch_values": values,
        "patch_label": label,
        "patch_case": case,
        "patch_id": ids,
        "example_patch_id": np.array([["" if i is None else str(ids[i]) for i in row] for row in examples]),
    }
    table_axes = {
        "class": [*names, "all"],
        "method": axes["method"],
        "mask": axes["mask"],
        "profile": axes["profile"],
        "metric": axes["metric"],
        "case": ["1", "2", "3", "4"],
        "table6": ["profile", "mask", "metric", "method", "class"],
        "case_mean": ["profile", "mask", "metric", "method", "class", "case"],
        "example_patch_id": ["case", "class"],
        "patch_values": ["patch", "method", "mask", "profile", "metric"],
    }
    return content, arrays, table_axes


def _columns(table1: dict[str, Any]) -> dict[str, list[Any]]:
    columns = {"class": [r[0] for r in table1["rows"]]}
    for k, name in enumerate(table1["columns"], start=1):
        columns[name.replace(" ", "_")] = [r[k] for r in table1["rows"]]
    return columns


def _notes(lineage: Lineage) -> list[str]:
    notes = []
    if lineage.patches.store.header["settings"].get("split_by") == "patch":
        notes.append(
            "This store was split by patch, the study's rule: rotated copies of one patch can be in training and in "
            "test at once, so the accuracy below is too good."
        )
    if leaks := lineage.classifier.facts.get("leaks"):
        notes.append(f"The classifier was trained although its splits leak (--allow-leakage): {'; '.join(leaks)}.")
    return notes


def _classifier(lineage: Lineage, gallery: Gallery, progress: Progress) -> dict[str, Any]:
    facts = lineage.classifier.facts
    metrics = facts["metrics"]
    made = {
        **{k: facts[k] for k in ("arch", "epochs", "best_epoch", "split")},
        "patches": metrics["patches"],
        "mean": metrics["mean_class_accuracy"],
        "accuracy": metrics["accuracy"],
        "table": accuracy_rows(metrics),
        "curves": gallery.add(
            "curves-classifier",
            figures.curves(lineage.history("classifier"), facts["best_epoch"], "accuracy", "accuracy"),
        ),
        "confusion": gallery.add("confusion", figures.confusion(np.array(metrics["confusion"]), facts["classes"])),
        # runs made before they were measured have none
        "scores": metrics.get("scores"),
        "reliability": None,
    }
    if made["scores"] and made["scores"]["patches"]:
        made["reliability"] = gallery.add("reliability", evidence.reliability(made["scores"]["reliability"]))
        for row in made["table"]:
            row.update({k: made["scores"]["per_class"][row["name"]][k] for k in ("low", "high")})
    progress.advance(2)
    return made


def _segmenter(
    lineage: Lineage, counts: np.ndarray, axes: dict[str, list[str]], gallery: Gallery, progress: Progress
) -> dict[str, Any]:
    facts = lineage.segmenter.facts
    positives = counts[:, 0, :, 0] + counts[:, 0, :, 2]  # tp + fn: the mask's pixels, the same for all methods
    pixels = counts[:, 0].sum(axis=-1)
    table = [
        {
            "name": name.replace("_", "-"),
            **facts["metrics"]["masks"][name],
            "share": float(positives[:, k].sum() / pixels[:, k].sum()),
            "empty": f"{int((positives[:, k] == 0).sum())} of {len(positives)}",
        }
        for k, name in enumerate(axes["mask"])
    ]
    made = {
        **{k: facts[k] for k in ("epochs", "best_epoch")},
        "split": facts.get("split", "validation"),  # all that segmenters were once measured on
        "curves": gallery.add(
            "curves-segmenter",
            figures.curves(lineage.history("segmenter"), facts["best_epoch"], "soft_iou", "soft IoU"),
        ),
        "table": table,
        "warning": _scale_warning(lineage),
    }
    progress.advance()
    return made


def _scale_warning(lineage: Lineage) -> str:
    theirs, ours = lineage.segmenter.mpp, lineage.patches.mpp
    scale = lineage.masks.header["settings"]["scale"]
    if theirs is None or ours is None:
        return (
            "Micrometres per pixel of segmenter or patches are unknown: nuclei may not have the size that it learned."
        )
    if abs(ours / theirs / scale - 1) > 0.05:
        return (
            f"It learned at {theirs:g} micrometres per pixel and saw patches of {ours:g}: "
            "nuclei did not have the size that it learned (histoxai masks --rescale mends that)."
        )
    return ""
