"""Write numbers with as many decimals as tell compared means apart."""

from __future__ import annotations

import math
from collections.abc import Iterable

FEWEST, MOST = 3, 5  # decimals
_SAME = 1e-9  # values that differ by no more are one value


def decimals_for(values: Iterable[float | None]) -> int:
    """Return the fewest decimals, 3 to 5, at which distinct values read differently.

    Where five decimals leave some values alike, it is the fewest that tell as many apart as five do. None, NaN and
    infinite values do not count.
    """
    distinct: list[float] = []
    last = -math.inf
    for value in sorted(v for v in values if v is not None and math.isfinite(v)):
        if value - last > _SAME:
            distinct.append(value)
        last = value
    readings = {decimals: len({fixed(v, decimals) for v in distinct}) for decimals in range(FEWEST, MOST + 1)}
    return min(decimals for decimals, count in readings.items() if count >= readings[MOST])


def fixed(value: float | None, decimals: int = FEWEST, undefined: str = "–") -> str:
    """Write a value with so many decimals, and 0 without a sign; `undefined` where there is none."""
    return f"{value:z.{decimals}f}" if value is not None and math.isfinite(value) else undefined


def signed(value: float | None, decimals: int = FEWEST, undefined: str = "–") -> str:
    """Write a difference with its sign, and one that rounds to 0 without."""
    if value is None or not math.isfinite(value):
        return undefined
    text = fixed(value, decimals)
    return f"+{text}" if float(text) > 0 else text
