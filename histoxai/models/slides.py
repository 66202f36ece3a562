"""Explained patches back on the slides that they were cut from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histoxai.errors import HistoxaiError
from histoxai.models.lineage import Lineage
from histoxai.plots.figures import slide_sheet
from histoxai.plots.gallery import Gallery
from histoxai.progress import Progress
from histoxai.readers.slidefiles import find_slides, open_slide
from histoxai.store.mirror import find_parent
from histoxai.store.patches import Patches

SHOWN = 4  # slides on a page
MOST = 1200  # patches of them
SIDE = 700  # pixels of a slide on the page, at most


@dataclass(frozen=True)
class Slide:
    """A slide and its explained patches.

    rows: positions among the scored patches; x, y, extent, turns: of each its corner and side in the slide's full
    resolution, and the quarter turns by which it was copied. width, height: what the picture covers, in the same px.
    """

    name: str
    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray
    extent: np.ndarray
    turns: np.ndarray
    width: float
    height: float
    file: Path | None


def slides_of(lineage: Lineage) -> list[Slide]:
    """The slides of the scored patches, those with most patches first; none where patches do not know their place."""
    patches, rows = lineage.patches, lineage.column("row").astype(np.int64)
    columns = [patches.column(k) for k in ("frame", "x", "y", "extent")]
    if any(c is None for c in columns):
        return []
    frame, x, y, extent = (c for c in columns if c is not None)
    turned = patches.column("rotation")
    turns = np.zeros(len(patches), np.int64) if turned is None else turned.astype(np.int64)
    across = patches.size[0] / patches.size[1]
    files = _files(patches)
    made = []
    for name in sorted(set(frame[rows].tolist()) - {""}):
        whole, mine = frame == name, np.flatnonzero(frame[rows] == name)
        # of a patch and its turned copies one is enough
        mine = mine[np.argsort(turns[rows[mine]], kind="stable")]
        _, first = np.unique(np.column_stack([x[rows[mine]], y[rows[mine]]]), axis=0, return_index=True)
        mine = np.sort(mine[first])
        at = rows[mine]
        size = float((x[whole] + extent[whole]).max()), float((y[whole] + extent[whole] * across).max())
        file = files.get(name)
        if file is not None and (found := _dimensions(file)) is not None:
            size = float(found[0]), float(found[1])
        made.append(Slide(name, mine, x[at], y[at], extent[at], turns[at], *size, file))
    return sorted(made, key=lambda s: (-len(s.rows), s.name))


def _files(patches: Patches) -> dict[str, Path]:
    # the slides themselves, where they still are
    try:
        while "patches" in patches.store.header["parents"]:
            patches = Patches(find_parent(patches.path, patches.store.header["parents"]["patches"]["path"]))
        source = find_parent(patches.path, patches.store.header["parents"]["source"]["path"])
        return find_slides(source, lambda path: False)
    except (HistoxaiError, KeyError, OSError):
        return {}


def _dimensions(path: Path) -> tuple[int, int] | None:
    try:
        with open_slide(path) as slide:
            return slide.dimensions
    except HistoxaiError:
        return None


def _thumbnail(slide: Slide, lineage: Lineage, size: tuple[int, int]) -> np.ndarray:
    # (height, width, 3) uint8: the scanner's, or else what the store's patches show of it
    if slide.file is not None:
        try:
            with open_slide(slide.file) as opened:
                found = np.asarray(opened.get_thumbnail(size).convert("RGB"))
            return cv2.resize(found, size, interpolation=cv2.INTER_AREA)
        except (HistoxaiError, OSError):
            pass
    patches = lineage.patches
    frame, x, y, extent = (patches.store.read(k) for k in ("frame", "x", "y", "extent"))
    turned = patches.column("rotation")
    there = np.flatnonzero((frame == slide.name) & (turned == 0 if turned is not None else True))
    there = there[:: max(1, len(there) // 4000)]
    picture = np.full((size[1], size[0], 3), 255, np.uint8)
    for row in there.tolist():
        image = patches.read([row])[0]
        put(picture, image, (x[row], y[row], extent[row]), size[0] / slide.width)
    return picture


def put(canvas: np.ndarray, plane: np.ndarray, place: tuple[float, float, float], scale: float) -> None:
    """Paint a patch (H, W, ...) onto a canvas of `scale` px per px of the slide; place: x, y and side in px of that."""
    x, y, side = place
    left, top = round(x * scale), round(y * scale)
    right = max(left + 1, round((x + side) * scale))
    bottom = max(top + 1, round((y + side * plane.shape[0] / plane.shape[1]) * scale))
    how = cv2.INTER_AREA if right - left < plane.shape[1] else cv2.INTER_NEAREST
    small = cv2.resize(plane, (right - left, bottom - top), interpolation=how)
    there = canvas[max(top, 0) : bottom, max(left, 0) : right]
    there[:] = small[max(-top, 0) :, max(-left, 0) :][: there.shape[0], : there.shape[1]]


def planes_on(slide: Slide, lineage: Lineage, method: str, which: Sequence[int]) -> Iterator[np.ndarray]:
    """Rendered maps (H, W) float32 of some of a slide's patches as they lie on it, whatever way they were turned."""
    for k in which:
        plane = lineage.planes(method, [int(slide.rows[k])])[0]
        yield np.rot90(plane, -int(slide.turns[k])).astype(np.float32)


def masks_on(slide: Slide, lineage: Lineage, which: Sequence[int]) -> Iterator[np.ndarray]:
    """Masks (H, W, 2) bool, tumor and non-tumor, of some of a slide's patches as they lie on it."""
    for k in which:
        _, tumor, other = lineage.pictures([int(slide.rows[k])])
        yield np.rot90(np.dstack([tumor[0], other[0]]), -int(slide.turns[k]))


def shown(
    slides: Sequence[Slide], lineage: Lineage, colours: str, gallery: Gallery, progress: Progress
) -> list[dict[str, Any]]:
    """The page's figures of slides: their thumbnail with the patches, masks, and each method's maps stitched."""
    methods = lineage.scores.header["axes"]["method"]
    prediction, label = lineage.column("prediction"), lineage.column("label")
    left, made = MOST, []
    progress.start("slides", min(SHOWN, len(slides)))
    for slide in slides[:SHOWN]:
        if left <= 0:
            break
        which = list(range(len(slide.rows)))
        if len(which) > left:
            which = np.linspace(0, len(which) - 1, left).round().astype(np.int64).tolist()
        left -= len(which)
        scale = SIDE / max(slide.width, slide.height)
        size = max(1, round(slide.width * scale)), max(1, round(slide.height * scale))
        places = [(float(slide.x[k]), float(slide.y[k]), float(slide.extent[k])) for k in which]
        covered = np.zeros((size[1], size[0], 2), np.float32)
        for plane, place in zip(masks_on(slide, lineage, which), places, strict=True):
            put(covered, plane.astype(np.float32), place, scale)
        masks = np.where(covered[..., 0] >= 0.5, 1, np.where(covered[..., 1] >= 0.5, 2, 0)).astype(np.uint8)
        maps = {}
        for name in methods:
            maps[name] = np.full((size[1], size[0]), np.nan, np.float32)
            for plane, place in zip(planes_on(slide, lineage, name, which), places, strict=True):
                put(maps[name], plane, place, scale)
        right = [
            None if label[slide.rows[k]] < 0 else bool(label[slide.rows[k]] == prediction[slide.rows[k]]) for k in which
        ]
        boxes = [(x * scale, y * scale, s * scale, ok) for (x, y, s), ok in zip(places, right, strict=True)]
        aspect = lineage.patches.size[0] / lineage.patches.size[1]
        thumbnail = _thumbnail(slide, lineage, size)
        picture = gallery.add(f"slide-{slide.name}", slide_sheet, thumbnail, boxes, aspect, masks, maps, colours)
        some = "" if len(which) == len(slide.rows) else f"{len(which):,} of "
        words = f"{slide.name}: {some}{len(slide.rows):,} explained patches"
        made.append({"name": slide.name, "png": picture, "words": words})
        progress.advance()
    progress.stop()
    return made
