"""What the scripts of a report's page read: every mean, the threshold curves, and patches with their pictures."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from histoxai.report.content import WHY
from histoxai.report.figures.figures import OVERLAYS
from histoxai.report.page.render import p_value
from histoxai.score.summary.scores import label_of

# what a mean is of
KEYS = ("method", "mask", "class", "case", "metric", "profile")
NOTHING = -32768  # in packed values: undefined


def table(summaries: Mapping[str, Sequence[dict[str, Any]]], nulls: Sequence[str]) -> dict[str, Any]:
    """Every mean, column by column; summaries: profile -> `rows` of `score --json`.

    Numbers have the three decimals that are shown, cut here, since two languages round a half in two ways.
    """
    rows = [{**row, "profile": profile} for profile, found in summaries.items() for row in found]
    words = {k: list(dict.fromkeys(row[k] for row in rows)) for k in KEYS}
    place = {k: {word: n for n, word in enumerate(found)} for k, found in words.items()}
    columns: dict[str, list[Any]] = {k: [place[k][row[k]] for row in rows] for k in KEYS}
    of_thesis = {_key(row): row["mean"] for row in summaries.get("thesis", ())}
    columns["difference"] = [_less(of_thesis.get(_key(row)), row["mean"]) for row in rows]
    for k in ("mean", "low", "high", "chance"):
        columns[k] = [three(row[k]) for row in rows]
    tested = [row["above_chance"]["p_holm"] for row in rows]
    columns["p"] = [None if p is None else p_value(p) for p in tested]
    for k in ("n", "undefined"):
        columns[k] = [row[k] for row in rows]
    return {"words": words, "columns": columns, "null_methods": list(nulls)}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in KEYS[:-1])


def _less(thesis: float | None, corrected: float | None) -> float | None:
    return None if thesis is None or corrected is None else three(thesis - corrected)


def curves(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`map_thresholds` of `score --json` as the slider needs them."""
    return [
        {
            "method": r["method"],
            "mask": r["mask"],
            **{k: [three(v) for v in r[k]] for k in ("iou", "precision", "recall")},
        }
        for r in rows
        if any(v is not None for v in r["iou"])
    ]


def points(values: np.ndarray, measures: Sequence[str], facts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Patches as marks: values (n, method, mask, measure) in thousandths, and facts (n,) of each.

    facts: patch_id, case, probability; label, prediction, group as texts.
    """
    shown = [NOTHING if (v := three(x)) is None else round(1000 * v) for x in values.ravel().tolist()]
    made: dict[str, Any] = {
        "measures": list(measures),
        "values": base64.b64encode(np.array(shown, "<i2").tobytes()).decode(),
        "id": facts["patch_id"].tolist(),
        "case": facts["case"].tolist(),
        "probability": [float(f"{p:.2f}") for p in facts["probability"].tolist()],
        "words": {},
    }
    for key in ("label", "prediction", "group"):
        words, codes = np.unique(facts[key], return_inverse=True)
        made["words"][key], made[key] = words.tolist(), codes.tolist()
    return made


def three(value: float | None) -> float | None:
    """Three decimals as `number` of the page writes them; None where undefined."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.3f}")


def jpeg(image: np.ndarray) -> str:
    """A patch (H, W, 3) uint8 as base64."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "jpeg", quality=88, subsampling=0)
    return base64.b64encode(out.getvalue()).decode()


def packed(plane: np.ndarray) -> str:
    """A plane (H, W) uint8 as base64 of zlib: one byte that says whether differences along lines follow, then those."""
    steps = plane.copy()
    steps[:, 1:] -= plane[:, :-1]
    forms = [zlib.compress(bytes([kind]) + p.tobytes(), 9) for kind, p in enumerate((plane, steps))]
    return base64.b64encode(min(forms, key=len)).decode()


def looks(colours: str) -> dict[str, Any]:
    """Colours of maps (101 levels), of signed evidence (255 levels), and of overlays, as texts #rrggbb."""
    return {
        "palette": colours,
        "palettes": {name: {k: "#" + bytes(c).hex() for k, c in found.items()} for name, found in OVERLAYS.items()},
        "sequential": [to_hex(colormaps["magma"](k / 100)) for k in range(101)],
        "diverging": [to_hex(colormaps["RdBu_r"](k / 254)) for k in range(255)],
    }


def measure_words(metrics: Sequence[str]) -> dict[str, str]:
    """Measures as people read them."""
    return {m: label_of(m) for m in metrics}


def reasons() -> dict[str, str]:
    """Why the two profiles differ, by measure."""
    return {metric: words for _, metrics, words in WHY for metric in metrics}
