"""Encode data for the scripts of a report's page: means, threshold curves, and patches with their layers."""

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

from histoxai.core.digits import FEWEST, decimals_for, fixed
from histoxai.report.figures.robustness import CURVE_MEASURES
from histoxai.report.figures.style import GREYED, OVERLAY_COLOURS
from histoxai.report.page.render import p_value
from histoxai.score.summary.scores import label_of

# the keys that identify a mean row
MEAN_KEYS = ("method", "mask", "class", "case", "metric", "profile")
UNDEFINED = -32768  # among the values of `points`
MeanRow = Mapping[str, Any]


def mean_table(means: Mapping[str, Sequence[MeanRow]], null_models: Sequence[str]) -> dict[str, Any]:
    """Encode every mean, column by column; means: profile -> `rows` of `score --json`.

    Columns of MEAN_KEYS hold indices into the lists of `words`. Numbers are rounded here to the decimals shown, which
    tell the methods of a row's stratum apart, since Python and JavaScript round a half differently.
    """
    rows = [{**row, "profile": profile} for profile, of_profile in means.items() for row in of_profile]
    words = {k: list(dict.fromkeys(row[k] for row in rows)) for k in MEAN_KEYS}
    index = {k: {word: n for n, word in enumerate(known)} for k, known in words.items()}
    columns: dict[str, list[Any]] = {k: [index[k][row[k]] for row in rows] for k in MEAN_KEYS}
    decimals = columns["decimals"] = _decimals(rows)
    columns["difference"] = _differences_to_thesis(rows, decimals)
    for k in ("mean", "low", "high", "chance"):
        columns[k] = [rounded(row[k], d) for row, d in zip(rows, decimals, strict=True)]
    p_values = [row["above_chance"]["p_holm"] for row in rows]
    columns["p"] = [None if p is None else p_value(p) for p in p_values]
    for k in ("n", "undefined"):
        columns[k] = [row[k] for row in rows]
    return {"words": words, "columns": columns, "null_methods": list(null_models)}


def _decimals(rows: Sequence[MeanRow]) -> list[int]:
    # of each row: those that tell the methods of its mask, class, case, measure and profile apart
    strata = [tuple(row[k] for k in MEAN_KEYS if k != "method") for row in rows]
    compared: dict[tuple[Any, ...], list[float | None]] = {}
    for stratum, row in zip(strata, rows, strict=True):
        compared.setdefault(stratum, []).append(row["mean"])
    decimals = {stratum: decimals_for(means) for stratum, means in compared.items()}
    return [decimals[stratum] for stratum in strata]


def _differences_to_thesis(rows: Sequence[MeanRow], decimals: Sequence[int]) -> list[float | None]:
    # with the decimals of the mean that has more
    strata = [tuple(row[k] for k in MEAN_KEYS if k != "profile") for row in rows]
    every = [(s, row["mean"], d) for s, row, d in zip(strata, rows, decimals, strict=True)]
    of_thesis = (row["profile"] == "thesis" for row in rows)
    thesis = {s: (mean, d) for (s, mean, d), is_thesis in zip(every, of_thesis, strict=True) if is_thesis}
    pairs = [(thesis.get(s, (None, d)), mean, d) for s, mean, d in every]
    return [
        None if mean is None or other is None else rounded(other - mean, max(d, of_other))
        for (other, of_other), mean, d in pairs
    ]


def threshold_curves(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Encode `map_thresholds` of `score --json` for the slider; curves without a value are left out.

    Values have the decimals that tell the methods of their mask apart at their threshold.
    """
    known = [r for r in rows if any(v is not None for v in r["iou"])]
    decimals = {
        (mask, k): [decimals_for(at) for at in zip(*(r[k] for r in known if r["mask"] == mask), strict=True)]
        for mask in dict.fromkeys(r["mask"] for r in known)
        for k in CURVE_MEASURES
    }
    return [
        {
            "method": r["method"],
            "mask": r["mask"],
            **{k: [rounded(v, d) for v, d in zip(r[k], decimals[r["mask"], k], strict=True)] for k in CURVE_MEASURES},
        }
        for r in known
    ]


def points(values: np.ndarray, measures: Sequence[str], facts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Encode patches as points of a plot: values (n, method, mask, measure), NaN undefined.

    facts: columns (n,) `patch_id`, `case`, `probability`, and as texts `label`, `prediction`, `group`. Values become
    base64 of int16 little-endian, in thousandths; label, prediction and group become indices into lists of `words`.
    """
    shown = [rounded(x) for x in values.ravel().tolist()]
    thousandths = [UNDEFINED if v is None else round(1000 * v) for v in shown]
    coded = {k: np.unique(facts[k], return_inverse=True) for k in ("label", "prediction", "group")}
    return {
        "measures": list(measures),
        "values": base64.b64encode(np.array(thousandths, "<i2").tobytes()).decode(),
        "id": facts["patch_id"].tolist(),
        "case": facts["case"].tolist(),
        "probability": [float(f"{p:.2f}") for p in facts["probability"].tolist()],
        "words": {k: words.tolist() for k, (words, _) in coded.items()},
        **{k: codes.tolist() for k, (_, codes) in coded.items()},
    }


def rounded(value: float | None, decimals: int = FEWEST) -> float | None:
    """Round to the decimals that the page writes; None if undefined."""
    return None if value is None or not np.isfinite(value) else float(fixed(value, decimals))


def jpeg(image: np.ndarray) -> str:
    """Encode a patch (H, W, 3) uint8 as base64 of a JPEG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "jpeg", quality=88, subsampling=0)
    return base64.b64encode(out.getvalue()).decode()


def packed(plane: np.ndarray) -> str:
    """Encode a plane (H, W) uint8 as base64 of zlib: a byte 0 and its pixels, or a byte 1 and differences along lines.

    The shorter of both is taken.
    """
    differences = plane.copy()
    differences[:, 1:] -= plane[:, :-1]
    forms = [zlib.compress(bytes([kind]) + p.tobytes(), 9) for kind, p in enumerate((plane, differences))]
    return base64.b64encode(min(forms, key=len)).decode()


def colour_data(palette: str) -> dict[str, Any]:
    """Return all colours that scripts draw with, as texts #rrggbb.

    palette: the key of OVERLAY_COLOURS that is shown first. greyed: those under which the patch is grey. Maps have 101
    levels, signed evidence has 255.
    """
    palettes = {
        name: {k: "#" + bytes(c).hex() for k, c in colours.items()} for name, colours in OVERLAY_COLOURS.items()
    }
    return {
        "palette": palette,
        "palettes": palettes,
        "greyed": list(GREYED),
        "sequential": [to_hex(colormaps["magma"](k / 100)) for k in range(101)],
        "diverging": [to_hex(colormaps["RdBu_r"](k / 254)) for k in range(255)],
    }


def measure_labels(measures: Sequence[str]) -> dict[str, str]:
    """Return measures as people read them, by name."""
    return {m: label_of(m).replace("_", " ") for m in measures}
