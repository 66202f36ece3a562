"""Find ink on patches by its colour, and test whether maps lie on it: a mark that goes with a class is a confounder.

Tissue stained with hematoxylin and eosin absorbs green light most (Ruifrok and Johnston 2001). Blue and green ink
absorb red light most. Black and red ink cannot be told from stains by colour and are not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from histoxai.report.lineage import Lineage
from histoxai.report.sections.base import ReportInputs, null_models
from histoxai.report.wording import count_groups, join_names
from histoxai.score.results import StatisticsFacts
from histoxai.statistics.numbers import or_none
from histoxai.statistics.tests import Difference, holm, paired

DENSITY = 0.35  # optical density of red light from which a pixel is stained or inked, natural logarithm
RED_TO_GREEN = 1.3  # hematoxylin absorbs 0.93 times as much red as green light, eosin 0.07 times
_DENSITIES = -np.log(np.arange(1, 257) / 256)  # of each value 0..255
_AT_ONCE = 64  # patches in memory
SMALLEST = 0.005  # share of a patch; fewer pixels are no mark


def find_ink(image: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W) bool of a patch (H, W, 3) uint8 with blue or green ink.

    Strokes up to four pixels apart are one mark; specks are left out.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    red, green = _DENSITIES[image[..., 0]], _DENSITIES[image[..., 1]]
    inked = (red > DENSITY) & (red > RED_TO_GREEN * green)
    if not inked.any():
        return inked
    strokes = binary_erosion(binary_dilation(inked, np.ones((5, 5), bool)), np.ones((5, 5), bool), border_value=1)
    square = np.ones((3, 3), bool)
    # marks at the border go on behind it
    found: np.ndarray = binary_dilation(binary_erosion(strokes, square, border_value=1), square)
    return found


def ink_findings(inputs: ReportInputs) -> dict[str, Any] | None:
    """Test whether maps lie on ink more than its share of the patch is; None where no patch has any."""
    planes = _inked_patches(inputs)
    if not planes:
        return None
    inked = np.zeros(len(inputs.label), bool)
    inked[list(planes)] = True
    nulls = null_models(inputs.summary)
    methods = [m for m in inputs.lineage.method_names if m not in nulls]
    classes = [c for c in inputs.present_classes if (inked & (inputs.label == c)).any()]
    rows = [row for c in classes for row in _rows_of_class(inputs, planes, c, methods)]
    for row, p in zip(rows, holm(np.array([r.pop("p") for r in rows])), strict=True):
        row["p_holm"] = or_none(p)
    alpha = 1 - inputs.summary["statistics"]["level"]
    return {
        "rows": rows,
        "classes": [_class_row(inputs, inked, c) for c in classes],
        "sentences": [_sentence(inputs, inked, rows, c, alpha) for c in classes],
        "suspects": [s for c in classes if (s := _suspicion(inputs, rows, c, alpha))],
    }


def _inked_patches(inputs: ReportInputs) -> dict[int, np.ndarray]:
    # position -> pixels with ink
    planes = {}
    for start in range(0, len(inputs.label), _AT_ONCE):
        positions = range(start, min(start + _AT_ONCE, len(inputs.label)))
        for position, image in zip(positions, inputs.lineage.images(positions), strict=True):
            if (found := find_ink(image)).mean() >= SMALLEST:
                planes[position] = found
    return planes


def _share_on(lineage: Lineage, method: str, planes: dict[int, np.ndarray], positions: Sequence[int]) -> np.ndarray:
    # share of a map's evidence that lies on ink, by patch; NaN for a map of zeros
    shares = []
    for position, relevance in zip(positions, lineage.relevance_maps(method, positions), strict=True):
        total = float(relevance.sum(dtype=np.float64))
        on_ink = float(relevance[planes[position]].sum(dtype=np.float64))
        shares.append(on_ink / total if total > 0 and np.isfinite(total) else np.nan)
    return np.array(shares)


def _rows_of_class(
    inputs: ReportInputs, planes: dict[int, np.ndarray], code: int, methods: Sequence[str]
) -> list[dict[str, Any]]:
    positions = [i for i in planes if inputs.label[i] == code]
    area = np.array([planes[i].mean() for i in positions])
    group = inputs.lineage.column("group")[positions]
    settings = inputs.summary["statistics"]
    rows = []
    for method in methods:
        share = _share_on(inputs.lineage, method, planes, positions)
        known = np.isfinite(share)
        test = _test(share[known], area[known], group[known], settings)
        rows.append(
            {
                "class": inputs.lineage.patches.classes[code],
                "method": method,
                "share": or_none(share[known].mean() if known.any() else np.nan),
                "area": or_none(area[known].mean() if known.any() else np.nan),
                "n": int(known.sum()),
                "groups": len(set(group[known].tolist())),
                "low": or_none(test.low if test else np.nan),
                "high": or_none(test.high if test else np.nan),
                "p": test.p if test else np.nan,
            }
        )
    return rows


def _test(share: np.ndarray, area: np.ndarray, group: np.ndarray, settings: StatisticsFacts) -> Difference | None:
    if not len(share):
        return None
    return paired(share, area, group, settings["repetitions"], settings["seed"], settings["level"])


def _class_row(inputs: ReportInputs, inked: np.ndarray, code: int) -> dict[str, Any]:
    # how often patches of a class have ink, and how often they are recognised with and without
    prediction = inputs.lineage.column("prediction")
    own = inputs.label == code
    with_ink, without = own & inked, own & ~inked
    return {
        "class": inputs.lineage.patches.classes[code],
        "inked": int(with_ink.sum()),
        "patches": int(own.sum()),
        "others": int((~own & inked).sum()),
        "of_others": int((~own).sum()),
        "right_with": int((prediction[with_ink] == code).sum()),
        "right_without": int((prediction[without] == code).sum()),
    }


def _above(rows: Sequence[dict[str, Any]], name: str, alpha: float) -> list[dict[str, Any]]:
    # the tests of a class that show more evidence on ink than chance, largest share first
    shown = [r for r in rows if r["class"] == name and r["p_holm"] is not None and r["p_holm"] <= alpha]
    return sorted((r for r in shown if r["share"] > r["area"]), key=lambda r: -r["share"])


def _sentence(inputs: ReportInputs, inked: np.ndarray, rows: Sequence[dict[str, Any]], code: int, alpha: float) -> str:
    facts = _class_row(inputs, inked, code)
    name = facts["class"]
    seen = f"Ink is on {facts['inked']} of {facts['patches']} patches of {name} and on {facts['others']} of "
    seen += f"{facts['of_others']} of other classes. "
    plain = facts["patches"] - facts["inked"]
    seen += f"Of those of {name} with ink {facts['right_with']} of {facts['inked']} are classified right"
    seen += f", of those without {facts['right_without']} of {plain}. " if plain else ". "
    if above := _above(rows, name, alpha):
        return seen + f"{_what_lies_on_ink(above)}: the classifier may read the mark."
    groups = max(r["groups"] for r in rows if r["class"] == name)
    if all(r["p_holm"] is None for r in rows if r["class"] == name):
        return seen + f"Whether maps lie on it more than chance is not tested ({count_groups(groups)} with ink)."
    return seen + "No method is shown to lie on it more than chance."


def _what_lies_on_ink(above: Sequence[dict[str, Any]]) -> str:
    best = above[0]
    others = [r["method"] for r in above[1:]]
    more = f"; so do {join_names(others)}" if len(others) > 1 else f"; so does {others[0]}" if others else ""
    share, area = f"{100 * best['share']:.1f} %", f"{100 * best['area']:.1f} %"
    return (
        f"{best['method']} puts {share} of its evidence on ink that covers {area} of the patch "
        f"(p = {best['p_holm']:.2g} after Holm, {count_groups(best['groups'])}){more}"
    )


def _suspicion(inputs: ReportInputs, rows: Sequence[dict[str, Any]], code: int, alpha: float) -> str | None:
    name = inputs.lineage.patches.classes[code]
    above = _above(rows, name, alpha)
    if not above:
        return None
    return (
        f"That the classifier knows {name} by tissue alone: {_what_lies_on_ink(above)}. "
        "See Robustness for how many patches have ink."
    )
