"""Which annotation belongs to which slide, and what tiles are called because of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.ingest.label_masks import LabelMask, parse_class_map
from histoxai.ingest.polygons import Polygons
from histoxai.ingest.slide_files import SLIDES, TIFFS, iterate_files
from histoxai.ingest.slide_grid import scanned_area
from histoxai.settings import Ingest

_DRAWN = {".geojson", ".json"}
_PAINTED = TIFFS | {".png"}
_WORDS = tuple(f"{sign}{word}" for sign in "_-." for word in ("masks", "mask", "labels", "label", "annotations"))
_CLOSE = 1e-9  # areas are sums of floats


class Annotation(Protocol):
    """What was drawn on one slide; `notes` counts what could not be used. Lengths are level-0 px."""

    names: list[str]
    notes: Counter[str]

    def shares(self, names: Sequence[str], x: np.ndarray, y: np.ndarray, extent: float) -> np.ndarray: ...

    def plane(self, names: Sequence[str], x: float, y: float, extent: float, size: int) -> np.ndarray: ...


def read_annotation(path: Path, slide: Any, settings: Ingest) -> Annotation:
    """The annotation in a file; raises InputRefused where it cannot be one of this slide."""
    scanned = scanned_area(slide)
    if path.suffix.lower() in _DRAWN:
        return Polygons(path, scanned)
    return LabelMask(path, [(0, 0, *slide.dimensions), scanned], parse_class_map(settings.class_map))


def annotated_slide_name(path: Path) -> str:
    """The slide that an annotation file is named after: `a.geojson`, `a.svs.geojson`, `a_mask.tif`, `a-labels.png`."""
    stem = path.stem
    stem = next((stem.removesuffix(w) for w in _WORDS if stem.endswith(w)), stem)
    return Path(stem).stem if Path(stem).suffix.lower() in SLIDES | TIFFS else stem


class AnnotationFiles:
    """The file or the folder that `--annotations` names."""

    def __init__(self, place: Path, root: Path) -> None:
        self.place, self._slides = place, root if root.is_dir() else root.parent
        if not place.exists():
            raise InputRefused(f"--annotations {place}: no such file or folder")
        kinds = _DRAWN | _PAINTED
        if place.is_file() and place.suffix.lower() not in kinds:
            raise InputRefused(f"--annotations {place}: expected {', '.join(sorted(kinds))}, or a folder of them")
        self.files = [place] if place.is_file() else [p for p in iterate_files(place, kinds) if p.is_file()]

    def holds(self, path: Path) -> bool:
        """Whether a file among the slides is one of these annotations."""
        if self.place.resolve() != self._slides.resolve():
            return path.resolve().is_relative_to(self.place.resolve())
        return annotated_slide_name(path) != path.stem  # slides and masks lie together: only the words of a mask tell

    def of(self, slide: Path, slides: int) -> Path:
        """The file that belongs to a slide; raises InputRefused where there is none, or more than one."""
        if self.place.is_file():
            if slides > 1:
                raise InputRefused(
                    f"--annotations {self.place}: is one file for {slides} slides; name a folder of them"
                )
            return self.place
        found = [p for p in self.files if annotated_slide_name(p) == slide.stem and p.resolve() != slide.resolve()]
        if len(found) > 1:
            inner = slide.parent.relative_to(self._slides)
            found = [p for p in found if p.parent.relative_to(self.place) == inner] or found
        if len(found) != 1:
            has = f"{len(found)} annotations ({', '.join(p.name for p in found)})" if found else "no annotation"
            raise InputRefused(f"{slide}: has {has} in {self.place}; expected one, as {slide.stem}.geojson")
        return found[0]


def require_consistent(settings: Ingest) -> None:
    """Raise UsageError for settings that mean nothing together."""
    if (settings.tumor is None) != (settings.non_tumor is None):
        raise UsageError("--tumor and --non-tumor go together: classes of annotations for the two target planes")
    for flag, value in (("--tumor", settings.tumor), ("--class-map", settings.class_map)):
        if value and settings.annotations is None:
            raise UsageError(f"{flag}: says what annotations mean; name them with --annotations")
    if settings.classes and settings.annotations is None and settings.metadata is None:
        raise UsageError("--classes: a slide's tiles have no classes; name --annotations")
    if settings.annotations is None and settings.min_overlap != Ingest().min_overlap:
        raise UsageError("--min-overlap: says how much of a tile an annotation covers; name them with --annotations")
    parse_class_map(settings.class_map)


def require_masks_for_class_map(root: Path, drawn: Iterable[Path | None], settings: Ingest) -> None:
    """Raise InputRefused for a class map where no annotation is a mask, whose values it could name."""
    if settings.class_map and not any(p and p.suffix.lower() not in _DRAWN for p in drawn):
        raise InputRefused(
            f"{root}: --class-map names values of masks, but all annotations are GeoJSON, which names its classes "
            "itself; leave it out"
        )


def label_tiles(
    annotation: Annotation, x: np.ndarray, y: np.ndarray, extent: float, settings: Ingest, counts: Counter[str]
) -> tuple[np.ndarray, list[str]]:
    """What each tile (n) shows: -2 too little of anything, -1 enough but no class, else a number in the names returned.

    A class has a tile where it covers `min_overlap` of it; of several the one that covers most, then the one named
    first. Where targets are asked for without classes, it is enough that their types together cover so much. `counts`
    grows by what is left out and why.
    """
    least = settings.min_overlap - _CLOSE
    if settings.tumor and not settings.classes:
        covered = annotation.shares([*settings.tumor, *(settings.non_tumor or ())], x, y, extent)
        counts["outside of every annotation"] += int((covered == 0).sum())
        counts["at the edge of one"] += int(((covered > 0) & (covered < least)).sum())
        return np.where(covered >= least, -1, -2), []
    names = [n for n in settings.classes or annotation.names if n in annotation.names]
    if not names:
        counts["outside of every annotation"] += len(x)
        return np.full(len(x), -2), []
    table = np.stack([annotation.shares([n], x, y, extent) for n in names])
    # the last bits of an area must not decide between two classes that cover the same
    best, most = (np.round(table, 9).argmax(axis=0), table.max(axis=0))
    counts["outside of every annotation"] += int((most == 0).sum())
    for k, name in enumerate(names):
        counts[f"at the edge of {name}"] += int(((best == k) & (most > 0) & (most < least)).sum())
    counts["in two classes"] += int(((table >= least).sum(axis=0) > 1).sum())
    return np.where(most >= least, best, -2), names
