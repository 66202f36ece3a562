"""Assemble the data of the page's scripts, as far as there is room on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histoxai.report.figures.style import LINE_COLOURS
from histoxai.report.page import payload
from histoxai.report.page.render import embedded
from histoxai.report.patch_explorer import encode_patches
from histoxai.report.sections.base import ReportInputs, null_models
from histoxai.score.profiles.thesis import ThesisProfile
from histoxai.score.summary.scores import Scores

_POINT_BYTES = 2_000_000  # that the values of the page's points may take
_FIXED_BYTES = 200_000  # of the page that are neither figures nor numbers


@dataclass(frozen=True)
class PagePatches:
    """Positions of patches with layers (most important first), of those with points, and of those from --show."""

    with_layers: Sequence[int]
    with_points: np.ndarray
    from_option: Sequence[int]


def script_data(inputs: ReportInputs, positions: np.ndarray) -> dict[str, Any]:
    """Assemble means, curves, and the points of some patches; `add_explorer` adds the rest."""
    scores, summary = inputs.results.scores, inputs.summary
    return {
        "methods": inputs.axes["method"],
        "masks": inputs.axes["mask"],
        "primary": inputs.primary,
        "mask": inputs.primary_mask,
        "metrics": payload.measure_labels(scores.metrics),
        "threshold": round(100 * inputs.lineage.map_threshold),
        "colours": list(LINE_COLOURS),
        "table": payload.mean_table(inputs.results.means, null_models(summary)),
        "why": {m.name: m.difference for m in ThesisProfile.measures()},
        "cuts": payload.threshold_curves(summary["map_thresholds"]),
        "points": _points(inputs, positions),
    }


def choose_points(scores: Scores, required: Sequence[int]) -> np.ndarray:
    """Choose the patches with points: all, or the `required` ones and as many others as there is room for."""
    bytes_per_point = 2 * len(scores.methods) * len(scores.masks) * len(_point_measures(scores))
    room, total = max(len(required), _POINT_BYTES // bytes_per_point), len(scores.label)
    if room >= total:
        return np.arange(total)
    rest = np.setdiff1d(np.arange(total), required)
    evenly_spaced = rest[np.linspace(0, len(rest) - 1, room - len(required)).round().astype(np.int64)]
    return np.sort(np.concatenate([np.array(required, np.int64), evenly_spaced]))


def _point_measures(scores: Scores) -> list[str]:
    return [name for name, measure in scores.measures.items() if measure is None or not measure.variant_of]


def _points(inputs: ReportInputs, positions: np.ndarray) -> dict[str, Any]:
    scores = inputs.results.scores
    # one more name at the end, for the code -1
    names = np.array([*inputs.lineage.patches.classes, "no label"], object)
    facts = {
        "patch_id": scores.patch_id[positions],
        "case": scores.case[positions],
        "probability": inputs.probability[positions],
        "label": names[scores.label[positions]],
        "prediction": names[scores.prediction[positions]],
        "group": scores.group[positions].astype(object),
    }
    measures = _point_measures(scores)
    columns = [scores.metrics.index(m) for m in measures]
    return payload.points(scores.values[positions][..., columns], measures, facts)


def add_explorer(inputs: ReportInputs, data: dict[str, Any], chosen: PagePatches) -> int:
    """Add the layers of patches to the data, as many as fit below --limit, and return their number.

    All figures must be drawn. Warns of patches of --show without room.
    """
    limit, progress = inputs.settings.limit, inputs.progress
    other_bytes = _FIXED_BYTES + inputs.figures.page_bytes * 4 // 3 + len(embedded(data).encode())
    budget = int(1e6 * limit) - other_bytes
    layers = encode_patches(inputs.lineage, chosen.with_layers, budget, progress)
    point = {int(position): k for k, position in enumerate(chosen.with_points)}
    patches = [{"point": point[i], **layer} for i, layer in zip(chosen.with_layers, layers, strict=False)]
    colours = payload.colour_data(inputs.settings.colours)
    data["explorer"] = {"patches": patches, "size": inputs.lineage.patches.size, **colours}
    if missing := [str(inputs.patch_id[i]) for i in chosen.from_option if i not in chosen.with_layers[: len(patches)]]:
        progress.warn(f"--show {missing[0]}: has no room below {limit:g} MB; raise --limit")
    elif len(patches) < len(chosen.with_layers):
        progress.say(f"{len(patches)} patches can be looked at: more would exceed {limit:g} MB (--limit)")
    if budget < 0:
        progress.warn(
            f"the page has about {limit - budget / 1e6:.0f} MB without any patch to look at: its figures and "
            f"numbers alone are larger than --limit {limit:g}"
        )
    return len(patches)
