"""Build the section on slides: patches, masks and maps where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histoxai.core.errors import HistoxaiError
from histoxai.ingest.slide_files import open_slide
from histoxai.ingest.tissue import thumbnail
from histoxai.report.content import SectionContent
from histoxai.report.figures.slide import PatchBox, SlideView, slide_sheet
from histoxai.report.lineage import Lineage
from histoxai.report.sections.base import ReportInputs, Section
from histoxai.report.slides import Slide, find_slides, images_on, maps_on, masks_on, paste, patch_positions

MAX_SLIDES = 4
MAX_PATCHES = 1200  # of all slides together
MAX_SIDE = 700  # px of a slide on the page


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section, which is empty if the patches do not know where they lie; it has no numbers."""
    positions = patch_positions(inputs.lineage)
    figures = _slide_figures(inputs, find_slides(inputs.lineage, positions, MAX_SLIDES))
    others = 0 if positions is None else positions.slides - len(figures)
    return Section({"slides": figures, "other_slides": others})


def _slide_figures(inputs: ReportInputs, slides: Sequence[Slide]) -> list[dict[str, Any]]:
    room, figures = MAX_PATCHES, []
    inputs.progress.start("slides", len(slides))
    for slide in slides:
        if room <= 0:
            break
        total = len(slide.rows)
        which = list(range(total))
        if total > room:
            which = np.linspace(0, total - 1, room).round().astype(np.int64).tolist()
        room -= len(which)
        view = _Stitched(inputs.lineage, slide, which).view()
        some = "" if len(which) == total else f"{len(which):,} of "
        words = f"{slide.name}: {some}{total:,} explained patches"
        figure = inputs.figures.add(f"slide-{slide.name}", slide_sheet, view, inputs.settings.colours)
        figures.append({"png": figure, "words": words})
        inputs.progress.advance()
    inputs.progress.stop()
    return figures


@dataclass(frozen=True)
class _Stitched:
    """A slide at MAX_SIDE px, stitched from some of its patches; which: their indices."""

    lineage: Lineage
    slide: Slide
    which: Sequence[int]

    @property
    def scale(self) -> float:
        """Thumbnail px per level-0 px."""
        return MAX_SIDE / max(self.slide.width, self.slide.height)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the thumbnail."""
        return max(1, round(self.slide.height * self.scale)), max(1, round(self.slide.width * self.scale))

    def view(self) -> SlideView:
        maps = {name: self._map(name) for name in self.lineage.method_names}
        return SlideView(self._thumbnail(), self._boxes(), self._masks(), maps)

    def _map(self, method: str) -> np.ndarray:
        canvas = np.full(self.size, np.nan, np.float32)
        for k, plane in zip(self.which, maps_on(self.slide, self.lineage, method, self.which), strict=True):
            paste(canvas, plane, self.slide.square(k), self.scale)
        return canvas

    def _masks(self) -> np.ndarray:
        covered = np.zeros((*self.size, 2), np.float32)
        for k, plane in zip(self.which, masks_on(self.slide, self.lineage, self.which), strict=True):
            paste(covered, plane.astype(np.float32), self.slide.square(k), self.scale)
        return np.where(covered[..., 0] >= 0.5, 1, np.where(covered[..., 1] >= 0.5, 2, 0)).astype(np.uint8)

    def _boxes(self) -> list[PatchBox]:
        prediction, label = self.lineage.column("prediction"), self.lineage.column("label")
        aspect = self.lineage.patches.size[0] / self.lineage.patches.size[1]
        boxes = []
        for k in self.which:
            row, (x, y, side) = self.slide.rows[k], [v * self.scale for v in self.slide.square(k)]
            correct = None if label[row] < 0 else bool(label[row] == prediction[row])
            boxes.append(PatchBox(x, y, side, side * aspect, correct))
        return boxes

    def _thumbnail(self) -> np.ndarray:
        # of the slide's file, or else stitched from the explained patches
        if self.slide.file is not None:
            try:
                with open_slide(self.slide.file) as opened:
                    return thumbnail(opened, self.slide.file, self.slide.frame, self.size[::-1])
            except HistoxaiError:  # damaged since its frame was read
                pass
        canvas = np.full((*self.size, 3), 255, np.uint8)
        some = range(min(len(self.slide.rows), MAX_PATCHES))
        for k, image in zip(some, images_on(self.slide, self.lineage, some), strict=True):
            paste(canvas, image, self.slide.square(k), self.size[1] / self.slide.width)
        return canvas
