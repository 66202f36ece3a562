"""Draw a slide with its explained patches, their masks, and each method's maps in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from histoxai.report.figures.style import BLUE, GREY, OVERLAY_COLOURS, RED, abbreviate, styled

_COLUMNS = 4
_MAX_PANEL_HEIGHT = 8.0  # inches: a narrow slide leaves room at the sides of its panel


@dataclass(frozen=True)
class PatchBox:
    """Outline of a patch in px of the thumbnail; correct: whether it was classified as its label, None without one."""

    x: float
    y: float
    width: float
    height: float
    correct: bool | None


@dataclass(frozen=True)
class SlideView:
    """A slide at thumbnail size (h, w).

    thumbnail (h, w, 3) uint8; masks (h, w) uint8: 1 tumor, 2 non-tumor, 0 neither; maps: method -> (h, w) in 0..1, NaN
    outside of patches.
    """

    thumbnail: np.ndarray
    boxes: Sequence[PatchBox]
    masks: np.ndarray
    maps: Mapping[str, np.ndarray]


@styled
def slide_sheet(slide: SlideView, colours: str) -> Figure:
    """Draw the explained patches, the masks and each method's maps of a slide; colours: a key of OVERLAY_COLOURS."""
    scale = ScalarMappable(Normalize(0, 1), "magma")
    panels = [("explained patches", slide.thumbnail), ("masks", _painted_masks(slide, colours))]
    panels += [(abbreviate(name), _painted_map(slide, plane, scale)) for name, plane in slide.maps.items()]
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    height, width = slide.thumbnail.shape[:2]
    panel_height = min(_MAX_PANEL_HEIGHT, 2.5 * height / width)
    size = (2.6 * columns + 0.9, (panel_height + 0.35) * lines + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for axes, (title, image) in zip(grid.ravel(), panels, strict=False):
        axes.imshow(image)
        axes.set_title(title, fontsize=8)
    for box in slide.boxes:
        colour = GREY if box.correct is None else BLUE if box.correct else RED
        grid[0, 0].add_patch(Rectangle((box.x, box.y), box.width, box.height, fill=False, ec=colour, lw=0.8))
    figure.colorbar(scale, ax=grid, shrink=0.6, pad=0.01, label="map as scored, 0 to 1")
    _add_legend(figure, colours)
    return figure


def _greyed(slide: SlideView) -> np.ndarray:
    return np.repeat(slide.thumbnail.mean(axis=2, keepdims=True), 3, axis=2)


def _painted_masks(slide: SlideView, colours: str) -> np.ndarray:
    grey = _greyed(slide)
    painted = grey.copy()
    for code, name in ((1, "tumor"), (2, "non_tumor")):
        inside = slide.masks == code
        painted[inside] = 0.3 * grey[inside] + 0.7 * np.array(OVERLAY_COLOURS[colours][name])
    return painted.round().astype(np.uint8)


def _painted_map(slide: SlideView, plane: np.ndarray, scale: ScalarMappable) -> np.ndarray:
    grey = _greyed(slide)
    coloured = scale.to_rgba(np.nan_to_num(plane), bytes=True)[..., :3].astype(float)
    explained = np.isfinite(plane)[..., None]
    return np.where(explained, 0.25 * grey + 0.75 * coloured, grey).round().astype(np.uint8)


def _add_legend(figure: Figure, colours: str) -> None:
    palette = OVERLAY_COLOURS[colours]
    handles = [Patch(fill=False, ec=BLUE, label="right"), Patch(fill=False, ec=RED, label="wrong")]
    handles += [Patch(color=np.array(palette[n]) / 255, label=n.replace("_", "-")) for n in ("tumor", "non_tumor")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
