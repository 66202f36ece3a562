"""Which resolution a slide has, which of its levels tiles are made from, and where they lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused

DEFAULT_MPP = 0.5  # 20x, the study's
_PLAUSIBLE = (0.05, 10.0)  # micrometres per pixel; beyond lies no light microscope's slide
_SAME = 0.01  # levels that differ by less from what was asked for are taken as they are
_ROUND = 0.05  # how far pixels may be from squares


@dataclass(frozen=True)
class TilePlan:
    """How a slide's tiles are made.

    mpp: micrometres per level-0 px, `own` where the slide says so itself. level: that is read, `side` px of it a tile,
    which become `size` px. scale: level-0 px per px of a tile.
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
        """What a store says of it."""
        return {
            "mpp": self.mpp,
            "mpp_from": "slide" if self.own else "--mpp",
            "level": self.level,
            "read_px": self.side,
            "tile_mpp": self.mpp * self.scale,
        }


def stated_mpp(properties: Mapping[str, str]) -> tuple[float | None, str]:
    """Micrometres per level-0 px as a slide states them, or None and why they cannot be believed."""
    aperio = properties.get("aperio.MPP")
    x, y = (_number(properties.get(f"openslide.mpp-{axis}", aperio)) for axis in "xy")
    if x is None or y is None:
        return None, "does not say how large its pixels are (no mpp)"
    if not all(_PLAUSIBLE[0] <= v <= _PLAUSIBLE[1] for v in (x, y)):
        return None, f"says {x:g} x {y:g} micrometres per pixel, which no slide has"
    if max(x, y) / min(x, y) > 1 + _ROUND:
        return None, f"says that its pixels are no squares ({x:g} x {y:g} micrometres)"
    return math.sqrt(x * y), ""


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def plan_tiles(slide: Any, path: Path, wanted: float | None, size: int) -> TilePlan:
    """The level to read for tiles of `size` px at `wanted` micrometres per pixel (None: 0.5).

    Of a slide that states no mpp worth believing `wanted` is its own, and tiles come from its full resolution. Raises
    InputRefused where nothing says the resolution, and where finer tiles are asked for than the slide has.
    """
    mpp, doubt = stated_mpp(slide.properties)
    if mpp is None and wanted is None:
        raise InputRefused(
            f"{path}: {doubt}; say with --mpp how many micrometres a pixel of its full resolution is (0.5 at 20x, "
            "0.25 at 40x)"
        )
    own, mpp, wanted = mpp is not None, mpp or wanted or DEFAULT_MPP, wanted or DEFAULT_MPP
    if wanted < mpp * (1 - _SAME):
        raise InputRefused(
            f"{path}: has {mpp:g} micrometres per pixel, no finer; --mpp {wanted:g} would invent pixels: ask for "
            f"--mpp {mpp:g} or more"
        )
    for level, downsample in enumerate(slide.level_downsamples):
        if abs(wanted / (mpp * downsample) - 1) <= _SAME:
            return TilePlan(mpp, own, level, size, size, downsample)
    level = max(k for k, d in enumerate(slide.level_downsamples) if mpp * d <= wanted)
    downsample = slide.level_downsamples[level]
    # whole px of the level, so that a tile is exactly what was read; the scale gives way by less than 1 / size
    side = max(size, round(size * wanted / (mpp * downsample)))
    return TilePlan(mpp, own, level, side, size, side / size * downsample)


def scanned_area(slide: Any) -> tuple[int, int, int, int]:
    """x, y, width, height in level-0 px of what was scanned; the whole slide where it does not say."""
    names = ("x", "y", "width", "height")
    found = [_number(slide.properties.get(f"openslide.bounds-{n}")) for n in names]
    if any(v is None for v in found):
        return (0, 0, *slide.dimensions)
    x, y, width, height = (int(v) for v in found if v is not None)
    return x, y, width, height


def tile_corners(slide: Any, plan: TilePlan, overlap: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y (n) int64, upper-left corners in level-0 px of all whole tiles, line by line.

    overlap: px of a tile that it shares with its neighbour.
    """
    left, top, width, height = scanned_area(slide)
    step, downsample = (plan.size - overlap) * plan.scale, slide.level_downsamples[plan.level]
    axes = []
    for start, length, pixels in zip((left, top), (width, height), slide.level_dimensions[plan.level], strict=True):
        room = min(start + length, pixels * downsample) - start  # a level loses the px that do not fill one of its own
        count = max(0, math.floor((room - plan.extent) / step + 1e-9) + 1)
        axes.append(start + np.floor(np.arange(count) * step + 1e-6).astype(np.int64))
    y, x = np.meshgrid(axes[1], axes[0], indexing="ij")
    return x.ravel(), y.ravel()
