"""Overlays for slide viewers: GeoJSON objects as QuPath reads them, and OME-TIFF pyramids."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from histoxai.core.errors import UsageError
from histoxai.report.figures.figures import LINES

LEAST = 16  # pixels of a region; smaller ones are specks that no viewer shows
_TILE = 256


@dataclass(frozen=True)
class Frame:
    """Where a patch lies on its slide: corner in px of the full resolution, and how many of them one of its px is."""

    x: float
    y: float
    scale: float

    def box(self, width: int, height: int) -> list[list[float]]:
        """The outline of a patch of that size."""
        corners = ((0, 0), (width, 0), (width, height), (0, height), (0, 0))
        return [[round(self.x + a * self.scale, 2), round(self.y + b * self.scale, 2)] for a, b in corners]


def require() -> None:
    """Raise UsageError where what draws regions, or writes TIFF, is not installed."""
    if missing := [name for name in ("shapely", "tifffile") if find_spec(name) is None]:
        raise UsageError(
            f"--export: slide overlays need {' and '.join(missing)}: pip install 'histoxai[slides]', or leave them out "
            "with --no-slides"
        )


def stems(names: Sequence[str]) -> list[str]:
    """File names of slides, safe and unlike each other."""
    made: dict[str, str] = {}
    for name in names:
        safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "slide"
        stem, number = safe, 1
        while stem.lower() in made:  # some file systems know no capitals
            number += 1
            stem = f"{safe}-{number}"
        made[stem.lower()] = stem
    return list(made.values())


def colour_of(code: int) -> list[int]:
    """Of a class by its number, as three bytes."""
    return [round(255 * v) for v in to_rgb(LINES[code % len(LINES)])]


def tile(
    key: str, name: str, box: Sequence[Sequence[float]], kind: str, colour: Sequence[int], measured: Mapping[str, float]
) -> dict[str, Any]:
    """A patch as a QuPath tile with its class and measurements."""
    return _feature(key, {"type": "Polygon", "coordinates": [box]}, "tile", kind, colour) | {
        "properties": {
            "objectType": "tile",
            "name": name,
            "classification": {"name": kind, "color": list(colour)},
            "measurements": dict(measured),
        }
    }


def region(key: str, plane: np.ndarray, frame: Frame, kind: str, colour: Sequence[int]) -> list[dict[str, Any]]:
    """The true pixels of a plane (H, W) bool as one QuPath detection; nothing where no region has LEAST pixels.

    Outlines run along the edges of pixels, exactly.
    """
    import shapely

    plane = _without_specks(plane)
    if not plane.any():
        return []
    steps = np.diff(np.pad(plane, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (row, start), (_, end) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    whole = shapely.union_all(shapely.box(start, row, end, row + 1))
    parts = [whole] if whole.geom_type == "Polygon" else list(whole.geoms)
    found = [[_ring(r, frame) for r in (p.exterior, *p.interiors)] for p in parts]
    return [_feature(key, {"type": "MultiPolygon", "coordinates": found}, "detection", kind, colour)]


def _without_specks(plane: np.ndarray) -> np.ndarray:
    from scipy.ndimage import label

    numbers, _ = label(plane)
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    return (sizes >= LEAST)[numbers]


def _ring(ring: Any, frame: Frame) -> list[list[float]]:
    points = np.asarray(ring.simplify(0).coords)
    return np.round(points * frame.scale + [frame.x, frame.y], 2).tolist()


def _feature(key: str, geometry: Mapping[str, Any], what: str, kind: str, colour: Sequence[int]) -> dict[str, Any]:
    about = {"objectType": what, "classification": {"name": kind, "color": list(colour)}}
    return {"type": "Feature", "id": key, "geometry": dict(geometry), "properties": about}


def ome_tiff(stack: np.ndarray, channels: Sequence[str], mpp: float | None, key: str) -> bytes:
    """A pyramid of channels (C, H, W) uint8 as an OME-TIFF; mpp: micrometres per pixel, None unknown; key: its UUID.

    The same bytes every time.
    """
    import cv2
    import tifffile

    levels = [stack]
    while max(levels[-1].shape[1:]) > 2 * _TILE:
        smaller = [max(1, n // 2) for n in levels[-1].shape[1:]]
        halves = [cv2.resize(c, (smaller[1], smaller[0]), interpolation=cv2.INTER_AREA) for c in levels[-1]]
        levels.append(np.stack(halves))
    about: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": list(channels)}, "UUID": f"urn:uuid:{key}"}
    if mpp is not None:
        about |= {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
    how: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "tile": (_TILE, _TILE)}
    out = io.BytesIO()
    with tifffile.TiffWriter(out, ome=True, bigtiff=True) as file:
        file.write(stack, subifds=len(levels) - 1, metadata=about, software="histoxai", **how)
        for level in levels[1:]:
            file.write(level, subfiletype=1, **how)
    return out.getvalue()
