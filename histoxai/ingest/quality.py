"""How usable a patch is: blur, pen, background and saturation, from its pixels alone."""

from __future__ import annotations

import cv2
import numpy as np

QUALITY_COLUMNS = ("blur", "pen", "background", "saturation")
SHARP = 100.0  # variance of the Laplacian at which blur is 0.5
# Glass is bright and nearly grey; OpenCV's hue goes from 0 to 180. Red ink is not told from eosin.
_GLASS = ((0, 0, 200), (180, 25, 255))
_PENS = (((35, 90, 40), (85, 255, 255)), ((92, 110, 60), (118, 255, 255)), ((0, 0, 0), (180, 120, 45)))


def measure_quality(image: np.ndarray) -> np.ndarray:
    """QUALITY (4,) float32 of an image (H, W, 3) uint8, each in 0..1.

    blur: 1 / (1 + v / 100) with v the variance of the Laplacian of the grey image (Pech-Pacheco et al. 2000), 1 for
    a flat one. pen: share of pixels in the colours of green, blue and black markers. background: share of bright,
    colourless pixels. saturation: mean HSV saturation. Colours are those of every second row and column.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if min(image.shape[:2]) > 1:
        fewer = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
    else:  # of one row or column resize would leave none
        fewer = np.ascontiguousarray(image[::2, ::2])
    hsv = cv2.cvtColor(fewer, cv2.COLOR_RGB2HSV)
    spread = float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0]) ** 2
    pixels = hsv.shape[0] * hsv.shape[1]
    pen = sum(cv2.countNonZero(cv2.inRange(hsv, low, high)) for low, high in _PENS)
    glass = cv2.countNonZero(cv2.inRange(hsv, *_GLASS))
    return np.array([1 / (1 + spread / SHARP), pen / pixels, glass / pixels, cv2.mean(hsv)[1] / 255], np.float32)


def tissue_share(measured: np.ndarray) -> np.ndarray:
    """Share of tissue (n,) from `quality` of many patches (n, 4): what is neither glass nor pen."""
    return 1 - measured[:, QUALITY_COLUMNS.index("background")] - measured[:, QUALITY_COLUMNS.index("pen")]
