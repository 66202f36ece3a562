"""Encode overlays for slide viewers: GeoJSON objects as QuPath reads them, and OME-TIFF pyramids."""

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
from histoxai.report.figures.style import LINE_COLOURS

MIN_REGION_PIXELS = 16
_TIFF_TILE = 256  # px
GeoJson = dict[str, Any]


@dataclass(frozen=True)
class PatchFrame:
    """Where a patch lies on its slide: corner in level-0 px, and how many level-0 px one of its px is."""

    x: float
    y: float
    scale: float

    def outline(self, width: int, height: int) -> list[list[float]]:
        """Return the closed outline of a patch of that size in level-0 px."""
        corners = ((0, 0), (width, 0), (width, height), (0, height), (0, 0))
        return [[round(self.x + a * self.scale, 2), round(self.y + b * self.scale, 2)] for a, b in corners]


@dataclass(frozen=True)
class Classification:
    """A QuPath classification: its name, and its colour as three bytes."""

    name: str
    colour: Sequence[int]

    @classmethod
    def of_class(cls, code: int, name: str) -> Classification:
        """Return the classification of a class by its code and name."""
        return cls(name, [round(255 * v) for v in to_rgb(LINE_COLOURS[code % len(LINE_COLOURS)])])

    def as_json(self) -> GeoJson:
        """Return the classification as QuPath reads it."""
        return {"name": self.name, "color": list(self.colour)}


def require_libraries() -> None:
    """Raise UsageError if shapely or tifffile, which overlays need, is not installed."""
    if missing := [name for name in ("shapely", "tifffile") if find_spec(name) is None]:
        raise UsageError(
            f"--export: slide overlays need {' and '.join(missing)}: pip install 'histoxai[slides]', or leave them out "
            "with --no-slides"
        )


def file_stems(names: Sequence[str]) -> list[str]:
    """Return a safe and unique file name without ending for each name."""
    stems: dict[str, str] = {}
    for name in names:
        safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "slide"
        stem, number = safe, 1
        while stem.lower() in stems:  # some file systems ignore case
            number += 1
            stem = f"{safe}-{number}"
        stems[stem.lower()] = stem
    return list(stems.values())


def tile(
    key: str,
    name: str,
    outline: Sequence[Sequence[float]],
    classification: Classification,
    measurements: Mapping[str, float],
) -> GeoJson:
    """Return a patch as a QuPath tile; key: its UUID."""
    properties = {
        "objectType": "tile",
        "name": name,
        "classification": classification.as_json(),
        "measurements": dict(measurements),
    }
    return _feature(key, {"type": "Polygon", "coordinates": [outline]}, properties)


def region(key: str, plane: np.ndarray, frame: PatchFrame, classification: Classification) -> list[GeoJson]:
    """Return the true pixels of a plane (H, W) bool as one QuPath detection, or nothing.

    Outlines follow the edges of pixels exactly. Regions below MIN_REGION_PIXELS are left out.
    """
    import shapely

    plane = _without_specks(plane)
    if not plane.any():
        return []
    steps = np.diff(np.pad(plane, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (row, start), (_, end) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    union = shapely.union_all(shapely.box(start, row, end, row + 1))
    polygons = [union] if union.geom_type == "Polygon" else list(union.geoms)
    rings = [[_ring(r, frame) for r in (p.exterior, *p.interiors)] for p in polygons]
    properties = {"objectType": "detection", "classification": classification.as_json()}
    return [_feature(key, {"type": "MultiPolygon", "coordinates": rings}, properties)]


def _without_specks(plane: np.ndarray) -> np.ndarray:
    from scipy.ndimage import label

    numbers, _ = label(plane)
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    return (sizes >= MIN_REGION_PIXELS)[numbers]


def _ring(ring: Any, frame: PatchFrame) -> list[list[float]]:
    points = np.asarray(ring.simplify(0).coords)
    return np.round(points * frame.scale + [frame.x, frame.y], 2).tolist()


def _feature(key: str, geometry: GeoJson, properties: GeoJson) -> GeoJson:
    return {"type": "Feature", "id": key, "geometry": geometry, "properties": properties}


def ome_tiff(stack: np.ndarray, channels: Sequence[str], mpp: float | None, key: str) -> bytes:
    """Encode channels (C, H, W) uint8 as an OME-TIFF pyramid, the same bytes every time.

    mpp: micrometres per pixel, None if unknown. key: its UUID.
    """
    import tifffile

    levels = _pyramid(stack)
    about: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": list(channels)}, "UUID": f"urn:uuid:{key}"}
    if mpp is not None:
        about |= {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
    options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "tile": (_TIFF_TILE, _TIFF_TILE)}
    out = io.BytesIO()
    with tifffile.TiffWriter(out, ome=True, bigtiff=True) as file:
        file.write(stack, subifds=len(levels) - 1, metadata=about, software="histoxai", **options)
        for level in levels[1:]:
            file.write(level, subfiletype=1, **options)
    return out.getvalue()


def _pyramid(stack: np.ndarray) -> list[np.ndarray]:
    # the stack and its halves, until one is at most two tiles wide and high
    import cv2

    levels = [stack]
    while max(levels[-1].shape[1:]) > 2 * _TIFF_TILE:
        height, width = (max(1, n // 2) for n in levels[-1].shape[1:])
        halves = [cv2.resize(c, (width, height), interpolation=cv2.INTER_AREA) for c in levels[-1]]
        levels.append(np.stack(halves))
    return levels
