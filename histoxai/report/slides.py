"""Explained patches back on the slides that they were cut from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histoxai.core.errors import HistoxaiError
from histoxai.core.progress import Progress
from histoxai.ingest.formats.base import identifier
from histoxai.ingest.slide_files import SLIDES, TIFFS, iterate_files, open_slide
from histoxai.ingest.slide_grid import scanned_area
from histoxai.ingest.tissue import thumbnail
from histoxai.report.figures.figures import slide_sheet
from histoxai.report.figures.pool import Gallery
from histoxai.report.lineage import Lineage
from histoxai.store.patches import Patches
from histoxai.store.storage.s3_mirror import locate_parent

SHOWN = 4  # slides on a page
MOST = 1200  # patches of them
SIDE = 700  # pixels of a slide on the page, at most


@dataclass(frozen=True)
class Slide:
    """A slide and its explained patches.

    rows: positions among the scored patches; x, y, extent, turns: of each its corner and side in px of the slide's full
    resolution, counted from the corner that viewers count from, and the quarter turns by which it was copied. frame: x,
    y, width, height of what viewers show, in level-0 px. mpp: micrometres per px of patches, None unknown. file: the
    slide itself, None where it is gone, or another by now.
    """

    name: str
    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray
    extent: np.ndarray
    turns: np.ndarray
    frame: tuple[int, int, int, int]
    mpp: float | None
    file: Path | None

    @property
    def width(self) -> int:
        return self.frame[2]

    @property
    def height(self) -> int:
        return self.frame[3]


@dataclass(frozen=True)
class Places:
    """Where patches lie: for every scored patch its slide by number, place and turns; which slides there are."""

    names: list[str]
    which: np.ndarray
    x: np.ndarray
    y: np.ndarray
    extent: np.ndarray
    turns: np.ndarray


def places_of(lineage: Lineage) -> Places | None:
    """Where the scored patches lie; None where they do not know. Of a patch and its turned copies one is left."""
    patches, rows = lineage.patches, lineage.column("row").astype(np.int64)
    columns = [patches.column(k) for k in ("frame", "x", "y", "extent")]
    if any(c is None for c in columns):
        return None
    frame, x, y, extent = (c[rows] for c in columns if c is not None)
    turned = patches.column("rotation")
    turns = np.zeros(len(rows), np.int64) if turned is None else turned[rows].astype(np.int64)
    names, which = np.unique(frame, return_inverse=True)
    order = np.argsort(turns, kind="stable")
    _, first = np.unique(np.column_stack([which, x, y, extent])[order], axis=0, return_index=True)
    kept = np.full(len(rows), -1)
    kept[order[first]] = which[order[first]]
    if (blank := np.flatnonzero(names == "")).size:
        kept[kept == blank[0]] = -1
    return Places(names.tolist(), kept, x, y, extent, turns) if (kept >= 0).any() else None


def slides_of(lineage: Lineage, places: Places | None, most: int | None = None) -> list[Slide]:
    """Slides, those with most explained patches first; none where patches do not know their place."""
    if places is None:
        return []
    counts = np.bincount(places.which[places.which >= 0], minlength=len(places.names))
    chosen = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]][:most]
    source = _source(lineage.patches)
    files = {} if source is None else _files(source, {places.names[k] for k in chosen})
    facts = {} if source is None else source.store.header["settings"].get("slides", {})
    return [_slide(k, lineage, places, files, facts) for k in chosen]


def _slide(
    number: int, lineage: Lineage, places: Places, files: Mapping[str, Path], facts: Mapping[str, Mapping[str, Any]]
) -> Slide:
    name, mine = places.names[number], np.flatnonzero(places.which == number)
    x, y, extent = places.x[mine], places.y[mine], places.extent[mine]
    across = lineage.patches.size[0] / lineage.patches.size[1]
    right, bottom = float((x + extent).max()), float((y + extent * across).max())
    file = files.get(name)
    frame = None if file is None else _frame(file)
    if frame is None or right > frame[0] + frame[2] + 1 or bottom > frame[1] + frame[3] + 1:
        file, frame = None, (0, 0, math.ceil(right), math.ceil(bottom))
    mpp = facts.get(name, {}).get("tile_mpp", lineage.patches.mpp)
    return Slide(name, mine, x - frame[0], y - frame[1], extent, places.turns[mine], frame, mpp, file)


def _source(patches: Patches) -> Patches | None:
    # the store that ingest made, which names the slides
    try:
        while "patches" in patches.store.header["parents"]:
            patches = Patches(locate_parent(patches.path, patches.store.header["parents"]["patches"]["path"]))
    except (HistoxaiError, OSError):
        return None
    return patches


def _files(source: Patches, names: set[str]) -> dict[str, Path]:
    # The slides themselves, where they still are. A label mask may lie beside a slide, under its name.
    try:
        root = locate_parent(source.path, source.store.header["parents"]["source"]["path"])
        if root.is_file():
            return {identifier(root.stem): root}
        found: dict[str, list[Path]] = {}
        for path in iterate_files(root, SLIDES | TIFFS):
            name = identifier(*path.relative_to(root).parts[:-1], path.stem)
            if name in names:
                found.setdefault(name, []).append(path)
    except (HistoxaiError, KeyError, OSError):
        return {}
    best = {name: [p for p in paths if p.suffix.lower() in SLIDES] or paths for name, paths in found.items()}
    return {name: paths[0] for name, paths in best.items() if len(paths) == 1}


def _frame(path: Path) -> tuple[int, int, int, int] | None:
    try:
        with open_slide(path) as slide:
            return scanned_area(slide)
    except HistoxaiError:
        return None


def _thumbnail(slide: Slide, lineage: Lineage, size: tuple[int, int]) -> np.ndarray:
    # (height, width, 3) uint8: the slide, or else what the explained patches show of it
    if slide.file is not None:
        try:
            with open_slide(slide.file) as opened:
                return thumbnail(opened, slide.file, slide.frame, size)
        except HistoxaiError:  # damaged since
            pass
    picture = np.full((size[1], size[0], 3), 255, np.uint8)
    for k, row in enumerate(slide.rows[:MOST].tolist()):
        image = np.rot90(lineage.pictures([row])[0][0], -int(slide.turns[k]))
        put(picture, image, (slide.x[k], slide.y[k], slide.extent[k]), size[0] / slide.width)
    return picture


def put(canvas: np.ndarray, plane: np.ndarray, place: tuple[float, float, float], scale: float) -> None:
    """Paint a patch (H, W, ...) onto a canvas of `scale` px per px of the slide; place: x, y and side in px of that."""
    x, y, side = place
    left, top = round(x * scale), round(y * scale)
    right = max(left + 1, round((x + side) * scale))
    bottom = max(top + 1, round((y + side * plane.shape[0] / plane.shape[1]) * scale))
    if right <= 0 or bottom <= 0:
        return
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
        yield np.rot90(lineage.binary([int(slide.rows[k])])[0].transpose(1, 2, 0), -int(slide.turns[k]))


def shown(
    slides: Sequence[Slide], lineage: Lineage, colours: str, gallery: Gallery, progress: Progress
) -> list[dict[str, Any]]:
    """The page's figures of slides: their thumbnail with the patches, masks, and each method's maps stitched."""
    methods = lineage.scores.header["axes"]["method"]
    prediction, label = lineage.column("prediction"), lineage.column("label")
    left, made = MOST, []
    progress.start("slides", len(slides))
    for slide in slides:
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
        tissue = _thumbnail(slide, lineage, size)
        picture = gallery.add(f"slide-{slide.name}", slide_sheet, tissue, boxes, aspect, masks, maps, colours)
        some = "" if len(which) == len(slide.rows) else f"{len(which):,} of "
        words = f"{slide.name}: {some}{len(slide.rows):,} explained patches"
        made.append({"name": slide.name, "png": picture, "words": words})
        progress.advance()
    progress.stop()
    return made
