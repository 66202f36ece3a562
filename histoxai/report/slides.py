"""Find the slides that explained patches were cut from, and put patches, masks and maps back in place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histoxai.core.errors import HistoxaiError
from histoxai.ingest.formats.base import identifier
from histoxai.ingest.slide_files import SLIDES, TIFFS, iterate_files, open_slide
from histoxai.ingest.slide_grid import scanned_area
from histoxai.report.lineage import Lineage
from histoxai.store.patches import Patches
from histoxai.store.storage.s3_mirror import locate_parent


@dataclass(frozen=True)
class Slide:
    """A slide and its m explained patches.

    rows (m,): positions among the scored patches. x, y, extent (m,): corner and width of each patch in px of the full
    resolution, counted from the corner that viewers count from. turns (m,): quarter turns of the stored copy. frame:
    x, y, width, height of what viewers show, in level-0 px. mpp: micrometres per px of patches, None if unknown. file:
    the slide's file, None if it is missing or no longer fits.
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
        """Width in level-0 px."""
        return self.frame[2]

    @property
    def height(self) -> int:
        """Height in level-0 px."""
        return self.frame[3]

    def square(self, k: int) -> tuple[float, float, float]:
        """Corner x, y and width of the k-th patch in level-0 px."""
        return float(self.x[k]), float(self.y[k]), float(self.extent[k])


@dataclass(frozen=True)
class PatchPositions:
    """Where the scored patches lie: which (n,) is an index into `names`, -1 for none; the rest as in `Slide`."""

    names: list[str]
    which: np.ndarray
    x: np.ndarray
    y: np.ndarray
    extent: np.ndarray
    turns: np.ndarray

    @property
    def slides(self) -> int:
        """How many slides have explained patches."""
        return len(set(self.which.tolist()) - {-1})


def patch_positions(lineage: Lineage) -> PatchPositions | None:
    """Return where the scored patches lie, of rotated copies the least turned one; None if the store does not know."""
    patches, rows = lineage.patches, lineage.column("row").astype(np.int64)
    columns = [patches.column(k) for k in ("frame", "x", "y", "extent")]
    if any(c is None for c in columns):
        return None
    frame, x, y, extent = (c[rows] for c in columns if c is not None)
    rotation = patches.column("rotation")
    turns = np.zeros(len(rows), np.int64) if rotation is None else rotation[rows].astype(np.int64)
    names, which = np.unique(frame, return_inverse=True)
    order = np.argsort(turns, kind="stable")
    _, first = np.unique(np.column_stack([which, x, y, extent])[order], axis=0, return_index=True)
    slide_of_patch = np.full(len(rows), -1)
    slide_of_patch[order[first]] = which[order[first]]
    if (unnamed := np.flatnonzero(names == "")).size:
        slide_of_patch[slide_of_patch == unnamed[0]] = -1
    return PatchPositions(names.tolist(), slide_of_patch, x, y, extent, turns) if (slide_of_patch >= 0).any() else None


def find_slides(lineage: Lineage, positions: PatchPositions | None, most: int | None = None) -> list[Slide]:
    """Return the slides, those with most explained patches first, at most `most`; none without positions."""
    if positions is None:
        return []
    counts = np.bincount(positions.which[positions.which >= 0], minlength=len(positions.names))
    chosen = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]][:most]
    source = _ingested(lineage.patches)
    files = {} if source is None else _slide_files(source, {positions.names[k] for k in chosen})
    facts = {} if source is None else source.store.header["settings"].get("slides", {})
    return [_slide(lineage, positions, k, files, facts) for k in chosen]


def _slide(
    lineage: Lineage,
    positions: PatchPositions,
    number: int,
    files: Mapping[str, Path],
    facts: Mapping[str, Mapping[str, Any]],
) -> Slide:
    name, rows = positions.names[number], np.flatnonzero(positions.which == number)
    x, y, extent = positions.x[rows], positions.y[rows], positions.extent[rows]
    aspect = lineage.patches.size[0] / lineage.patches.size[1]
    right, bottom = float((x + extent).max()), float((y + extent * aspect).max())
    file = files.get(name)
    frame = None if file is None else _viewer_frame(file)
    if frame is None or right > frame[0] + frame[2] + 1 or bottom > frame[1] + frame[3] + 1:
        file, frame = None, (0, 0, math.ceil(right), math.ceil(bottom))
    mpp = facts.get(name, {}).get("tile_mpp", lineage.patches.mpp)
    return Slide(name, rows, x - frame[0], y - frame[1], extent, positions.turns[rows], frame, mpp, file)


def _ingested(patches: Patches) -> Patches | None:
    # the store written by `ingest`; its header names the slides
    try:
        while "patches" in patches.store.header["parents"]:
            patches = Patches(locate_parent(patches.path, patches.store.header["parents"]["patches"]["path"]))
    except (HistoxaiError, OSError):
        return None
    return patches


def _slide_files(source: Patches, names: set[str]) -> dict[str, Path]:
    # The slides that still exist. A label mask may lie beside a slide, under its name.
    try:
        root = locate_parent(source.path, source.store.header["parents"]["source"]["path"])
        if root.is_file():
            return {identifier(root.stem): root}
        candidates: dict[str, list[Path]] = {}
        for path in iterate_files(root, SLIDES | TIFFS):
            name = identifier(*path.relative_to(root).parts[:-1], path.stem)
            if name in names:
                candidates.setdefault(name, []).append(path)
    except (HistoxaiError, KeyError, OSError):
        return {}
    best = {name: [p for p in paths if p.suffix.lower() in SLIDES] or paths for name, paths in candidates.items()}
    return {name: paths[0] for name, paths in best.items() if len(paths) == 1}


def _viewer_frame(path: Path) -> tuple[int, int, int, int] | None:
    try:
        with open_slide(path) as slide:
            return scanned_area(slide)
    except HistoxaiError:
        return None


def paste(canvas: np.ndarray, plane: np.ndarray, square: tuple[float, float, float], scale: float) -> None:
    """Resize a patch (H, W, ...) and paste it onto a canvas of `scale` px per px of the slide.

    square: corner x, y and width of the patch in px of the slide. Pixels outside of the canvas are cut off.
    """
    x, y, width = square
    left, top = round(x * scale), round(y * scale)
    right = max(left + 1, round((x + width) * scale))
    bottom = max(top + 1, round((y + width * plane.shape[0] / plane.shape[1]) * scale))
    if right <= 0 or bottom <= 0:
        return
    interpolation = cv2.INTER_AREA if right - left < plane.shape[1] else cv2.INTER_NEAREST
    small = cv2.resize(plane, (right - left, bottom - top), interpolation=interpolation)
    inside = canvas[max(top, 0) : bottom, max(left, 0) : right]
    inside[:] = small[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]


def images_on(slide: Slide, lineage: Lineage, which: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield some of a slide's patches (H, W, 3) uint8 as they lie on it, rotated copies turned back."""
    for k in which:
        yield np.rot90(lineage.images([int(slide.rows[k])])[0], -int(slide.turns[k]))


def maps_on(slide: Slide, lineage: Lineage, method: str, which: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield rendered maps (H, W) float32 of some of a slide's patches as they lie on it."""
    for k in which:
        plane = lineage.rendered_maps(method, [int(slide.rows[k])])[0]
        yield np.rot90(plane, -int(slide.turns[k])).astype(np.float32)


def masks_on(slide: Slide, lineage: Lineage, which: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield masks (H, W, 2) bool, tumor and non-tumor, of some of a slide's patches as they lie on it."""
    for k in which:
        yield np.rot90(lineage.binary_masks([int(slide.rows[k])])[0].transpose(1, 2, 0), -int(slide.turns[k]))
