"""Nested annotations: the innermost one counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_INSIDE = 0.95  # share of an annotation in another that makes it an inner one: outlines are drawn by hand


class Outline(NamedTuple):
    """A polygon with a class. is_detection: a cell or another object that QuPath found, and nobody drew."""

    name: str
    shape: Any
    is_detection: bool


def cut_by_inner(shapely: Any, outlines: Sequence[Outline], notes: Counter[str]) -> dict[str, list[Any]]:
    """Return the polygons by class, without the area of annotations of other classes that lie in them.

    An annotation lies in a class where the larger polygons of that class cover 95 % of it. Detections cut nothing.
    Polygons that are wholly cut away are left out, so that a class may have none. `notes` counts polygons that are cut.
    """
    shapes = np.array([outline.shape for outline in outlines], object)
    names = np.array([outline.name for outline in outlines])
    inner_of = _inner_annotations(shapely, outlines, shapes, names)
    by_class: dict[str, list[Any]] = defaultdict(list)
    for k, outline in enumerate(outlines):
        shape = outline.shape
        if inner := inner_of.get(k):
            notes["cut by annotations inside them: the innermost counts"] += 1
            shape = shapely.difference(shape, shapely.union_all(shapes[inner]))
            polygons = [p for p in shapely.get_parts(shape) if p.geom_type == "Polygon" and p.area > 0]
            shape = shapely.union_all(polygons)
        by_class[outline.name] += [] if shape.is_empty else [shape]
    return dict(by_class)


def _inner_annotations(
    shapely: Any, outlines: Sequence[Outline], shapes: np.ndarray, names: np.ndarray
) -> dict[int, list[int]]:
    """Return the annotations that lie in each polygon, as indices."""
    drawn = np.flatnonzero([not outline.is_detection for outline in outlines])
    if len(set(names.tolist())) < 2 or not len(drawn):
        return {}
    areas = shapely.area(shapes)
    inner, outer = shapely.STRtree(shapes).query(shapes[drawn], predicate="intersects")
    inner = drawn[inner]
    is_pair = (names[inner] != names[outer]) & (areas[inner] < areas[outer])
    inner, outer = inner[is_pair], outer[is_pair]
    common = shapely.area(shapely.intersection(shapes[inner], shapes[outer]))
    covered: dict[tuple[int, str], float] = defaultdict(float)
    keys = [(q, str(names[p])) for q, p in zip(inner.tolist(), outer.tolist(), strict=True)]
    for key, area in zip(keys, common.tolist(), strict=True):
        covered[key] += area
    inner_of: dict[int, list[int]] = defaultdict(list)
    for key, p, area in zip(keys, outer.tolist(), common.tolist(), strict=True):
        if area > 0 and covered[key] >= _INSIDE * areas[key[0]]:
            inner_of[p].append(key[0])
    return inner_of
