"""report: scores.zarr and its lineage -> report/, one HTML page and data.zarr with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from histoxai import __version__, provenance
from histoxai.errors import InputRefused
from histoxai.models.lineage import SCORES, Lineage, resolve_lineage
from histoxai.plots import figures, page
from histoxai.plots.content import (
    METRIC_WORDS,
    accuracy_rows,
    case_means,
    class_counts,
    partial_words,
    pick_cases,
    summary_lines,
    table6,
)
from histoxai.progress import Progress
from histoxai.settings import Report
from histoxai.store.create import create_or_match, match
from histoxai.store.files import write_atomically

SCHEMA = "report/1"


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
) -> dict[str, Any]:
    """Draw everything and write the page; `data.zarr` comes last, so a report that has it is complete.

    Raises ParentChanged or InputRefused where a store of the lineage is gone or is not the one that was used,
    Incomplete where patches are missing and `allow_partial` is not set.
    """
    provenance.keep_apart(output, scores_path, *[p for p in moved.values() if p is not None])
    lineage = resolve_lineage(scores_path, moved, allow_partial)
    parents = {"scores": provenance.parent(scores_path, output / "data.zarr", lineage.scores.digest(SCORES))}
    header = provenance.header(SCHEMA, settings, None, parents, partial=lineage.partial)
    summary = {
        "schema": "histoxai.report/1",
        "page": str(output / "index.html"),
        "data": str(output / "data.zarr"),
    }
    _check_output(output)
    if (output / "data.zarr").exists() and (output / "index.html").exists() and not force:
        match(output / "data.zarr", header, [])
        return summary
    if dry_run:
        return summary
    content, arrays, axes = _content(lineage, settings, progress)
    write_atomically(output / "index.html", page.render(content).encode())
    header["axes"] = axes
    create_or_match(output / "data.zarr", header, arrays, [], force=True)
    progress.say(f"{output / 'index.html'} and {output / 'data.zarr'} written")
    return summary


def _check_output(output: Path) -> None:
    # whatever --force may replace must be a report, nothing else
    known = {"index.html", "data.zarr"}
    strange = [p.name for p in output.iterdir() if p.name not in known] if output.is_dir() else []
    if strange := [n for n in strange if not n.startswith(".")]:
        raise InputRefused(f"{output}: holds {strange[0]}, which no report makes; choose another output")


def _content(
    lineage: Lineage, settings: Report, progress: Progress
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
    progress.start("figures", len(axes["metric"]) + 2 * len(axes["method"]) + 7)
    with figures.marked(partial_words(lineage.partial)):
        violins = _violins(values, position[label], case, names, axes, progress)
        maps = _maps(lineage, examples, names, progress)
        sheets = _cases(lineage, examples, names, progress)
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
        "summary": summary_lines(values, counts, label, classes, axes, lineage.classifier.facts["metrics"]),
        "split_by": lineage.patches.store.header["settings"].get("split_by"),
        "table1": table1,
        "notes": _notes(lineage),
        "classifier": _classifier(lineage, progress),
        "segmenter": _segmenter(lineage, counts, axes, progress),
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
        "table4_accuracy": _floats([r["accuracy"] for r in accuracy_rows(lineage.classifier.facts["metrics"])]),
        "table4_patches": np.array([r["n"] for r in accuracy_rows(lineage.classifier.facts["metrics"])]),
        "confusion": np.array(lineage.classifier.facts["metrics"]["confusion"]),
        **{f"classifier_{k}": v for k, v in lineage.history("classifier").items()},
        **{f"segmenter_{k}": v for k, v in lineage.history("segmenter").items()},
        "table6_mean": means["mean"],
        "table6_n": means["n"],
        "table6_undefined": means["undefined"],
        **case_means(values, label, case, present),
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


def _floats(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], np.float64)


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


def _classifier(lineage: Lineage, progress: Progress) -> dict[str, Any]:
    facts = lineage.classifier.facts
    metrics = facts["metrics"]
    made = {
        **{k: facts[k] for k in ("arch", "epochs", "best_epoch", "split")},
        "patches": metrics["patches"],
        "mean": metrics["mean_class_accuracy"],
        "accuracy": metrics["accuracy"],
        "table": accuracy_rows(metrics),
        "curves": figures.curves(lineage.history("classifier"), facts["best_epoch"], "accuracy", "accuracy"),
        "confusion": figures.confusion(np.array(metrics["confusion"]), facts["classes"]),
    }
    progress.advance(2)
    return made


def _segmenter(lineage: Lineage, counts: np.ndarray, axes: dict[str, list[str]], progress: Progress) -> dict[str, Any]:
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
        "curves": figures.curves(lineage.history("segmenter"), facts["best_epoch"], "soft_iou", "soft IoU"),
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


def _violins(
    values: np.ndarray,
    label: np.ndarray,
    case: np.ndarray,
    names: list[str],
    axes: dict[str, list[str]],
    progress: Progress,
) -> list[dict[str, Any]]:
    made = []
    first = axes["profile"].index("corrected")
    for k, metric in enumerate(axes["metric"]):
        data = values[:, :, :, first, k]
        picture = figures.violins(
            data, label, case, names, axes["method"], axes["mask"], METRIC_WORDS.get(metric, metric)
        )
        made.append({"name": METRIC_WORDS.get(metric, metric), "png": picture})
        progress.advance()
    return made


def _maps(
    lineage: Lineage, examples: list[list[int | None]], names: list[str], progress: Progress
) -> list[dict[str, Any]]:
    # per class the right patch of highest probability, else the wrong one
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
        planes = lineage.planes(method, chosen)
        picture = figures.maps_of_method(images, planes, tumor, other, titles, threshold)
        made.append({"name": method, "png": picture})
        progress.advance()
    return made


def _cases(
    lineage: Lineage, examples: list[list[int | None]], names: list[str], progress: Progress
) -> list[dict[str, Any]]:
    words = (
        "Case 1: right, highest probability",
        "Case 2: right, lowest probability",
        "Case 3: wrong, highest probability",
        "Case 4: wrong, lowest probability",
    )
    methods = lineage.scores.header["axes"]["method"]
    threshold = lineage.scores.header["settings"]["map_threshold"]
    made = []
    for row, name in zip(examples, words, strict=True):
        found = [i for i in row if i is not None]
        for first in range(0, len(methods), figures.ACROSS):
            some = methods[first : first + figures.ACROSS]
            picture = None
            if found:
                planes = {m: dict(zip(found, lineage.planes(m, found), strict=True)) for m in some}
                pictures = dict(zip(found, zip(*lineage.pictures(found), strict=True), strict=True))
                rows = [
                    (lineage.title(i, label), *pictures[i], [planes[m][i] for m in some]) if i is not None else (label,)
                    for i, label in zip(row, names, strict=True)
                ]
                picture = figures.case_sheet(rows, some, threshold)
            elif first:
                continue
            several = found and len(methods) > len(some)
            made.append({"name": f"{name}: {', '.join(some)}" if several else name, "png": picture})
        progress.advance()
    return made
