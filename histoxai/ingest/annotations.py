"""Annotations of slides: find the file of each slide, and label tiles by what was annotated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.ingest.label_masks import LabelMask, parse_class_map
from histoxai.ingest.labels import LEFT_OUT, NO_CLASS
from histoxai.ingest.polygons import Polygons
from histoxai.ingest.slide_files import SLIDES, TIFFS, iterate_files
from histoxai.ingest.slide_grid import scanned_area
from histoxai.settings import Ingest

_GEOJSON = {".geojson", ".json"}
_MASKS = TIFFS | {".png"}
_NAME_ENDINGS = tuple(f"{sign}{word}" for sign in "_-." for word in ("masks", "mask", "labels", "label", "annotations"))
_ROUNDING = 1e-9  # of areas, which are sums of floats


class Annotation(Protocol):
    """The annotation of one slide. Lengths are in level-0 px.

    names: its classes. notes: counts of what could not be used, by reason.
    """

    names: list[str]
    notes: Counter[str]

    def shares(self, names: Sequence[str], x: np.ndarray, y: np.ndarray, extent: float) -> np.ndarray:
        """Return (n) float64 in 0..1: share of each tile that these classes cover together.

        x, y: (n) upper-left corners; extent: the side.
        """

    def plane(self, names: Sequence[str], x: float, y: float, extent: float, size: int) -> np.ndarray:
        """Return (size, size) uint8 in {0, 1}: pixels of a tile whose centre lies in one of these classes."""


def read_annotation(path: Path, slide: Any, settings: Ingest) -> Annotation:
    """Read the annotation of a slide; raises InputRefused where the file cannot belong to this slide."""
    scanned = scanned_area(slide)
    if path.suffix.lower() in _GEOJSON:
        named = [*(settings.classes or ()), *(settings.tumor or ()), *(settings.non_tumor or ())]
        return Polygons(path, scanned, settings.cells, named)
    return LabelMask(path, [(0, 0, *slide.dimensions), scanned], parse_class_map(settings.class_map))


def annotated_slide_name(path: Path) -> str:
    """Return the slide that an annotation file is named after: `a` for `a.svs.geojson` and `a_mask.tif`."""
    stem = path.stem
    stem = next((stem.removesuffix(e) for e in _NAME_ENDINGS if stem.endswith(e)), stem)
    return Path(stem).stem if Path(stem).suffix.lower() in SLIDES | TIFFS else stem


class AnnotationFiles:
    """The annotation file, or the files in the folder, that `--annotations` names."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self._slides = path, root if root.is_dir() else root.parent
        if not path.exists():
            raise InputRefused(f"--annotations {path}: no such file or folder; check the path")
        kinds = _GEOJSON | _MASKS
        if path.is_file() and path.suffix.lower() not in kinds:
            raise InputRefused(f"--annotations {path}: expected {', '.join(sorted(kinds))}, or a folder of them")
        self.files = [path] if path.is_file() else [p for p in iterate_files(path, kinds) if p.is_file()]

    def holds(self, path: Path) -> bool:
        """Return whether a file among the slides is one of these annotations."""
        if self.path.resolve() != self._slides.resolve():
            return path.resolve().is_relative_to(self.path.resolve())
        return annotated_slide_name(path) != path.stem  # slides and masks in one folder differ in the end of the name

    def of(self, slide: Path, slides: int) -> Path:
        """Return the annotation file of a slide; raises InputRefused where there is none, or more than one."""
        if self.path.is_file():
            if slides > 1:
                raise InputRefused(f"--annotations {self.path}: is one file for {slides} slides; name a folder of them")
            return self.path
        files = [p for p in self.files if annotated_slide_name(p) == slide.stem and p.resolve() != slide.resolve()]
        if len(files) > 1:
            folder = slide.parent.relative_to(self._slides)
            files = [p for p in files if p.parent.relative_to(self.path) == folder] or files
        if len(files) != 1:
            has = f"{len(files)} annotations ({', '.join(p.name for p in files)})" if files else "no annotation"
            raise InputRefused(f"{slide}: has {has} in {self.path}; expected one, as {slide.stem}.geojson")
        return files[0]


def require_consistent(settings: Ingest) -> None:
    """Raise UsageError for settings of annotations that do not go together."""
    if (settings.tumor is None) != (settings.non_tumor is None):
        raise UsageError("--tumor and --non-tumor go together: classes of annotations for the two target planes")
    for flag, value in (("--tumor", settings.tumor), ("--class-map", settings.class_map)):
        if value and settings.annotations is None:
            raise UsageError(f"{flag}: gives the meaning of annotations; name them with --annotations")
    if settings.classes and settings.annotations is None and settings.metadata is None:
        raise UsageError("--classes: tiles of slides have no classes without annotations; name --annotations")
    if settings.annotations is None and settings.min_overlap != Ingest().min_overlap:
        raise UsageError("--min-overlap: is the share of a tile that annotations cover; name them with --annotations")
    if settings.annotations is None and settings.cells != Ingest().cells:
        raise UsageError("--cells: says which outline of annotated cells counts; name them with --annotations")
    parse_class_map(settings.class_map)


def require_masks_for_class_map(root: Path, files: Iterable[Path | None], settings: Ingest) -> None:
    """Raise InputRefused for a class map where no annotation is a mask with values to name."""
    if settings.class_map and not any(p and p.suffix.lower() not in _GEOJSON for p in files):
        raise InputRefused(
            f"{root}: --class-map names values of masks, but all annotations are GeoJSON, which names its classes "
            "itself; leave it out"
        )


def label_tiles(
    annotation: Annotation, x: np.ndarray, y: np.ndarray, extent: float, settings: Ingest, counts: Counter[str]
) -> tuple[np.ndarray, list[str]]:
    """Return the label of each tile (n), and the class names that labels index.

    LEFT_OUT: no class covers `min_overlap` of the tile. NO_CLASS: targets are selected without classes, and their
    classes together cover as much. Of several classes that cover enough the one that covers most counts, then the one
    named first. x, y: (n) corners, extent: the side, in level-0 px. `counts` grows by the tiles that are left out.
    """
    least = settings.min_overlap - _ROUNDING
    if settings.tumor and not settings.classes:
        covered = annotation.shares([*settings.tumor, *(settings.non_tumor or ())], x, y, extent)
        counts["outside of every annotation"] += int((covered == 0).sum())
        counts["at the edge of one"] += int(((covered > 0) & (covered < least)).sum())
        return np.where(covered >= least, NO_CLASS, LEFT_OUT), []
    names = [n for n in settings.classes or annotation.names if n in annotation.names]
    if not names:
        counts["outside of every annotation"] += len(x)
        return np.full(len(x), LEFT_OUT), []
    table = np.stack([annotation.shares([n], x, y, extent) for n in names])
    # rounded, so that the last bits of an area do not decide between two classes that cover the same
    best, most = np.round(table, 9).argmax(axis=0), table.max(axis=0)
    counts["outside of every annotation"] += int((most == 0).sum())
    for k, name in enumerate(names):
        counts[f"at the edge of {name}"] += int(((best == k) & (most > 0) & (most < least)).sum())
    counts["in two classes"] += int(((table >= least).sum(axis=0) > 1).sum())
    return np.where(most >= least, best, LEFT_OUT), names
