"""Draw patches with their maps: overlays on masks, one method on several patches, and the study's four cases.

Only here and in `slide` are maps rescaled for the eye.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from histoxai.report.figures.style import GREY, GREYED, OVERLAY_COLOURS, abbreviate, styled


@dataclass(frozen=True)
class MaskedPatch:
    """A patch (H, W, 3) uint8 with its tumor and non-tumor masks (H, W) bool, and the title of its row."""

    title: str
    image: np.ndarray
    tumor: np.ndarray
    non_tumor: np.ndarray


@dataclass(frozen=True)
class PatchMaps:
    """Maps of one method on one patch: signed evidence (H, W), and the rendered map (H, W) in 0..1."""

    signed: np.ndarray
    rendered: np.ndarray


@dataclass(frozen=True)
class CaseRow:
    """A class in a sheet of one case: its patch and the rendered map (H, W) of each method; None without a patch."""

    title: str
    patch: MaskedPatch | None = None
    maps: Sequence[np.ndarray] = ()


def overlay(patch: MaskedPatch, above: np.ndarray, colours: str = "safe") -> np.ndarray:
    """Return the study's overlay (H, W, 3) uint8 on the patch: map, masks, and where the map meets a mask.

    above (H, W) bool: where the map lies above its threshold. colours: a key of OVERLAY_COLOURS; it says whether the
    patch is greyed.
    """
    ground = patch.image.astype(np.float64)
    if colours in GREYED:
        ground = np.repeat(ground.mean(axis=2, keepdims=True), 3, axis=2)
    colour = ground.copy()
    for plane, name in (
        (patch.non_tumor, "non_tumor"),
        (patch.tumor, "tumor"),
        (above, "map"),
        (above & patch.non_tumor, "map and non-tumor"),
        (above & patch.tumor, "map and tumor"),
    ):
        colour[plane] = OVERLAY_COLOURS[colours][name]
    return (0.45 * ground + 0.55 * colour).round().astype(np.uint8)


@styled
def maps_of_method(patches: Sequence[MaskedPatch], maps: Sequence[PatchMaps], threshold: float, colours: str) -> Figure:
    """Draw the study's figures 12 to 15 for one method: patch, signed evidence, map, and map over the masks.

    Signed evidence is drawn as a share of each patch's maximum, maps from 0 to 1; the overlay shows map > threshold.
    """
    unit, signed = ScalarMappable(Normalize(0, 1), "magma"), ScalarMappable(Normalize(-1, 1), "RdBu_r")
    shares = [np.nan_to_num(m.signed / max(np.abs(m.signed).max(), 1e-30)) for m in maps]
    evidence = [signed.to_rgba(share, bytes=True)[..., :3] for share in shares]
    rendered = [unit.to_rgba(m.rendered, bytes=True)[..., :3] for m in maps]
    overlays = [overlay(p, m.rendered > threshold, colours) for p, m in zip(patches, maps, strict=True)]
    rows = ["patch", "signed evidence", "map as scored", f"map > {threshold:g}\nover masks"]
    images = [p.image for p in patches]
    figure = _image_grid([images, evidence, rendered, overlays], [p.title for p in patches], rows, colours)
    axes = figure.axes[0]
    figure.colorbar(unit, ax=axes, shrink=0.4, pad=0.02, label="map as scored, 0 to 1")
    figure.colorbar(signed, ax=axes, shrink=0.4, pad=0.02, label="signed evidence / its maximum")
    return figure


@styled
def case_sheet(rows: Sequence[CaseRow], methods: Sequence[str], threshold: float, colours: str) -> Figure:
    """Draw the study's figures 16 to 19 for one case: a patch per class (row), each method's overlay (column)."""
    grid: list[list[np.ndarray | None]] = []
    for row in rows:
        if (patch := row.patch) is None:
            grid.append([None] * (len(methods) + 1))
        else:
            grid.append([patch.image, *[overlay(patch, plane > threshold, colours) for plane in row.maps]])
    columns = ["patch", *[abbreviate(m) for m in methods]]
    return _image_grid(grid, columns, [row.title for row in rows], colours)


def _image_grid(
    grid: Sequence[Sequence[np.ndarray | None]], columns: Sequence[str], rows: Sequence[str], colours: str
) -> Figure:
    # All images share one Axes: laying out an Axes for each would take seconds.
    figure = Figure(figsize=(1.5 * len(columns) + 1.3, 1.5 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    for y, row in enumerate(grid):
        for x, image in enumerate(row):
            extent = (x + 0.03, x + 0.97, -y - 0.97, -y - 0.03)
            pixels = np.full((1, 1, 3), 244, np.uint8) if image is None else image
            axes.imshow(pixels, extent=extent, interpolation="none")
        if row[0] is None:
            axes.text(0.5, -y - 0.5, "none", ha="center", va="center", color=GREY)
        axes.text(-0.04, -y - 0.5, rows[y], ha="right", va="center", fontsize=8)
    for x, title in enumerate(columns):
        axes.text(x + 0.5, 0.03, title, ha="center", va="bottom", fontsize=8)
    axes.set(xlim=(0, len(columns)), ylim=(-len(rows), 0))
    palette = OVERLAY_COLOURS[colours]
    handles = [Patch(color=np.array(c) / 255, label=name.replace("_", "-")) for name, c in palette.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure
