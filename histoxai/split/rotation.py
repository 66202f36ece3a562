"""Rotations of patches by multiples of 90 degrees."""

from __future__ import annotations

import numpy as np


def quarter_turns(image: np.ndarray, turns: int, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    """Rotate an image by `turns` x 90 degrees counter-clockwise; pixels only move, so that values are exact."""
    return np.rot90(image, turns, axes)


def rotation_suffix(turns: int) -> str:
    """Return the end of a rotated copy's patch_id: '', '@90', '@180' or '@270'."""
    return f"@{90 * turns}" if turns else ""
