"""Find the tissue of a slide: its thumbnail, a tissue mask, and the share of tissue in each tile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histoxai.ingest.slide_files import read_region
from histoxai.ingest.slide_grid import TilePlan

_LONGEST = 4096  # px; the longer side of a thumbnail
_MPP = 4.0  # of a thumbnail, or finer for small tiles; colour shows tissue, single cells need not be seen
_PER_TILE = 32  # px of a thumbnail across a tile, at the least
_BLOCK = 2048  # px of a level that are read at once
_CHROMA = (14, 40)  # bounds of Otsu's threshold: glass varies by less than 14, tissue has more than 40


def slide_thumbnail(slide: Any, path: Path, plan: TilePlan) -> tuple[np.ndarray, tuple[float, float]]:
    """Return a thumbnail (h, w, 3) uint8 of the whole slide, and width and height of its px in level-0 px."""
    width, height = slide.dimensions
    scale = max(1.0, min(plan.extent / _PER_TILE, _MPP / plan.mpp), max(width, height) / _LONGEST)
    size = max(1, int(width / scale)), max(1, int(height / scale))
    return thumbnail(slide, path, (0, 0, width, height), size), (width / size[0], height / size[1])


def thumbnail(slide: Any, path: Path, area: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """Read an area of a slide as an image (height, width, 3) uint8 of `size` (width, height).

    area: x, y, width, height in level-0 px. It is read block by block, since a slide may have no small level.
    """
    left, top, width, height = area
    out = np.empty((size[1], size[0], 3), np.uint8)
    across, down = width / size[0], height / size[1]  # px of the thumbnail fill the slide, also at the far edges
    scale = min(across, down)
    level = slide.get_best_level_for_downsample(scale * 1.01)
    downsample = slide.level_downsamples[level]
    block = max(1, int(_BLOCK * downsample / max(across, down)))
    for y in range(0, out.shape[0], block):
        for x in range(0, out.shape[1], block):
            part = out[y : y + block, x : x + block]
            region = max(1, int(part.shape[1] * across / downsample)), max(1, int(part.shape[0] * down / downsample))
            corner = left + round(x * across), top + round(y * down)
            pixels = read_region(slide, path, corner, level, region)
            part[:] = cv2.resize(pixels, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_AREA)
    return out


def find_tissue(image: np.ndarray) -> np.ndarray:
    """Return the tissue (h, w) bool of a thumbnail (h, w, 3) uint8.

    Tissue has a chroma (largest minus smallest channel) above Otsu's threshold. Unlike HSV's saturation, chroma is not
    high in dark areas. The threshold stays between 14 and 40, so that neither a blank slide nor one without glass is
    halved. Pen marks are excluded, small regions removed, and small holes filled. Source: Otsu 1979, doi
    10.1109/TSMC.1979.4310076.
    """
    smooth = cv2.medianBlur(image, 5)
    red, green, blue = cv2.split(smooth)
    chroma = cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)
    ink = _ink(smooth)
    clean = chroma[~ink]
    if not clean.size:
        return np.zeros(ink.shape, bool)
    otsu, _ = cv2.threshold(clean.reshape(1, -1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    tissue = (chroma > np.clip(otsu, *_CHROMA)) & ~ink
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    closed = cv2.morphologyEx(tissue.astype(np.uint8), cv2.MORPH_CLOSE, disk)
    return _flip_small_regions(_flip_small_regions(closed == 1, 64), 64, holes=True) & ~ink


def _ink(image: np.ndarray) -> np.ndarray:
    """Return pen marks (h, w) bool, with the rim that blurs into glass, by hue (OpenCV: 0..179)."""
    # haematoxylin has hues from 120 up, eosin from 150
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    green = (hue >= 35) & (hue <= 95) & (saturation > 50)
    blue = (hue > 95) & (hue < 119) & (saturation > 110)
    black = (value < 70) & (saturation < 110)
    red = ((hue < 6) | (hue > 174)) & (saturation > 205) & (value > 120)
    pens = _flip_small_regions(green | blue | black | red, 32)
    return cv2.dilate(pens.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))) == 1


def _flip_small_regions(mask: np.ndarray, area: int, holes: bool = False) -> np.ndarray:
    """Invert connected regions of True (with `holes` of False) that have less than `area` px."""
    regions = (mask != holes).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(regions, connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < area
    small[0] = False
    return np.asarray(mask ^ small[labels])


def rectangle_shares(mask: np.ndarray, x: np.ndarray, y: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Return (n) float64 in 0..1: share of True in rectangles of a mask (h, w) bool, exact also for cut pixels.

    x, y: (n) upper-left corners; size: width, height; all in px of the mask, which need not be whole. Outside of the
    mask is False.
    """
    total = cv2.integral(mask.astype(np.uint8), sdepth=cv2.CV_64F)
    right, bottom = x + size[0], y + size[1]
    area = _sums(total, bottom, right) - _sums(total, y, right) - _sums(total, bottom, x) + _sums(total, y, x)
    return np.clip(area / (size[0] * size[1]), 0.0, 1.0)


def _sums(total: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    # Sum of the mask left of x and above y. Within a pixel it is bilinear, so that interpolation is exact.
    y, x = np.clip(y, 0, total.shape[0] - 1), np.clip(x, 0, total.shape[1] - 1)
    i, j = (np.minimum(v.astype(np.int64), n - 2) for v, n in zip((y, x), total.shape, strict=True))
    a, b = y - i, x - j
    upper = total[i, j] * (1 - b) + total[i, j + 1] * b
    lower = total[i + 1, j] * (1 - b) + total[i + 1, j + 1] * b
    return np.asarray(upper * (1 - a) + lower * a)
