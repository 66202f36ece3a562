"""A report's page from a scores store and its lineage: its sections, what its scripts read, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from histoxai import __version__
from histoxai.core import provenance
from histoxai.core.progress import Progress
from histoxai.report import explorer, panels, sections, slides
from histoxai.report.answer import answer
from histoxai.report.content import WHY, accuracy_rows, case_means, class_counts, partial_words, pick_cases, table6
from histoxai.report.figures import evidence, faithfulness, robustness
from histoxai.report.figures.figures import LINES
from histoxai.report.figures.pool import Gallery
from histoxai.report.lineage import Lineage
from histoxai.report.page import payload
from histoxai.score import scores_store
from histoxai.score.summary.means import means_of
from histoxai.score.summary.scores import Scores
from histoxai.settings import Report, Statistics

_MARKS = 2_000_000  # bytes of values that the page's marks may take
_ROOM = 200_000  # bytes of the page that are neither pictures nor numbers
_COLOURS = {
    "safe": "Map green, tumor mask orange-red, non-tumor mask blue, map and tumor together yellow: colours that "
    "colour-blind readers can tell apart.",
    "study": "Map green, tumor mask red, non-tumor mask blue, map and tumor together yellow, as the study has them.",
}


@dataclass(frozen=True)
class Made:
    """content: of the template. data: what its scripts read. arrays, and the names of their axes: data.zarr."""

    content: dict[str, Any]
    data: dict[str, Any]
    arrays: dict[str, np.ndarray]
    axes: dict[str, list[str]]


def report(lineage: Lineage, settings: Report, gallery: Gallery, progress: Progress) -> Made:
    """Everything of the page; its figures are drawn when this returns.

    Raises UsageError for a measure, class or patch that is not there.
    """
    path, axes = lineage.scores.path, lineage.scores.header["axes"]
    classes, patch_id = lineage.patches.classes, lineage.column("patch_id")
    asked = explorer.asked_for(settings.show, patch_id)
    label, case = (lineage.column(k).astype(np.int64) for k in ("label", "case"))
    values, counts = lineage.column("values"), lineage.column("counts")
    present = [c for c in range(len(classes)) if (label == c).any()]
    names = [classes[c] for c in present]
    position = np.full(len(classes), -1)
    position[present] = np.arange(len(present))
    prediction, probability = lineage.column("prediction"), lineage.column("probability")
    examples = pick_cases(label, prediction, probability, case, present)

    # what takes longest to draw is asked for first: it is drawn while the rest is computed
    violins = panels.violins(values, position[label], case, names, axes, gallery)
    maps = panels.maps(lineage, examples, names, gallery, settings.colours)
    sheets = panels.cases(lineage, examples, names, gallery, settings.colours)

    progress.start("statistics", None)
    statistics = Statistics(primary=settings.primary, cancer=settings.cancer)
    measured = scores_store.read(path, "corrected", statistics.empty, lineage.rows)
    tested = scores_store.summary_of(path, measured, statistics, progress, lineage.rows)
    means = {"corrected": tested["rows"], **_other_profiles(lineage, statistics, progress)}
    progress.stop()
    places = slides.places_of(lineage)
    tissue = slides.slides_of(lineage, places, slides.SHOWN)
    stitched = slides.shown(tissue, lineage, settings.colours, gallery, progress)
    primary, mask = tested["statistics"]["primary"], _mask(axes["mask"])
    agreeing, compared = explorer.agreement(lineage, patch_id, progress) if len(axes["method"]) > 1 else (None, 0)

    table1 = class_counts(
        lineage.patches.label, lineage.patches.split, classes, lineage.patches.store.header.get("table")
    )
    tables, sixth = table6(values, label, names, present, axes)
    used = lineage.scores.header["settings"]
    content: dict[str, Any] = {
        **facts_of(lineage),
        "title": settings.title,
        "sure": used["sure"],
        "map_threshold": used["map_threshold"],
        "mask_threshold": used["mask_threshold"],
        "methods": axes["method"],
        "profiles": axes["profile"],
        "answer": answer(tested, lineage.patches.size),
        "evidence": evidence.section(tested, gallery),
        "statistics": tested["statistics"],
        "table1": table1,
        "leakage": sections.leakage(lineage.patches),
        "notes": sections.notes(lineage),
        "classifier": sections.classifier(lineage, gallery),
        "segmenter": sections.segmenter(lineage, counts, axes["mask"], gallery),
        "table6": tables,
        "why": [(name, words) for name, _, words in WHY],
        "violins": violins,
        "maps": maps,
        "cases": sheets,
        "slides": stitched,
        "other_slides": 0 if places is None else len(set(places.which.tolist()) - {-1}) - len(stitched),
        "colour_words": _COLOURS[settings.colours],
        "thresholds": robustness.thresholds(tested, used["map_threshold"], gallery),
        "faithfulness": faithfulness.faithfulness(tested, gallery),
        "sanity": faithfulness.sanity(tested, gallery),
        "sizes": robustness.sizes(tested, gallery),
        "mask_thresholds": robustness.mask_thresholds(tested),
        "agreement": None if agreeing is None else robustness.matrix(agreeing, axes["method"], compared, gallery),
        "lineage": lineage.ancestors(),
        "commands": lineage.commands(),
    }

    ranked = measured.of(primary)[:, measured.real() or slice(None), axes["mask"].index(mask)]
    wanted = explorer.chosen(examples, asked, ranked, label, patch_id, settings.examples)
    marked = _marks(measured, wanted)
    data: dict[str, Any] = {
        "methods": axes["method"],
        "masks": axes["mask"],
        "primary": primary,
        "mask": mask,
        "metrics": payload.measure_words(measured.metrics),
        "threshold": round(100 * used["map_threshold"]),
        "colours": list(LINES),
        "table": payload.table(means, [m for m, facts in tested["methods"].items() if facts["null"]]),
        "why": payload.reasons(),
        "cuts": payload.curves(tested["map_thresholds"]),
        "points": _points(measured, marked, classes, probability),
    }
    gallery.finish(progress)
    budget = int(1e6 * settings.limit) - _ROOM - gallery.size * 4 // 3 - _length(data)
    found = explorer.pictured(lineage, wanted, budget, progress)
    place = {int(row): k for k, row in enumerate(marked)}
    shown = [{"point": place[patch.pop("row")], **patch} for patch in found]
    data["explorer"] = {"patches": shown, "size": lineage.patches.size, **payload.looks(settings.colours)}
    content["explorer"] = {"count": len(shown), "points": len(marked), "mask": mask.replace("_", "-")}
    pictured = {int(marked[patch["point"]]) for patch in shown}
    if lost := [str(patch_id[i]) for i in asked if i not in pictured]:
        progress.warn(f"--show {lost[0]}: has no room below {settings.limit:g} MB; raise --limit")
    elif len(shown) < len(wanted):
        progress.say(f"{len(shown)} patches can be looked at: more would exceed {settings.limit:g} MB (--limit)")
    if budget < 0:
        progress.warn(
            f"the page has about {settings.limit - budget / 1e6:.0f} MB without any patch to look at: its figures and "
            f"numbers alone are larger than --limit {settings.limit:g}"
        )

    kept = accuracy_rows(lineage.classifier.facts["metrics"])
    arrays = {
        **{f"table1_{k}": np.array(v) for k, v in _columns(table1).items()},
        "table4_accuracy": evidence.numbers([r["accuracy"] for r in kept]),
        "table4_patches": np.array([r["n"] for r in kept]),
        "confusion": np.array(lineage.classifier.facts["metrics"]["confusion"]),
        **{f"classifier_{k}": v for k, v in lineage.history("classifier").items()},
        **{f"segmenter_{k}": v for k, v in lineage.history("segmenter").items()},
        "table6_mean": sixth["mean"],
        "table6_n": sixth["n"],
        "table6_undefined": sixth["undefined"],
        **case_means(values, label, case, present),
        **evidence.arrays(tested),
        **faithfulness.arrays(tested),
        **robustness.arrays(tested, agreeing),
        **_all_means(means),
        "patch_values": values,
        "patch_label": label,
        "patch_case": case,
        "patch_id": patch_id,
        "example_patch_id": np.array([["" if i is None else str(patch_id[i]) for i in row] for row in examples]),
    }
    return Made(content, data, arrays, _axes(axes, names))


def facts_of(lineage: Lineage) -> dict[str, Any]:
    """What a run is, for its page and its methods paragraph."""
    return {
        "version": __version__,
        "patches": len(lineage.rows),
        "partial": partial_words(lineage.partial),
        "groups": len(set(lineage.column("group").tolist())),
        "split": lineage.maps.header["settings"]["split"],
        "split_by": lineage.patches.store.header["settings"].get("split_by"),
        "size": lineage.patches.size,
        "target": lineage.scores.header["target"],
    }


def methods_facts(lineage: Lineage, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """What the methods paragraph of a paper says of a run; statistics: as they were used."""
    return {
        **facts_of(lineage),
        "statistics": statistics,
        "classifier": lineage.classifier.facts,
        "segmenter": lineage.segmenter.facts,
        "methods": [
            {"name": m.name, "method": m.method, "null": m.null, "options": provenance.plain(m.explainer.options)}
            for m in (lineage.methods[name] for name in lineage.scores.header["axes"]["method"])
        ],
        "score": lineage.scores.header["settings"],
    }


def _other_profiles(lineage: Lineage, statistics: Statistics, progress: Progress) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for profile in scores_store.profiles_of(lineage.scores.header):
        if profile != "corrected":
            scores = scores_store.read(lineage.scores.path, profile, statistics.empty, lineage.rows)
            primary = statistics.primary if statistics.primary in scores.metrics else None
            found[profile] = means_of(scores, replace(statistics, primary=primary), progress.advance)
    return found


def _mask(masks: list[str]) -> str:
    # the one that the page's questions are about
    return "tumor" if "tumor" in masks else masks[0]


def _marks(s: Scores, wanted: list[int]) -> np.ndarray:
    # positions of the patches that are marks on the page: all, or as many as there is room for, first those in `wanted`
    each = 2 * len(s.methods) * len(s.masks) * len(_shown(s))
    room = max(len(wanted), _MARKS // each)
    if room >= len(s.label):
        return np.arange(len(s.label))
    rest = np.setdiff1d(np.arange(len(s.label)), wanted)
    evenly = rest[np.linspace(0, len(rest) - 1, room - len(wanted)).round().astype(np.int64)]
    return np.sort(np.concatenate([np.array(wanted, np.int64), evenly]))


def _shown(s: Scores) -> list[str]:
    return [name for name, m in s.measures.items() if m is None or not m.variant_of]


def _points(s: Scores, marked: np.ndarray, classes: list[str], probability: np.ndarray) -> dict[str, Any]:
    columns = [s.metrics.index(m) for m in _shown(s)]

    def named(codes: np.ndarray) -> np.ndarray:
        return np.array([classes[c] if c >= 0 else "no label" for c in codes.tolist()], object)

    facts = {
        "patch_id": s.patch_id[marked],
        "case": s.case[marked],
        "probability": probability[marked],
        "label": named(s.label[marked]),
        "prediction": named(s.prediction[marked]),
        "group": s.group[marked].astype(object),
    }
    return payload.points(s.values[marked][..., columns], _shown(s), facts)


def _length(data: dict[str, Any]) -> int:
    from histoxai.report.page.render import embedded

    return len(embedded(data).encode())


def _all_means(means: dict[str, list[dict[str, Any]]]) -> dict[str, np.ndarray]:
    # every row of the page's table of means, as columns
    rows = [{**row, "profile": profile} for profile, found in means.items() for row in found]
    texts = {f"means_{k}": np.array([r[k] for r in rows]) for k in payload.KEYS}
    counts = {f"means_{k}": np.array([r[k] for r in rows]) for k in ("n", "undefined")}
    numbers = {f"means_{k}": evidence.numbers([r[k] for r in rows]) for k in ("mean", "low", "high", "chance")}
    return {**texts, **numbers, **counts}


def _columns(table1: dict[str, Any]) -> dict[str, list[Any]]:
    columns = {"class": [r[0] for r in table1["rows"]]}
    for k, name in enumerate(table1["columns"], start=1):
        columns[name.replace(" ", "_")] = [r[k] for r in table1["rows"]]
    return columns


def _axes(axes: dict[str, list[str]], names: list[str]) -> dict[str, list[str]]:
    # words of the axes, and of every array which axes it has
    return {
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
        "means": ["row"],
        "primary": ["row"],
        "above_chance": ["row"],
        "conclusion": ["row"],
        "faithfulness": ["row"],
        "sanity": ["row"],
        "sizes": ["row"],
        "cuts": ["method and mask", "threshold"],
        "agreement": ["method", "method"],
    }
