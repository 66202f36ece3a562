"""Whole slides: tiles of tissue at one resolution, with classes and targets where slides are annotated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.core.safe_text import escape_text
from histoxai.ingest.annotations import (
    Annotation,
    AnnotationFiles,
    label_tiles,
    read_annotation,
    require_consistent,
    require_masks_for_class_map,
)
from histoxai.ingest.formats.base import PatchIndex
from histoxai.ingest.labels import LEFT_OUT, NO_CLASS
from histoxai.ingest.polygons import CELL_NOTES
from histoxai.ingest.slide_files import (
    OTHER_SLIDES,
    SLIDES,
    TIFFS,
    ThreadLocalCache,
    files_of_slide,
    find_slides,
    import_openslide,
    iterate_files,
    looks_like_slide,
    open_slide,
    read_region,
    require_complete_file,
    slide_cache,
)
from histoxai.ingest.slide_grid import DEFAULT_MPP, TilePlan, plan_tiles, tile_corners
from histoxai.ingest.tissue import find_tissue, rectangle_shares, slide_thumbnail
from histoxai.settings import Ingest

SIZE = 256  # px of a tile, without --size
MIN_TISSUE = 0.5  # share of a tile, without --min-tissue
_OPEN_ANNOTATIONS = 2


@dataclass(frozen=True)
class SlideTiles:
    """The tiles of one slide.

    x, y (n): upper-left corners in level-0 px. label (n): index into `names`, or NO_CLASS. names: classes of tiles.
    annotation: the file, and `annotated` the classes in it.
    """

    name: str
    path: Path
    plan: TilePlan
    x: np.ndarray
    y: np.ndarray
    label: np.ndarray
    names: list[str]
    annotation: Path | None = None
    annotated: tuple[str, ...] = ()


@dataclass(frozen=True)
class TileCounts:
    """Counts of what is left out, over all slides, by reason."""

    tissue: Counter[str] = field(default_factory=Counter)
    tiles: Counter[str] = field(default_factory=Counter)
    annotations: Counter[str] = field(default_factory=Counter)

    def notes(self, min_overlap: float) -> list[str]:
        """Return a sentence for the user for each kind of count that is not zero."""
        notes = []
        if self.tissue["left out"]:
            counts = f"{self.tissue['left out']} of {self.tissue['all']}"
            notes.append(f"left out: {counts} tiles with too little tissue (--min-tissue)")
        ambiguous = self.tiles["in two classes"]
        uncovered = ", ".join(f"{n} {why}" for why, n in (+self.tiles).items() if why != "in two classes")
        if uncovered:
            notes.append(f"left out: tiles covered by less than {min_overlap:g}: {uncovered} (--min-overlap)")
        if ambiguous:
            notes.append(
                f"{ambiguous} tiles lie in more than one class: each gets the one that covers most of it, or the "
                "first named"
            )
        if unused := +self.annotations:
            notes.append(f"annotations: {', '.join(f'{n} {why}' for why, n in unused.items())}")
        return notes


class SlideFormat:
    """A slide, or a folder of slides, of any format that OpenSlide reads, as tiles at one resolution.

    Where `mpp` is that of a level (within 1 %), tiles are that level's pixels. Else the next finer level is shrunk with
    cv2.INTER_AREA. For slides that state no credible mpp, `mpp` is that of their full resolution. The group is the
    slide. Tiles with little tissue are left out, and with annotations also tiles that no class covers by `min_overlap`.
    Source: OpenSlide (Goode et al. 2013, doi 10.4103/2153-3539.119005).
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Return why `root` looks like a slide or a folder of slides, or None."""
        if root.is_file():
            suffix = root.suffix.lower()
            return "it is a slide" if suffix in SLIDES or (suffix in TIFFS and looks_like_slide(root)) else None
        if slide := next(iterate_files(root, SLIDES), None):
            return f"it holds the slide {slide.relative_to(root)}"
        tiffs = sorted(p for p in root.iterdir() if p.suffix.lower() in TIFFS and not p.name.startswith("."))
        if slide := next((p for p in tiffs[:3] if looks_like_slide(p)), None):
            return f"it holds the slide {slide.name}"
        return None

    def __init__(self, root: Path, settings: Ingest) -> None:
        import_openslide()
        _require_settings(settings)
        self._settings, self._size = settings, settings.size or SIZE
        self._min_tissue = MIN_TISSUE if settings.min_tissue is None else settings.min_tissue
        size = (self._size, self._size)
        self.index = PatchIndex([], settings.mpp or DEFAULT_MPP, size, has_targets=settings.tumor is not None)
        self.index.tissue_checked = True
        self._annotations = AnnotationFiles(settings.annotations, root) if settings.annotations else None
        self._counts = TileCounts()
        self._slides = self._scan(root)
        require_masks_for_class_map(root, (s.annotation for s in self._slides), settings)
        self._name_classes(root)
        self._list_tiles()
        self._add_notes(root)
        if not len(self.index):
            raise InputRefused(f"{root}: no tile is left ({'; '.join(self.index.notes)})")
        self._starts = np.cumsum([0, *(len(s.x) for s in self._slides)])
        self._open_slides = slide_cache()
        slide_of = {s.annotation: s.path for s in self._slides}
        self._open_annotations: ThreadLocalCache[Annotation] = ThreadLocalCache(
            partial(_open_annotation, slide_of, settings), _OPEN_ANNOTATIONS
        )

    def _scan(self, root: Path) -> list[SlideTiles]:
        """Find the tiles of all slides; raises one InputRefused that names all slides that cannot be used."""
        slides = find_slides(root, self._annotations.holds if self._annotations else lambda path: False)
        scanned: list[SlideTiles] = []
        refused: list[str] = []
        series: set[tuple[Path, str]] = set()
        for name, path in slides.items():
            below = path.relative_to(root).as_posix() if path != root else path.name
            try:
                if path.suffix.lower() == ".dcm" and _is_series_known(path, series):
                    self.index.add_file(below, path)
                    continue
                scanned.append(self._scan_slide(name, path, len(slides)))
                self._add_files(path.parent if path == root else root, scanned[-1])
            except InputRefused as error:
                if self._settings.skip_bad:
                    self.index.leave_out(below, error, self._settings)
                refused.append(str(error))
        if not self._settings.skip_bad:
            _raise_refused(root, refused, len(slides))
        if not scanned:
            reasons = "".join(f"\n  {reason}" for _, reason in self.index.left_out)
            raise InputRefused(f"{root}: none of its {len(slides)} slides can be used:{reasons}")
        return scanned

    def _add_files(self, base: Path, tiles: SlideTiles) -> None:
        for path in files_of_slide(tiles.path):
            self.index.add_file(path.relative_to(base).as_posix(), path)
        if tiles.annotation:
            name = f"annotation of {tiles.name}: {tiles.annotation.name}"
            self.index.add_contents(name, tiles.annotation)
            self.index.add_file(name, tiles.annotation)

    def _scan_slide(self, name: str, path: Path, slides: int) -> SlideTiles:
        require_complete_file(path)
        file = self._annotations.of(path, slides) if self._annotations else None
        with open_slide(path) as slide:
            plan = plan_tiles(slide, path, self._settings.mpp, self._size)
            annotation = read_annotation(file, slide, self._settings) if file else None
            x, y = self._tiles_with_tissue(slide, path, plan)
        if annotation is None:
            return SlideTiles(name, path, plan, x, y, np.full(len(x), NO_CLASS), [])
        self._counts.annotations.update(annotation.notes)
        label, names = label_tiles(annotation, x, y, plan.extent, self._settings, self._counts.tiles)
        keep = label != LEFT_OUT
        return SlideTiles(name, path, plan, x[keep], y[keep], label[keep], names, file, tuple(annotation.names))

    def _tiles_with_tissue(self, slide: Any, path: Path, plan: TilePlan) -> tuple[np.ndarray, np.ndarray]:
        x, y = tile_corners(slide, plan, self._settings.overlap)
        if not len(x):
            width, height = slide.dimensions
            raise InputRefused(
                f"{path}: {width} x {height} px hold no whole tile of {plan.extent:g} px; choose a smaller --size"
            )
        if self._min_tissue == 0:
            return x, y
        image, (width, height) = slide_thumbnail(slide, path, plan)
        size = plan.extent / width, plan.extent / height
        keep = rectangle_shares(find_tissue(image), x / width, y / height, size) >= self._min_tissue - 1e-9
        if not keep.any():
            raise InputRefused(
                f"{path}: none of its {len(x)} tiles has {self._min_tissue:g} of tissue; is it blank? --min-tissue 0 "
                "keeps all"
            )
        self._counts.tissue["left out"] += int((~keep).sum())
        self._counts.tissue["all"] += len(x)
        return x[keep], y[keep]

    def _name_classes(self, root: Path) -> None:
        settings, annotated = self._settings, sorted({n for s in self._slides for n in s.annotated})
        targets = [*(settings.tumor or ()), *(settings.non_tumor or ())]
        if settings.annotations:
            for name in [*(settings.classes or ()), *targets]:
                if name not in annotated:
                    raise InputRefused(
                        f"{root}: no annotation has the class '{name}'; there are {', '.join(annotated)}"
                    )
        self.index.classes = list(settings.classes or sorted({n for s in self._slides for n in s.names}))
        if unused := [n for n in annotated if n not in self.index.classes and n not in targets]:
            self.index.notes.append(f"left out: annotations of {', '.join(unused)} (choose with --classes)")

    def _list_tiles(self) -> None:
        index, settings = self.index, self._settings
        code = {name: k for k, name in enumerate(index.classes)}
        for tiles in self._slides:
            codes = np.array([*(code[name] for name in tiles.names), NO_CLASS])  # NO_CLASS, -1, takes the last one
            x, y = tiles.x.tolist(), tiles.y.tolist()
            ids = [f"{tiles.name}#x{a}y{b}" for a, b in zip(x, y, strict=True)]
            index.add_patches(ids, tiles.name, codes[tiles.label].tolist())
            index.add_positions(tiles.name, x, y, tiles.plan.extent)
        index.facts = {
            "size": self._size,
            "overlap": settings.overlap,
            "min_tissue": self._min_tissue,
            "slides": {s.name: {**s.plan.facts, "tiles": len(s.x)} for s in self._slides},
        }
        if settings.annotations:
            names = ("min_overlap", "tumor", "non_tumor", "class_map")
            index.facts["annotations"] = {n: getattr(settings, n) for n in names}
            if any(note in self._counts.annotations for note in CELL_NOTES.values()):
                index.facts["annotations"]["cells"] = settings.cells

    def _add_notes(self, root: Path) -> None:
        notes, mpp = self.index.notes, self.index.mpp
        if names := [s.name for s in self._slides if not s.plan.own]:
            notes.append(
                f"--mpp {mpp:g} is taken for the full resolution of slides without a credible one: {_few(names)}"
            )
        if names := [s.name for s in self._slides if s.plan.own and s.plan.resized]:
            notes.append(f"tiles at {mpp:g} micrometres per pixel are shrunk from a finer level: {_few(names)}")
        notes += self._counts.notes(self._settings.min_overlap)
        if names := [path.relative_to(root).as_posix() for path in iterate_files(root, OTHER_SLIDES)]:
            notes.append(f"left out: {len(names)} slides with endings that are not read: {escape_text(_few(names))}")

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return images (n, H, W, 3) uint8 and targets (n, 2, H, W) uint8 in {0, 1}, or None without target classes."""
        size, settings = self._size, self._settings
        images = np.empty((stop - start, size, size, 3), np.uint8)
        targets = np.empty((stop - start, 2, size, size), np.uint8) if self.index.has_targets else None
        planes = (settings.tumor or (), settings.non_tumor or ())
        for k, row in enumerate(range(start, stop)):
            number = int(np.searchsorted(self._starts, row, side="right")) - 1
            tiles, tile = self._slides[number], row - int(self._starts[number])
            x, y = int(tiles.x[tile]), int(tiles.y[tile])
            images[k] = self._read_tile(tiles, x, y)
            if targets is not None and tiles.annotation is not None:
                annotation = self._open_annotations.get(tiles.annotation)
                for plane, names in enumerate(planes):
                    targets[k, plane] = annotation.plane(names, x, y, tiles.plan.extent, size)
        return images, targets

    def _read_tile(self, tiles: SlideTiles, x: int, y: int) -> np.ndarray:
        plan, path = tiles.plan, tiles.path
        region = ((x, y), plan.level, (plan.side, plan.side))
        try:
            pixels = read_region(self._open_slides.get(path), path, *region)
        except InputRefused:
            # After a failure the open slide gives no region any more. The failure may pass, so try once with a new one.
            self._open_slides.clear()
            try:
                pixels = read_region(self._open_slides.get(path), path, *region)
            except InputRefused:
                self._open_slides.clear()
                raise
        if not plan.resized:
            return pixels
        return np.asarray(cv2.resize(pixels, (plan.size, plan.size), interpolation=cv2.INTER_AREA))


def _is_series_known(path: Path, series: set[tuple[Path, str]]) -> bool:
    """Return whether an earlier DICOM file is of the same series; remember the series if not.

    OpenSlide opens a whole series from any of its files.
    """
    require_complete_file(path)
    with open_slide(path) as slide:
        key = path.parent, slide.properties.get("openslide.quickhash-1", path.name)
    if key in series:
        return True
    series.add(key)
    return False


def _raise_refused(root: Path, reasons: list[str], slides: int) -> None:
    if len(reasons) == 1:
        raise InputRefused(reasons[0])
    if reasons:
        raise InputRefused(
            f"{root}: {len(reasons)} of {slides} slides cannot be used (--skip-bad leaves them out):"
            + "".join(f"\n  {reason}" for reason in reasons)
        )


def _open_annotation(slides: dict[Path | None, Path], settings: Ingest, file: Path) -> Annotation:
    with open_slide(slides[file]) as slide:
        return read_annotation(file, slide, settings)


def _require_settings(settings: Ingest) -> None:
    for name in ("images", "masks", "labels", "partition", "magnification", "mask_threshold", "ignore_value"):
        if getattr(settings, name) != getattr(Ingest(), name):
            raise UsageError(f"--{name.replace('_', '-')}: means nothing for slides; leave it out")
    size = settings.size or SIZE
    if settings.overlap >= size:
        raise UsageError(f"--overlap {settings.overlap}: must be less than the side of a tile, {size}")
    require_consistent(settings)


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
