"""Names of patches that are rotated by multiples of 90 degrees, counter-clockwise."""

from __future__ import annotations


def rotation_suffix(turns: int) -> str:
    """Return the end of a rotated copy's patch_id: '', '@90', '@180' or '@270'."""
    return f"@{90 * turns}" if turns else ""
