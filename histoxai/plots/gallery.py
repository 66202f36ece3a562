"""The figures of a report: drawn once, on the page as PNG, and for print where that is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from matplotlib.figure import Figure

from histoxai.plots.figures import for_print, png


class Gallery:
    """Figures by name. keep: hold them, for `files`."""

    def __init__(self, keep: bool = False) -> None:
        self._keep = keep
        self._figures: dict[str, Figure] = {}

    def __len__(self) -> int:
        return len(self._figures)

    def add(self, name: str, figure: Figure) -> bytes:
        """A figure as the page has it, PNG bytes; name: of its files, made safe and unlike all others."""
        if self._keep:
            safe = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "figure"
            name, number = safe, 1
            while name in self._figures:
                number += 1
                name = f"{safe}-{number}"
            self._figures[name] = figure
        return png(figure)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of every figure as svg, pdf and png of 300 dpi."""
        for name, figure in self._figures.items():
            for ending, data in for_print(figure).items():
                yield f"{name}.{ending}", data
