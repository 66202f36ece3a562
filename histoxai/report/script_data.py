"""Assemble what the scripts of a report's page read, and leave out what the page has no room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from histoxai.report.figures.style import LINE_COLOURS
from histoxai.report.page import payload
from histoxai.report.page.render import embedded
from histoxai.report.patch_explorer import PatchLayers, encode_patches
from histoxai.report.profile_differences import explanations
from histoxai.report.sections.base import ReportInputs, null_models
from histoxai.score.summary.scores import Scores

_MARK_BYTES = 2_000_000  # of the values that the page's marks may take
_FIXED_BYTES = 200_000  # of the page that are neither figures nor numbers


class ExplorerPatch(PatchLayers):
    """The layers of a patch; point: the index of its mark."""

    point: int


class ExplorerData(payload.ColourData):
    """The patches that can be looked at, their height and width, and all colours."""

    patches: list[ExplorerPatch]
    size: tuple[int, int]


class ScriptData(TypedDict, total=False):
    """All that scripts read; `explorer` is added last, as far as there is room."""

    methods: list[str]
    masks: list[str]
    primary: str
    mask: str
    metrics: dict[str, str]
    threshold: int
    colours: list[str]
    table: payload.MeanTableData
    why: dict[str, str]
    cuts: list[dict[str, Any]]
    points: payload.MarkData
    explorer: ExplorerData


@dataclass(frozen=True)
class ChosenPatches:
    """Positions of patches: with layers (the most important first), with marks, and those requested by --show."""

    shown: Sequence[int]
    marked: np.ndarray
    requested: Sequence[int]


def script_data(inputs: ReportInputs, marked: np.ndarray) -> ScriptData:
    """Assemble means, curves and marks; marked: positions of the patches that are marks."""
    scores, summary = inputs.results.scores, inputs.summary
    nulls = [name for name, null in null_models(summary).items() if null]
    return {
        "methods": inputs.axes["method"],
        "masks": inputs.axes["mask"],
        "primary": inputs.primary,
        "mask": inputs.primary_mask,
        "metrics": payload.measure_labels(scores.metrics),
        "threshold": round(100 * inputs.lineage.map_threshold),
        "colours": list(LINE_COLOURS),
        "table": payload.mean_table(inputs.results.means, nulls),
        "why": explanations(),
        "cuts": payload.threshold_curves(summary["map_thresholds"]),
        "points": _mark_data(inputs, marked),
    }


def choose_marks(scores: Scores, shown: Sequence[int]) -> np.ndarray:
    """Return positions of the patches that are marks: all, or `shown` and as many others as there is room for."""
    bytes_per_mark = 2 * len(scores.methods) * len(scores.masks) * len(_mark_measures(scores))
    room, total = max(len(shown), _MARK_BYTES // bytes_per_mark), len(scores.label)
    if room >= total:
        return np.arange(total)
    rest = np.setdiff1d(np.arange(total), shown)
    evenly_spaced = rest[np.linspace(0, len(rest) - 1, room - len(shown)).round().astype(np.int64)]
    return np.sort(np.concatenate([np.array(shown, np.int64), evenly_spaced]))


def _mark_measures(scores: Scores) -> list[str]:
    return [name for name, measure in scores.measures.items() if measure is None or not measure.variant_of]


def _mark_data(inputs: ReportInputs, marked: np.ndarray) -> payload.MarkData:
    scores = inputs.results.scores
    # one more name at the end, for the code -1
    names = np.array([*inputs.lineage.patches.classes, "no label"], object)
    facts = {
        "patch_id": scores.patch_id[marked],
        "case": scores.case[marked],
        "probability": inputs.probability[marked],
        "label": names[scores.label[marked]],
        "prediction": names[scores.prediction[marked]],
        "group": scores.group[marked].astype(object),
    }
    measures = _mark_measures(scores)
    columns = [scores.metrics.index(m) for m in measures]
    return payload.marks(scores.values[marked][..., columns], measures, facts)


def add_explorer(inputs: ReportInputs, data: ScriptData, chosen: ChosenPatches) -> int:
    """Add the layers of patches to the data, as many as fit below --limit, and return how many these are.

    All figures must be drawn. Warns of requested patches without room.
    """
    limit, progress = inputs.settings.limit, inputs.progress
    other_bytes = _FIXED_BYTES + inputs.figures.page_bytes * 4 // 3 + len(embedded(data).encode())
    budget = int(1e6 * limit) - other_bytes
    layers = encode_patches(inputs.lineage, chosen.shown, budget, progress)
    point = {int(position): k for k, position in enumerate(chosen.marked)}
    patches: list[ExplorerPatch] = [
        {"point": point[i], **layer} for i, layer in zip(chosen.shown, layers, strict=False)
    ]
    colours = payload.colour_data(inputs.settings.colours)
    data["explorer"] = {"patches": patches, "size": inputs.lineage.patches.size, **colours}
    if missing := [str(inputs.patch_id[i]) for i in chosen.requested if i not in chosen.shown[: len(patches)]]:
        progress.warn(f"--show {missing[0]}: has no room below {limit:g} MB; raise --limit")
    elif len(patches) < len(chosen.shown):
        progress.say(f"{len(patches)} patches can be looked at: more would exceed {limit:g} MB (--limit)")
    if budget < 0:
        progress.warn(
            f"the page has about {limit - budget / 1e6:.0f} MB without any patch to look at: its figures and "
            f"numbers alone are larger than --limit {limit:g}"
        )
    return len(patches)
