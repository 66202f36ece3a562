"""Slide annotations as polygons: GeoJSON as QuPath exports it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.base import clean_name
from histoxai.ingest.nesting import Outline, cut_by_inner

_POLYGON_TYPES = ("Polygon", "MultiPolygon")
_REGION = "Region*"  # where QuPath works; other classes with * cut their area out of what they lie in
_DETECTIONS = {"cell", "detection", "tile"}
CELL_NOTES = {
    "nucleus": "cells counted by their nucleus (--cells cell: by all of it)",
    "cell": "cells counted by all of it (--cells nucleus: by their nucleus)",
}
_EXPORT = "export the annotations again (QuPath: File > Export objects as GeoJSON)"


class Polygons:
    """The polygons of a GeoJSON file by class, clipped to the slide.

    area: x, y, width, height of the scanned area in level-0 px. QuPath shows it as the image, and counts coordinates
    from its corner. cells: the outline of a cell that counts, nucleus or cell. named: classes that the user names.
    Where annotations of several classes lie in one another, the innermost counts. names: the classes. notes: counts of
    polygons that cannot be used, or are changed, by reason.
    Source: RFC 7946; QuPath's `properties.classification.name`.
    """

    def __init__(
        self, path: Path, area: tuple[int, int, int, int], cells: str = "nucleus", named: Collection[str] = ()
    ) -> None:
        self._shapely = _import_shapely()
        self._cells, self._named = cells, frozenset(named)
        self.notes = Counter[str]()
        outlines = [o for n, f in enumerate(read_features(path)) if (o := self._read_outline(path, n, f))]
        labels = {o.name for o in outlines if not self._is_ignored(o.name)}
        if not labels:
            raise InputRefused(f"{path}: holds no polygon with a class{self._reasons()}; {_EXPORT}")
        shapes = cut_by_inner(self._shapely, outlines, self.notes)
        clipped = self._clip(path, shapes, area)
        self._shapes = {name: polygons for name, polygons in clipped.items() if name in labels}
        hidden = {name for name in labels if not shapes[name]}  # behind annotations inside them
        self._unions: dict[tuple[str, ...], np.ndarray] = {}
        self._edge_tables: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray, Any]] = {}
        self.names = sorted({*self._shapes, *hidden})

    def _reasons(self) -> str:
        return f" ({', '.join(f'{n} {reason}' for reason, n in (+self.notes).items())})" if +self.notes else ""

    def _is_ignored(self, name: str) -> bool:
        """Return whether a class labels nothing: QuPath's classes with `*`, unless the user names them."""
        return name.endswith("*") and name not in self._named

    def _geometry(self, feature: dict[str, Any]) -> Any:
        """Return the outline that counts: of a cell its nucleus, where there is one, or all of it (`cells`)."""
        nucleus = feature.get("nucleusGeometry")
        return nucleus if self._cells == "nucleus" and isinstance(nucleus, dict) else feature.get("geometry")

    def _note_class(self, name: str, feature: dict[str, Any]) -> None:
        """Count features whose class labels nothing, and cells by the outline that counts."""
        if self._is_ignored(name):
            self.notes[f"of {name}, which labels nothing unless it is named (--classes)"] += 1
        elif isinstance(feature.get("nucleusGeometry"), dict):
            self.notes[CELL_NOTES[self._cells]] += 1
        elif object_type(feature) == "cell" and self._cells == "nucleus":
            self.notes["cells without a nucleus, counted whole"] += 1

    def _read_outline(self, path: Path, number: int, feature: dict[str, Any]) -> Outline | None:
        """Return class and polygon of a feature.

        None where it has no class, no area, is no polygon, or is a region that QuPath works in and labels nothing.
        """
        shapely, geometry = self._shapely, self._geometry(feature)
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        if kind not in _POLYGON_TYPES:
            self.notes[f"of kind {kind or 'none'}"] += 1
            return None
        name = class_of(feature)
        if name is None:
            self.notes["without a class"] += 1
            return None
        self._note_class(name, feature)
        if name == _REGION and self._is_ignored(name):
            return None
        try:
            with np.errstate(invalid="ignore"):  # numbers that are not finite are refused below
                shape = shapely.force_2d(shapely.geometry.shape(geometry))
        except Exception as error:  # shapely and numpy raise many kinds for malformed geometry
            raise InputRefused(f"{path}: feature {number} is not a {kind} ({error}); {_EXPORT}") from error
        if shape.is_empty or not np.isfinite(shapely.get_coordinates(shape)).all():
            raise InputRefused(f"{path}: feature {number} has no or no finite coordinates; {_EXPORT}")
        is_broken = not shape.is_valid
        if is_broken:
            pieces = shapely.get_parts(shapely.make_valid(shape))
            shape = shapely.union_all([p for p in pieces if p.geom_type in _POLYGON_TYPES])
        if shape.area == 0:
            self.notes["without an area"] += 1
            return None
        self.notes["that crossed themselves, repaired"] += is_broken
        return Outline(name, shape, object_type(feature) in _DETECTIONS)

    def _clip(self, path: Path, shapes: dict[str, list[Any]], area: tuple[int, int, int, int]) -> dict[str, list[Any]]:
        """Move polygons to level-0 px and cut them to the scanned area."""
        shapely = self._shapely
        left, top, width, height = area
        slide, clipped = shapely.box(left, top, left + width, top + height), {}
        for name, polygons in shapes.items():
            moved = [shapely.transform(p, lambda xy: np.add(xy, (left, top))) for p in polygons]
            inside = [s if slide.covers(s) else slide.intersection(s) for s in moved]
            self.notes["that leave the slide, cut"] += sum(
                i is not s and i.area > 0 for i, s in zip(inside, moved, strict=True)
            )
            self.notes["outside of the slide"] += sum(i.area == 0 for i in inside)
            if remaining := [i for i in inside if i.area > 0]:
                clipped[name] = remaining
        self.notes = +self.notes  # without zeros
        if not clipped and any(shapes.values()):
            raise InputRefused(
                f"{path}: no annotation lies on the slide ({width} x {height} px); is it of another slide, or in "
                f"other units than px of the full resolution?"
            )
        return clipped

    def _union(self, names: Sequence[str]) -> np.ndarray:
        """Return disjoint polygons that cover all areas of these classes."""
        key = tuple(names)
        if key not in self._unions:
            shapely = self._shapely
            union = shapely.union_all([s for n in key for s in self._shapes.get(n, [])])
            pieces = shapely.get_parts(union)
            self._unions[key] = np.array([p for p in pieces if p.geom_type == "Polygon"], object)
            shapely.prepare(self._unions[key])
        return self._unions[key]

    def shares(self, names: Sequence[str], x: np.ndarray, y: np.ndarray, extent: float) -> np.ndarray:
        """Return the share of each tile that these classes cover together, as `Annotation`, by exact areas."""
        shapely, parts = self._shapely, self._union(names)
        covered = np.zeros(len(x))
        boxes = shapely.box(x, y, x + extent, y + extent)
        tree = shapely.STRtree(boxes)
        _, inside = tree.query(parts, predicate="covers")
        covered[inside] = 1.0  # most tiles of a large region, which need no intersection
        part, tile = tree.query(parts, predicate="intersects")
        cut = covered[tile] < 1
        np.add.at(
            covered, tile[cut], shapely.area(shapely.intersection(parts[part[cut]], boxes[tile[cut]])) / extent**2
        )
        return np.minimum(covered, 1.0)

    def plane(self, names: Sequence[str], x: float, y: float, extent: float, size: int) -> np.ndarray:
        """Return (size, size) uint8 in {0, 1}: the pixels of a tile whose centre lies in one of these classes."""
        edges = self._edges(names, x, y, extent) - (x, y, x, y)
        x0, y0, x1, y1 = (edges * (size / extent)).T
        near = (np.minimum(y0, y1) < size) & (np.maximum(y0, y1) > 0)
        x0, y0, x1, y1 = x0[near], y0[near], x1[near], y1[near]
        # Even-odd rule: a pixel is inside where an odd number of edges cross its line on the left of its centre.
        first, last = (
            np.clip(np.ceil(v - 0.5), 0, size).astype(np.int64) for v in (np.minimum(y0, y1), np.maximum(y0, y1))
        )
        count = last - first
        edge = np.repeat(np.arange(len(count)), count)
        line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        crossing = x0[edge] + (line + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        column = np.clip(np.ceil(crossing - 0.5), 0, size).astype(np.int64)
        crossed = np.zeros((size, size + 1), np.int64)
        np.add.at(crossed, (line, column), 1)
        return (crossed.cumsum(axis=1)[:, :size] & 1).astype(np.uint8)

    def _edges(self, names: Sequence[str], x: float, y: float, extent: float) -> np.ndarray:
        """Return (m, 4): x, y, x, y of all edges of the polygons that reach into a tile."""
        shapely, key = self._shapely, tuple(names)
        if key not in self._edge_tables:
            parts = self._union(names)
            rings, owner = shapely.get_rings(parts, return_index=True)
            points, ring = shapely.get_coordinates(rings, return_index=True)
            same = ring[1:] == ring[:-1]
            edges = np.concatenate([points[:-1], points[1:]], axis=1)[same]
            self._edge_tables[key] = edges, owner[ring[:-1][same]] if len(points) else owner, shapely.STRtree(parts)
        edges, owners, tree = self._edge_tables[key]
        touching = np.sort(tree.query(shapely.box(x, y, x + extent, y + extent), predicate="intersects"))
        spans = np.searchsorted(owners, np.stack([touching, touching + 1]))
        return np.concatenate([np.empty((0, 4)), *(edges[a:b] for a, b in spans.T)])


def _import_shapely() -> Any:
    try:
        import shapely
    except ImportError as error:
        raise InputRefused(f"annotations need shapely ({error}); `pip install 'histoxai[slides]'`") from error
    return shapely


def read_features(path: Path) -> list[dict[str, Any]]:
    """Read the features of a GeoJSON file: a collection, a list, or a single one.

    Raises InputRefused for a file that is not GeoJSON, or has no feature.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputRefused(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"{path}: is not GeoJSON ({error}); {_EXPORT}") from error
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list) or not all(isinstance(f, dict) and f.get("type") == "Feature" for f in content):
        raise InputRefused(f"{path}: is JSON but holds no GeoJSON features; {_EXPORT}")
    if not content:
        raise InputRefused(f"{path}: holds no annotation; {_EXPORT}")
    return content


def class_of(feature: dict[str, Any]) -> str | None:
    """Return the class that QuPath gave a feature, or None."""
    properties = feature.get("properties")
    value = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(value, dict):
        names = value.get("names")
        value = value.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else None)
    return clean_name(value) or None if isinstance(value, str) else None


def object_type(feature: dict[str, Any]) -> str:
    """Return the kind of object that QuPath exported, such as annotation or cell; empty where it says none."""
    properties = feature.get("properties")
    kind = properties.get("objectType") if isinstance(properties, dict) else None
    if isinstance(kind, str):
        return kind.lower()
    older = str(feature.get("id"))  # PathCellObject
    return older.removeprefix("Path").removesuffix("Object").lower() if older.startswith("Path") else ""
