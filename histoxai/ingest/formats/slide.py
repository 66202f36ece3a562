"""Whole slides: tiles of tissue at one resolution, with classes and targets where slides are annotated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.ingest.annotations import (
    Annotation,
    AnnotationFiles,
    label_tiles,
    read_annotation,
    require_consistent,
    require_masks_for_class_map,
)
from histoxai.ingest.formats.base import PatchIndex
from histoxai.ingest.slide_files import (
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

SIZE = 256
MIN_TISSUE = 0.5


@dataclass(frozen=True)
class _Tiles:
    # what was found on one slide: x, y (n) in level-0 px; label (n) into names, -1 none
    name: str
    path: Path
    plan: TilePlan
    x: np.ndarray
    y: np.ndarray
    label: np.ndarray
    names: list[str]
    drawn: Path | None = None
    found: tuple[str, ...] = ()


class SlideFormat:
    """Reads a slide, or a folder of slides, of any format of OpenSlide, as tiles at one resolution.

    Where `mpp` is a level's (within 1 %), tiles are that level's pixels; else the next finer level is shrunk with
    cv2.INTER_AREA. Of slides that state no mpp worth believing `mpp` is that of their full resolution. Group is the
    slide. Tiles with little tissue are left out; with annotations also those that no class covers by `min_overlap`.
    Source: OpenSlide (Goode et al. 2013, doi 10.4103/2153-3539.119005).
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Says why `root` looks like a slide or a folder of slides, or None."""
        if root.is_file():
            known = root.suffix.lower() in SLIDES or (root.suffix.lower() in TIFFS and looks_like_slide(root))
            return "it is a slide" if known else None
        if slide := next(iterate_files(root, SLIDES), None):
            return f"it holds the slide {slide.relative_to(root)}"
        plain = sorted(p for p in root.iterdir() if p.suffix.lower() in TIFFS and not p.name.startswith("."))
        if slide := next((p for p in plain[:3] if looks_like_slide(p)), None):
            return f"it holds the slide {slide.name}"
        return None

    def __init__(self, root: Path, settings: Ingest) -> None:
        import_openslide()
        _require_settings(settings)
        self._settings, self._size = settings, settings.size or SIZE
        self.index = PatchIndex(
            [], settings.mpp or DEFAULT_MPP, (self._size, self._size), has_targets=settings.tumor is not None
        )
        self.index.tissue_found = True
        self._annotations = AnnotationFiles(settings.annotations, root) if settings.annotations else None
        self._counts: dict[str, Counter[str]] = {"tissue": Counter(), "tiles": Counter(), "annotations": Counter()}
        skip = self._annotations.holds if self._annotations else lambda path: False
        scanned = self._scan(root, find_slides(root, skip))
        require_masks_for_class_map(root, (t.drawn for t in scanned), settings)
        self._name_classes(root, scanned)
        self._list(scanned)
        self._tell(scanned)
        if not len(self.index):
            raise InputRefused(f"{root}: no tile is left ({'; '.join(self.index.notes)})")
        self._open = slide_cache()
        self._drawn: ThreadLocalCache[Annotation] = ThreadLocalCache(
            partial(_reload, {t.drawn: t.path for t in scanned}, settings), 2
        )

    def _scan(self, root: Path, slides: dict[str, Path]) -> list[_Tiles]:
        scanned: list[_Tiles] = []
        refused: list[str] = []
        series: set[tuple[Path, str]] = set()
        for name, path in slides.items():
            below = path.relative_to(root).as_posix() if path != root else path.name
            try:
                if path.suffix.lower() == ".dcm" and _seen(path, series):
                    self.index.files.append((below, path.stat().st_size))
                    continue
                scanned.append(self._scan_slide(name, path, len(slides)))
            except InputRefused as error:
                if self._settings.skip_bad:
                    self.index.leave_out(below, error, self._settings)
                else:
                    refused.append(str(error))  # all of them at once, rather than one a try
                continue
            self._list_files(path.parent if path == root else root, scanned[-1])
        if len(refused) == 1:
            raise InputRefused(refused[0])
        if refused:
            raise InputRefused(
                f"{root}: {len(refused)} of {len(slides)} slides cannot be used (--skip-bad leaves them out):"
                + "".join(f"\n  {why}" for why in refused)
            )
        if not scanned:
            reasons = "".join(f"\n  {why}" for _, why in self.index.left_out)
            raise InputRefused(f"{root}: none of its {len(slides)} slides can be used:{reasons}")
        return scanned

    def _list_files(self, base: Path, tiles: _Tiles) -> None:
        files = [(p.relative_to(base).as_posix(), p.stat().st_size) for p in files_of_slide(tiles.path)]
        if tiles.drawn:
            name = f"annotation of {tiles.name}: {tiles.drawn.name}"
            files.append((name, tiles.drawn.stat().st_size))
            self.index.add_contents(name, tiles.drawn)
        self.index.files += files

    def _scan_slide(self, name: str, path: Path, slides: int) -> _Tiles:
        require_complete_file(path)
        drawn = self._annotations.of(path, slides) if self._annotations else None
        with open_slide(path) as slide:
            plan = plan_tiles(slide, path, self._settings.mpp, self._size)
            annotation = read_annotation(drawn, slide, self._settings) if drawn else None
            x, y = self._with_tissue(slide, path, plan)
        if annotation is None:
            return _Tiles(name, path, plan, x, y, np.full(len(x), -1), [])
        self._counts["annotations"].update(annotation.notes)
        label, names = label_tiles(annotation, x, y, plan.extent, self._settings, self._counts["tiles"])
        kept = label > -2
        return _Tiles(name, path, plan, x[kept], y[kept], label[kept], names, drawn, tuple(annotation.names))

    def _with_tissue(self, slide: Any, path: Path, plan: TilePlan) -> tuple[np.ndarray, np.ndarray]:
        x, y = tile_corners(slide, plan, self._settings.overlap)
        if not len(x):
            width, height = slide.dimensions
            raise InputRefused(
                f"{path}: {width} x {height} px hold no whole tile of {plan.extent:g} px; choose a smaller --size"
            )
        least = MIN_TISSUE if self._settings.min_tissue is None else self._settings.min_tissue
        if least == 0:
            return x, y
        image, (across, down) = slide_thumbnail(slide, path, plan)
        size = plan.extent / across, plan.extent / down
        enough = rectangle_shares(find_tissue(image), x / across, y / down, size) >= least - 1e-9
        if not enough.any():
            raise InputRefused(
                f"{path}: none of its {len(x)} tiles has {least:g} of tissue; is it blank? --min-tissue 0 keeps all"
            )
        self._counts["tissue"]["left out"] += int((~enough).sum())
        self._counts["tissue"]["all"] += len(x)
        return x[enough], y[enough]

    def _name_classes(self, root: Path, scanned: list[_Tiles]) -> None:
        settings, found = self._settings, sorted({n for t in scanned for n in t.found})
        targets = [*(settings.tumor or ()), *(settings.non_tumor or ())]
        if settings.annotations:
            for name in [*(settings.classes or ()), *targets]:
                if name not in found:
                    raise InputRefused(f"{root}: no annotation has the class '{name}'; there are {', '.join(found)}")
        used = {n for t in scanned for n in t.names}
        self.index.classes = list(settings.classes or sorted(used))
        if left_out := [n for n in found if n not in self.index.classes and n not in targets]:
            self.index.notes.append(f"left out: annotations of {', '.join(left_out)} (choose with --classes)")

    def _list(self, scanned: list[_Tiles]) -> None:
        index, settings = self.index, self._settings
        place = {n: k for k, n in enumerate(index.classes)}
        extra: dict[str, list[Any]] = {"frame": [], "x": [], "y": [], "extent": []}
        for tiles in scanned:
            n, numbers = len(tiles.x), np.array([*(place[name] for name in tiles.names), -1])
            index.label += numbers[tiles.label].tolist()  # -1 takes the last, which is -1
            index.group += [tiles.name] * n
            index.split += [0] * n
            xs, ys = tiles.x.tolist(), tiles.y.tolist()
            index.patch_id += [f"{tiles.name}#x{x}y{y}" for x, y in zip(xs, ys, strict=True)]
            extra["frame"] += [tiles.name] * n
            extra["x"] += xs
            extra["y"] += ys
            extra["extent"] += [tiles.plan.extent] * n
        index.extra = extra
        index.facts = {
            "size": self._size,
            "overlap": settings.overlap,
            "min_tissue": MIN_TISSUE if settings.min_tissue is None else settings.min_tissue,
            "slides": {t.name: {**t.plan.facts, "tiles": len(t.x)} for t in scanned},
        }
        if settings.annotations:
            names = ("min_overlap", "tumor", "non_tumor", "class_map")
            index.facts["annotations"] = {n: getattr(settings, n) for n in names}
        self._scanned = scanned
        self._starts = np.cumsum([0, *(len(t.x) for t in scanned)])

    def _tell(self, scanned: list[_Tiles]) -> None:
        notes, mpp = self.index.notes, self.index.mpp
        if given := [t.name for t in scanned if not t.plan.own]:
            notes.append(
                f"--mpp {mpp:g} is taken for the full resolution of slides without a credible one: {_few(given)}"
            )
        if asked := [t.name for t in scanned if t.plan.own and t.plan.resized]:
            notes.append(f"tiles at {mpp:g} micrometres per pixel are shrunk from a finer level: {_few(asked)}")
        tissue, tiles = self._counts["tissue"], self._counts["tiles"]
        if tissue["left out"]:
            notes.append(
                f"left out: {tissue['left out']} of {tissue['all']} tiles with too little tissue (--min-tissue)"
            )
        two = tiles.pop("in two classes", 0)
        if tiles := +tiles:
            words = ", ".join(f"{n} {what}" for what, n in tiles.items())
            notes.append(
                f"left out: tiles covered by less than {self._settings.min_overlap:g}: {words} (--min-overlap)"
            )
        if two:
            notes.append(
                f"{two} tiles lie in more than one class: the one that covers most has them, or is named first"
            )
        if odd := +self._counts["annotations"]:
            notes.append(f"annotations: {', '.join(f'{n} {what}' for what, n in odd.items())}")

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """images (n, H, W, 3) uint8 and, where annotations give them, targets (n, 2, H, W) uint8 in {0, 1}."""
        size, settings = self._size, self._settings
        images = np.empty((stop - start, size, size, 3), np.uint8)
        targets = np.empty((stop - start, 2, size, size), np.uint8) if self.index.has_targets else None
        planes = (settings.tumor or (), settings.non_tumor or ())
        for k, image in enumerate(images):
            slide = int(np.searchsorted(self._starts, start + k, side="right")) - 1
            tiles = self._scanned[slide]
            at = start + k - int(self._starts[slide])
            x, y = int(tiles.x[at]), int(tiles.y[at])
            image[:] = self._tile(tiles, x, y)
            if targets is not None and tiles.drawn is not None:
                annotation = self._drawn.get(tiles.drawn)
                for plane, names in enumerate(planes):
                    targets[k, plane] = annotation.plane(names, x, y, tiles.plan.extent, size)
        return images, targets

    def _tile(self, tiles: _Tiles, x: int, y: int) -> np.ndarray:
        plan, path = tiles.plan, tiles.path
        region = ((x, y), plan.level, (plan.side, plan.side))
        try:
            pixels = read_region(self._open.get(path), path, *region)
        except InputRefused:
            self._open.drop(path)  # no region of it can be read any more; a failure that passes deserves one more try
            try:
                pixels = read_region(self._open.get(path), path, *region)
            except InputRefused:
                self._open.drop(path)
                raise
        if not plan.resized:
            return pixels
        return np.asarray(cv2.resize(pixels, (plan.size, plan.size), interpolation=cv2.INTER_AREA))


def _seen(path: Path, series: set[tuple[Path, str]]) -> bool:
    # DICOM: any file of a series opens the whole slide
    require_complete_file(path)
    with open_slide(path) as slide:
        key = path.parent, slide.properties.get("openslide.quickhash-1", path.name)
    if key in series:
        return True
    series.add(key)
    return False


def _reload(slides: dict[Path | None, Path], settings: Ingest, drawn: Path) -> Annotation:
    with open_slide(slides[drawn]) as slide:
        return read_annotation(drawn, slide, settings)


def _require_settings(settings: Ingest) -> None:
    for flag in ("images", "masks", "labels", "partition", "magnification"):
        if getattr(settings, flag) != getattr(Ingest(), flag):
            raise UsageError(f"--{flag}: means nothing for slides; leave it out")
    size = settings.size or SIZE
    if settings.overlap >= size:
        raise UsageError(f"--overlap {settings.overlap}: must be less than the side of a tile, {size}")
    require_consistent(settings)


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
