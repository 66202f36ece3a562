"""The resolution of a slide, the level that tiles are read from, and the grid of tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused

DEFAULT_MPP = 0.5  # 20x, as in the study
_PLAUSIBLE_MPP = (0.05, 10.0)  # range of slides of light microscopes
_SAME_MPP = 0.01  # relative; a level that differs by less from the requested mpp is used as it is
_SQUARE = 0.05  # by which the sides of a pixel may differ


@dataclass(frozen=True)
class TilePlan:
    """How the tiles of a slide are made.

    mpp: micrometres per level-0 px; own: the slide itself states it. level: the level that is read. side: px of that
    level that make a tile. size: px of a tile. scale: level-0 px per px of a tile.
    """

    mpp: float
    own: bool
    level: int
    side: int
    size: int
    scale: float

    @property
    def extent(self) -> float:
        """A tile's side in level-0 px."""
        return self.size * self.scale

    @property
    def resized(self) -> bool:
        """Whether tiles are shrunk from a finer level."""
        return self.side != self.size

    @property
    def facts(self) -> dict[str, Any]:
        """Entries for the store's settings."""
        return {
            "mpp": self.mpp,
            "mpp_from": "slide" if self.own else "--mpp",
            "level": self.level,
            "read_px": self.side,
            "tile_mpp": self.mpp * self.scale,
        }


def stated_mpp(properties: Mapping[str, str]) -> tuple[float | None, str]:
    """Return the micrometres per level-0 px that a slide states, or None and why they are not credible."""
    aperio = properties.get("aperio.MPP")
    x, y = (_number(properties.get(f"openslide.mpp-{axis}", aperio)) for axis in "xy")
    if x is None or y is None:
        return None, "does not say how large its pixels are (no mpp)"
    if not all(_PLAUSIBLE_MPP[0] <= v <= _PLAUSIBLE_MPP[1] for v in (x, y)):
        return None, f"says {x:g} x {y:g} micrometres per pixel, which no slide has"
    if max(x, y) / min(x, y) > 1 + _SQUARE:
        return None, f"says that its pixels are no squares ({x:g} x {y:g} micrometres)"
    return math.sqrt(x * y), ""


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def plan_tiles(slide: Any, path: Path, requested: float | None, size: int) -> TilePlan:
    """Choose the level to read for tiles of `size` px at `requested` micrometres per pixel (None: 0.5).

    Where a slide states no credible mpp, `requested` is taken for that of its full resolution, and tiles are read from
    there. Raises InputRefused where the resolution is unknown, and for tiles that are finer than the slide.
    """
    mpp, reason = stated_mpp(slide.properties)
    if mpp is None and requested is None:
        raise InputRefused(
            f"{path}: {reason}; say with --mpp how many micrometres a pixel of its full resolution is (0.5 at 20x, "
            "0.25 at 40x)"
        )
    own, mpp, requested = mpp is not None, mpp or requested or DEFAULT_MPP, requested or DEFAULT_MPP
    if requested < mpp * (1 - _SAME_MPP):
        raise InputRefused(
            f"{path}: has {mpp:g} micrometres per pixel, no finer; --mpp {requested:g} would invent pixels: ask for "
            f"--mpp {mpp:g} or more"
        )
    for level, downsample in enumerate(slide.level_downsamples):
        if abs(requested / (mpp * downsample) - 1) <= _SAME_MPP:
            return TilePlan(mpp, own, level, size, size, downsample)
    level = max(k for k, d in enumerate(slide.level_downsamples) if mpp * d <= requested)
    downsample = slide.level_downsamples[level]
    # whole px of the level, so that a tile is exactly the region read; the scale changes by less than 1 / size
    side = max(size, round(size * requested / (mpp * downsample)))
    return TilePlan(mpp, own, level, side, size, side / size * downsample)


def scanned_area(slide: Any) -> tuple[int, int, int, int]:
    """Return x, y, width, height of the scanned area in level-0 px: the whole slide where it states none."""
    names = ("x", "y", "width", "height")
    values = [_number(slide.properties.get(f"openslide.bounds-{n}")) for n in names]
    if any(v is None for v in values):
        return (0, 0, *slide.dimensions)
    x, y, width, height = (int(v) for v in values if v is not None)
    return x, y, width, height


def tile_corners(slide: Any, plan: TilePlan, overlap: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y (n) int64, upper-left corners of all whole tiles in level-0 px, row by row.

    overlap: px of a tile that it shares with its neighbours.
    """
    left, top, width, height = scanned_area(slide)
    step, downsample = (plan.size - overlap) * plan.scale, slide.level_downsamples[plan.level]
    axes = []
    for start, length, pixels in zip((left, top), (width, height), slide.level_dimensions[plan.level], strict=True):
        room = min(start + length, pixels * downsample) - start  # a level lacks the px that do not fill one of its own
        count = max(0, math.floor((room - plan.extent) / step + 1e-9) + 1)
        axes.append(start + np.floor(np.arange(count) * step + 1e-6).astype(np.int64))
    y, x = np.meshgrid(axes[1], axes[0], indexing="ij")
    return x.ravel(), y.ravel()
