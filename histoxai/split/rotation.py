"""Names of patches that are rotated by multiples of 90 degrees, counter-clockwise."""

from __future__ import annotations

import numpy as np


def rotation_suffix(turns: int) -> str:
    """Return the end of a rotated copy's patch_id: '', '@90', '@180' or '@270'."""
    return f"@{90 * turns}" if turns else ""


def original_ids(patch_id: np.ndarray, turns: np.ndarray | None) -> np.ndarray:
    """Return the ids (n,) of the patches that these are copies of; turns (n,): None where none is a copy."""
    if turns is None:
        return patch_id
    pairs = zip(patch_id.tolist(), turns.tolist(), strict=True)
    return np.array([name.removesuffix(rotation_suffix(int(turned))) for name, turned in pairs])
