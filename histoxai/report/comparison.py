"""Several scores stores side by side: what they share, how they differ, and what of that is more than luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from histoxai import __version__
from histoxai.core import provenance
from histoxai.core.progress import Progress
from histoxai.report import comparison_text
from histoxai.report.answer import words_of
from histoxai.report.content import partial_words
from histoxai.report.figures.evidence import numbers
from histoxai.report.figures.pool import Gallery
from histoxai.report.lineage import Lineage
from histoxai.score import scores_store
from histoxai.score.summary.means import means_of
from histoxai.score.summary.scores import Scores, enough_repetitions, primary_of
from histoxai.settings import Comparison, Statistics
from histoxai.statistics.bootstrap import FEWEST, counted
from histoxai.statistics.numbers import or_none
from histoxai.statistics.tests import holm, paired
from histoxai.store.parents import join_rows

_PARTS = ("patches", "classifier", "segmenter", "masks", "maps", "scores")


def names_of(paths: Sequence[Path]) -> list[str]:
    """What runs are called: as much of the end of their paths as tells them apart, without endings."""
    parts = [[*p.resolve().parts[1:-1], p.resolve().name.removesuffix(".zarr")] for p in paths]
    for depth in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({k + 1})" for k, name in enumerate(names)]


def compare(
    lineages: Mapping[str, Lineage], settings: Comparison, gallery: Gallery, progress: Progress
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the page shows, and the numbers of it; lineages by the names of their runs, the first to be compared with.

    Raises UsageError for a measure or class that some run does not have.
    """
    progress.start("statistics", None)
    statistics = Statistics(primary=settings.primary)
    read = {
        name: scores_store.read(line.scores.path, "corrected", statistics.empty, line.rows)
        for name, line in lineages.items()
    }
    common = [m for m in next(iter(read.values())).metrics if all(m in s.metrics for s in read.values())]
    statistics = replace(statistics, primary=primary_of(settings.primary, common, "corrected"))
    statistics = enough_repetitions(statistics, sum(len(s.methods) * len(s.masks) for s in list(read.values())[1:]))
    first, *others = read
    rows = {name: _means(s, statistics, progress) for name, s in read.items()}
    pairs = [_pair(read[first], read[other], other, statistics) for other in others]
    # null models cannot differ but by what they are measured against: they are shown, and not tested
    _correct([row for pair in pairs for row in pair["rows"] if not row["null"]])
    for row in (r for pair in pairs for r in pair["rows"] if r["null"]):
        row.update(p_holm=None, wilcoxon_holm=None)
    _correct([pair["accuracy"] for pair in pairs if pair["accuracy"] is not None])
    masks = list(dict.fromkeys(m for s in read.values() for m in s.masks))
    methods = list(dict.fromkeys(m for s in read.values() for m in s.methods))
    content: dict[str, Any] = {
        "title": settings.title,
        "version": __version__,
        "primary": statistics.primary,
        "level": statistics.level,
        "mask": "tumor" if "tumor" in masks else masks[0],
        "runs": [_run(name, line) for name, line in lineages.items()],
        "settings": _settings(lineages),
        "notes": _notes(lineages, pairs, first),
        "means": {
            mask: [{"method": m, "of": [r.get((mask, m, "all")) for r in rows.values()]} for m in methods]
            for mask in masks
        },
        "pairs": pairs,
        "lineage": [{"run": name, **row} for name, line in lineages.items() for row in line.ancestors()],
        "partial": [f"{n}: {partial_words(line.partial)}" for n, line in lineages.items() if line.partial],
        "statistics": asdict(statistics),
    }
    content["classes"] = _classes(rows, content["mask"], methods)
    content["answer"] = comparison_text.answer(content)
    content["primary_words"] = words_of(content["primary"])
    content["level_words"] = f"{100 * statistics.level:g} %"
    content["figures"] = comparison_text.pictures(content, gallery)
    gallery.finish(progress)
    return content, _arrays(content)


def _means(s: Scores, statistics: Statistics, progress: Progress) -> dict[tuple[str, str, str], dict[str, Any]]:
    # by mask, method and class
    return {
        (r["mask"], r["method"], r["class"]): {k: r[k] for k in ("mean", "low", "high", "chance", "n")}
        for r in means_of(s, statistics, progress.advance)
        if r["metric"] == statistics.primary and r["case"] == "all"
    }


def _pair(a: Scores, b: Scores, run: str, statistics: Statistics) -> dict[str, Any]:
    at = join_rows(b.patch_id, a.patch_id)
    theirs, ours = np.flatnonzero(at >= 0), at[at >= 0]
    group = _joined(a.group[ours], b.group[theirs])
    assert statistics.primary is not None
    first, second = a.of(statistics.primary)[ours], b.of(statistics.primary)[theirs]
    how = (statistics.repetitions, statistics.seed, statistics.level)
    rows = []
    for mask in (m for m in a.masks if m in b.masks):
        for method in (m for m in a.methods if m in b.methods):
            x = second[:, list(b.methods).index(method), b.masks.index(mask)]
            y = first[:, list(a.methods).index(method), a.masks.index(mask)]
            if len(ours):
                null = a.methods[method].null and b.methods[method].null
                about = {"run": run, "mask": mask, "method": method, "null": null}
                rows.append({**about, **_difference(x, y, group, *how)})
    labelled = (a.label[ours] >= 0) & (b.label[theirs] >= 0)
    same = labelled & (np.array(a.classes)[a.label[ours]] == np.array(b.classes)[b.label[theirs]])
    accuracy = None
    if same.any():
        right = [(s.prediction == s.label)[at].astype(np.float64)[same] for s, at in ((b, theirs), (a, ours))]
        shares = {"theirs": float(right[0].mean()), "first": float(right[1].mean())}
        accuracy = {**shares, **_difference(right[0], right[1], group[same], *how)}
    return {
        "run": run,
        "patches": len(ours),
        "groups": len(set(group.tolist())),
        "only_first": len(a.label) - len(ours),
        "only_theirs": len(b.label) - len(ours),
        "other_class": int((labelled & ~same).sum()),
        "other_group": int((a.group[ours] != b.group[theirs]).sum()),
        "rows": rows,
        "accuracy": accuracy,
    }


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    # groups that keep together what either run keeps together
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(first) or (first == second).all():
        return first
    a, b = (np.unique(g, return_inverse=True)[1] for g in (first, second))
    n = int(a.max()) + 1
    total = n + int(b.max()) + 1
    edges = coo_array((np.ones(len(a)), (a, n + b)), shape=(total, total))
    return np.asarray(connected_components(edges, directed=False)[1][a])


def _difference(x: np.ndarray, y: np.ndarray, group: np.ndarray, *how: Any) -> dict[str, Any]:
    found = asdict(paired(x, y, group, *how))
    row = {k: v if isinstance(v, int) else or_none(v) for k, v in found.items()}
    why = f"{counted(found['groups'])}; a test needs {FEWEST}" if found["groups"] < FEWEST else None
    return {"difference": row.pop("mean"), **row, "withheld": why}


def _correct(rows: list[dict[str, Any]]) -> None:
    for key in ("p", "wilcoxon"):
        adjusted = holm(np.array([np.nan if r[key] is None else r[key] for r in rows]))
        for row, value in zip(rows, adjusted, strict=True):
            row[f"{key}_holm"] = or_none(value)


def _run(name: str, line: Lineage) -> dict[str, Any]:
    return {
        "name": name,
        "arch": line.classifier.facts["arch"],
        "patches": len(line.rows),
        "groups": len(set(line.column("group").tolist())),
        "split": line.maps.header["settings"]["split"],
        "methods": ", ".join(line.scores.header["axes"]["method"]),
        "path": str(line.scores.path),
    }


def _settings(lineages: Mapping[str, Lineage]) -> list[dict[str, Any]]:
    # every setting of the whole lineage that is not the same in all runs, and which stores are others
    common = set.intersection(*(set(line.methods) for line in lineages.values()))
    found = [_described(line, common) for line in lineages.values()]
    keys = sorted(dict.fromkeys(key for about in found for key in about), key=lambda key: _PARTS.index(key[0]))
    rows = []
    for part, setting in keys:
        values = ["–" if (v := about.get((part, setting))) is None else str(v) for about in found]
        if len(set(values)) > 1:
            rows.append({"of": part, "setting": setting, "values": values})
    return rows


def _described(line: Lineage, methods: set[str]) -> dict[tuple[str, str], Any]:
    digests = {row["name"]: row["digest"] for row in line.ancestors()}
    settings: dict[str, Mapping[str, Any]] = {
        "patches": line.patches.store.header["settings"],
        "classifier": {"arch": line.classifier.facts["arch"], **line.classifier.facts["settings"]},
        "segmenter": {"arch": line.segmenter.facts["arch"], **line.segmenter.facts["settings"]},
        "masks": line.masks.header["settings"],
        "maps": {
            **line.maps.header["settings"],
            **{m: provenance.plain(found.explainer.options) for m, found in line.methods.items() if m in methods},
        },
        "scores": line.scores.header["settings"],
    }
    made: dict[tuple[str, str], Any] = {}
    for part in _PARTS:
        made[part, "digest"] = digests[part][:12]
        flat = provenance.flatten(settings[part])
        made |= {(part, key): v for key, v in flat.items() if not key.startswith("slides.")}  # facts of each slide
    return made


def _notes(lineages: Mapping[str, Lineage], pairs: Sequence[Mapping[str, Any]], first: str) -> list[str]:
    notes = []
    digests = {name: {r["name"]: r["digest"] for r in line.ancestors()} for name, line in lineages.items()}
    for pair in pairs:
        run = pair["run"]
        if pair["patches"] and digests[run]["masks"] != digests[first]["masks"]:
            notes.append(
                f"{run} was scored against other masks than {first}: a difference can be the masks', not the maps'."
            )
        if pair["only_first"] or pair["only_theirs"]:
            notes.append(
                f"{pair['only_theirs']:,} patches of {run} are not in {first}, and {pair['only_first']:,} of {first} "
                f"not in {run}: tests leave them out, means do not."
            )
        if pair["other_class"]:
            notes.append(
                f"{pair['other_class']:,} patches have another class in {run} than in {first}; the classifiers' test "
                "leaves them out."
            )
        if others := _other_pixels(lineages[first], lineages[run]):
            notes.append(
                f"{others:,} patches of one id have other pixels in {run} than in {first} (another source, stain or "
                "scale): a difference can be the pictures'."
            )
        if changed := _other_measure(lineages[first], lineages[run]):
            notes.append(f"{run} was measured in another way than {first} ({changed}): a difference can be that.")
        if pair["other_group"]:
            notes.append(
                f"{pair['other_group']:,} patches are of another group in {run} than in {first}; tests keep together "
                "what either keeps together."
            )
    return notes


def _other_pixels(first: Lineage, other: Lineage) -> int:
    # how many patches that both have are not the same picture
    if first.patches.digest == other.patches.digest:
        return 0
    found = []
    for line in (first, other):
        pixels = line.patches.store.take("identity", line.column("row").astype(np.int64))[:, :2]
        found.append(dict(zip(line.column("patch_id").tolist(), map(tuple, pixels.tolist()), strict=True)))
    return sum(found[0][i] != pixels for i, pixels in found[1].items() if i in found[0])


def _other_measure(first: Lineage, other: Lineage) -> str:
    # settings that change what a score means, where they are not the same
    ours, theirs = (
        {**line.scores.header["settings"], "target": line.scores.header["target"]} for line in (first, other)
    )
    changed = [k for k in ours if k != "shard_size" and ours[k] != theirs.get(k)]
    return ", ".join(f"{k} {theirs.get(k)} instead of {ours[k]}" for k in changed)


def _classes(
    rows: Mapping[str, Mapping[tuple[str, str, str], dict[str, Any]]], mask: str, methods: Sequence[str]
) -> list[dict[str, Any]]:
    classes = dict.fromkeys(c for found in rows.values() for _, _, c in found if c != "all")
    made = []
    for name in classes:
        for k, method in enumerate(methods):
            cells = [found.get((mask, method, name)) for found in rows.values()]
            means = [None if cell is None else cell["mean"] for cell in cells]
            made.append({"class": name, "method": method, "means": means, "first": k == 0})
    return made


def _arrays(content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    rows = [row for pair in content["pairs"] for row in pair["rows"]]
    made = {f"difference_{k}": np.array([r[k] for r in rows], str) for k in ("run", "mask", "method")}
    made |= {f"difference_{k}": np.array([r[k] for r in rows], np.int64) for k in ("n", "groups")}
    made |= {
        f"difference_{k}": numbers([r[k] for r in rows])
        for k in ("difference", "low", "high", "p_holm", "wilcoxon_holm", "effect")
    }
    cells = [
        (run["name"], mask, row["method"], found)
        for mask, found_rows in content["means"].items()
        for row in found_rows
        for run, found in zip(content["runs"], row["of"], strict=True)
        if found is not None
    ]
    made |= {f"mean_{k}": np.array([c[i] for c in cells]) for i, k in enumerate(("run", "mask", "method"))}
    made |= {f"mean_{k}": numbers([c[3][k] for c in cells]) for k in ("mean", "low", "high", "chance")}
    return made
