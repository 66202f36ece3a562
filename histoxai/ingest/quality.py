"""Quality of a patch from its pixels: blur, pen, background and saturation."""

from __future__ import annotations

import cv2
import numpy as np

QUALITY_COLUMNS = ("blur", "pen", "background", "saturation")
_SHARP = 100.0  # variance of the Laplacian at which blur is 0.5
# Ranges in OpenCV's HSV (hue 0..180). Glass is bright and nearly grey. Red ink has the colours of eosin and is no pen.
_GLASS = ((0, 0, 200), (180, 25, 255))
_PENS = (((35, 90, 40), (85, 255, 255)), ((92, 110, 60), (118, 255, 255)), ((0, 0, 0), (180, 120, 45)))


def measure_quality(image: np.ndarray) -> np.ndarray:
    """Measure QUALITY_COLUMNS (4,) float32 of an image (H, W, 3) uint8, each in 0..1.

    blur: 1 / (1 + v / 100) with v the variance of the Laplacian of the grey image (Pech-Pacheco et al. 2000); 1 for an
    image without structure. pen: share of pixels in the colours of green, blue and black markers. background: share of
    bright, colourless pixels. saturation: mean HSV saturation. Colours are those of every second row and column.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if min(image.shape[:2]) > 1:
        half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
    else:  # resizing would leave no pixel of one row or column
        half = np.ascontiguousarray(image[::2, ::2])
    hsv = cv2.cvtColor(half, cv2.COLOR_RGB2HSV)
    variance = float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0]) ** 2
    pixels = hsv.shape[0] * hsv.shape[1]
    pen = sum(cv2.countNonZero(cv2.inRange(hsv, low, high)) for low, high in _PENS)
    glass = cv2.countNonZero(cv2.inRange(hsv, *_GLASS))
    return np.array([1 / (1 + variance / _SHARP), pen / pixels, glass / pixels, cv2.mean(hsv)[1] / 255], np.float32)


def find_glass(image: np.ndarray) -> np.ndarray:
    """Return the bright, colourless pixels (H, W) bool of an image (H, W, 3) uint8: glass, or a lumen."""
    return cv2.inRange(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), *_GLASS) > 0


def tissue_share(quality: np.ndarray) -> np.ndarray:
    """Return the share of pixels (n,) that are neither glass nor pen, from the quality of patches (n, 4)."""
    return 1 - quality[:, QUALITY_COLUMNS.index("background")] - quality[:, QUALITY_COLUMNS.index("pen")]
