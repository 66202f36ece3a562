"""Whole-slide files: which there are, whether they are whole, and their pixels on white."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from PIL import Image

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.base import identifier

TIFFS = {".tif", ".tiff"}  # may as well be a plain image
SLIDES = {".svs", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".bif", ".svslide", ".dcm", ".czi"}
_BASELINE = TIFFS | {".svs", ".scn", ".bif", ".svslide"}  # whose tables of tiles tell where the file has to end
_CACHE_BYTES = 128 << 20  # decoded blocks of a whole row of tiles, so that the next row finds those it shares

T = TypeVar("T")


def import_openslide() -> Any:
    """The `openslide` module; raises InputRefused where it is not installed."""
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise InputRefused(
            f"slides are read by OpenSlide, which is not installed ({error}); `pip install 'histoxai[slides]'`"
        ) from error
    return openslide


def looks_like_slide(path: Path) -> bool:
    """Whether a TIFF is a slide rather than a patch: OpenSlide opens it, and it has levels or 2,048 px."""
    try:
        openslide = import_openslide()
        with openslide.OpenSlide(path) as slide:
            return bool(slide.level_count > 1 or max(slide.dimensions) >= 2048)
    except Exception:  # whatever a library says of a foreign file, it is no slide then
        return False


def iterate_files(root: Path, suffixes: set[str]) -> Iterator[Path]:
    """Entries below `root` with one of these endings, sorted by path; folders of that ending too, not entered."""
    home = os.path.realpath(root)
    seen = {home}
    for place, folders, files in os.walk(root, followlinks=True):
        for name in list(folders):
            target = os.path.realpath(os.path.join(place, name))
            # a link back into the tree, or above it, would list slides twice, or for ever
            if target in seen or home.startswith(target.rstrip(os.sep) + os.sep):
                folders.remove(name)
            seen.add(target)
        named = [d for d in folders if Path(d).suffix.lower() in suffixes]
        folders[:] = sorted(d for d in folders if d not in named and not d.startswith("."))
        for name in sorted([*files, *named]):
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield Path(place) / name


def find_slides(root: Path, skip: Callable[[Path], bool]) -> dict[str, Path]:
    """Slide name (path below `root` without ending) -> file; `root` may be one slide itself.

    `skip` says which files are something else. Raises InputRefused where there is none, or two would share a name.
    """
    if not root.exists():
        raise InputRefused(f"{root}: no such file or folder")
    if root.is_file():
        return {identifier(root.stem): root}
    slides: dict[str, Path] = {}
    for path in sorted(p for p in iterate_files(root, SLIDES | TIFFS) if not skip(p)):
        name = identifier(*path.relative_to(root).parts[:-1], path.stem)
        if name in slides:
            raise InputRefused(f"{root}: {slides[name].name} and {path.name} would both be slide '{name}'; rename one")
        slides[name] = path
    if not slides:
        raise InputRefused(f"{root}: holds no slide ({', '.join(sorted(SLIDES | TIFFS))})")
    return slides


def files_of_slide(path: Path) -> list[Path]:
    """The files that a slide consists of: MIRAX keeps its pixels in a folder beside the .mrxs."""
    folder = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and folder.is_dir():
        return [path, *sorted(p for p in folder.iterdir() if p.is_file())]
    return [path]


def require_complete_file(path: Path) -> None:
    """Raise InputRefused for what cannot be a slide, and for a TIFF that ends before its last tile does."""
    if path.is_dir():
        raise InputRefused(f"{path}: is a folder; expected a slide: rename it")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputRefused(f"{path}: cannot be read: {error.strerror or error}; remove the link, or mend it") from error
    if size == 0:
        raise InputRefused(f"{path}: is empty; copy it again from the source")
    if path.suffix.lower() not in _BASELINE:
        return
    if (end := _end_of_tiles(path)) > size:
        raise InputRefused(f"{path}: is truncated ({size} of at least {end} bytes); copy it again")


def _end_of_tiles(path: Path) -> int:
    # Where the last tile of a TIFF ends, 0 where that cannot be told. What tifffile says of an odd file, also in its
    # log, does not matter: OpenSlide is the judge.
    log = logging.getLogger("tifffile")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        import tifffile

        with tifffile.TiffFile(path) as file:
            pages = [zip(p.dataoffsets, p.databytecounts, strict=False) for p in file.pages]
            return max((start + count for page in pages for start, count in page), default=0)
    except Exception:
        return 0
    finally:
        log.setLevel(level)


def open_slide(path: Path) -> Any:
    """An open `OpenSlide`; raises InputRefused for a file that it does not read."""
    openslide = import_openslide()
    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise InputRefused(
            f"{path}: is not a slide that OpenSlide reads ({str(error).splitlines()[0]}); copy it again, or remove it"
        ) from error


def read_region(slide: Any, path: Path, place: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) uint8: pixels of a level, what the scanner left out composed on white.

    place: x, y of the upper-left corner in level-0 px. size: width, height in px of the level. Raises InputRefused for
    a region that does not decode; the slide is of no use after that, OpenSlide repeats the error for ever.
    """
    try:
        region = slide.read_region(place, level, size)
    except (import_openslide().OpenSlideError, OSError, MemoryError) as error:
        raise InputRefused(
            f"{path}: cannot be read at x {place[0]}, y {place[1]} (level {level}): {error}; the file is damaged: "
            "copy it again, or take it out of the folder"
        ) from error
    pixels = np.asarray(region)
    if pixels[..., 3].min() < 255:
        pixels = np.asarray(Image.alpha_composite(Image.new("RGBA", region.size, "white"), region))
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB))  # slicing instead would copy at a tenth of the speed


class ThreadLocalCache(Generic[T]):
    """The last few things made from a key (a path), each thread and process its own.

    An open slide does not survive a fork, and must not be closed while another thread reads from it.
    """

    def __init__(self, make: Callable[[Path], T], limit: int) -> None:
        self._make, self._limit = make, limit
        self._mine = threading.local()

    @property
    def _kept(self) -> OrderedDict[Path, T]:
        if getattr(self._mine, "process", None) != os.getpid():
            self._mine.process, self._mine.kept = os.getpid(), OrderedDict()
        kept: OrderedDict[Path, T] = self._mine.kept
        return kept

    def get(self, key: Path) -> T:
        """What belongs to `key`, made where it is not at hand; the one that was used longest ago goes."""
        kept = self._kept
        if key not in kept:
            while len(kept) >= self._limit:
                self.drop(next(iter(kept)))
            kept[key] = self._make(key)
        kept.move_to_end(key)
        return kept[key]

    def drop(self, key: Path) -> None:
        """Close and forget it."""
        gone = self._kept.pop(key, None)
        close = getattr(gone, "close", None)
        if close:
            close()


def slide_cache(limit: int = 8) -> ThreadLocalCache[Any]:
    """Open slides, at most `limit` at a time, that share one cache of decoded blocks."""
    caches: dict[int, Any] = {}

    def opened(path: Path) -> Any:
        slide, process = open_slide(path), os.getpid()
        if process not in caches:
            caches.clear()
            caches[process] = import_openslide().OpenSlideCache(_CACHE_BYTES)
        slide.set_cache(caches[process])
        return slide

    return ThreadLocalCache(opened, limit)
