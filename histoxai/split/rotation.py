"""Quarter turns of patches."""

from __future__ import annotations

import numpy as np


def quarter_turns(image: np.ndarray, turns: int, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    """An image turned by `turns` x 90 degrees counter-clockwise; exact, pixels only move."""
    return np.rot90(image, turns, axes)


def rotation_suffix(turns: int) -> str:
    """What a rotated copy adds to its patch_id: '', '@90', '@180' or '@270'."""
    return f"@{90 * turns}" if turns else ""
