"""Whole-slide files: find them, check them, and read their pixels on white."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from PIL import Image

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.base import identifier

TIFFS = {".tif", ".tiff"}  # may be plain images as well
SLIDES = {".svs", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".bif", ".svslide", ".dcm", ".czi"}
# Slides of scanners that OpenSlide does not read, or not under this name; they are counted, so that none vanishes.
OTHER_SLIDES = {
    ".qptiff",
    ".btf",
    ".tf8",
    ".vsi",
    ".isyntax",
    ".i2syntax",
    ".kfb",
    ".sdpc",
    ".tmap",
    ".lif",
    ".nd2",
    ".zvi",
}
_TIFF_BASED = TIFFS | {".svs", ".scn", ".bif", ".svslide"}  # their tables of tiles tell where the file has to end
_CACHE_BYTES = 128 << 20  # decoded blocks of a whole row of tiles, so that the next row finds those it shares

T = TypeVar("T")


def import_openslide() -> Any:
    """Import the module `openslide`; raises InputRefused where it is not installed."""
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise InputRefused(
            f"slides are read by OpenSlide, which is not installed ({error}); `pip install 'histoxai[slides]'`"
        ) from error
    return openslide


def looks_like_slide(path: Path) -> bool:
    """Return whether a TIFF is a slide rather than a patch: OpenSlide opens it, and it has levels or 2,048 px."""
    try:
        openslide = import_openslide()
        with openslide.OpenSlide(path) as slide:
            return bool(slide.level_count > 1 or max(slide.dimensions) >= 2048)
    except Exception:  # a library may raise anything for a foreign file, which then is no slide
        return False


def iterate_files(root: Path, suffixes: set[str]) -> Iterator[Path]:
    """Yield files below `root` with one of these suffixes, sorted.

    Folders with such a suffix are yielded too, and not entered. Hidden files and folders are
    left out. Linked folders are followed once, and never back into the tree.
    """
    top = os.path.realpath(root)
    seen = {top}
    for parent, folders, files in os.walk(root, followlinks=True):
        for name in list(folders):
            target = os.path.realpath(os.path.join(parent, name))
            # a link back into the tree, or above it, would list slides twice, or for ever
            if target in seen or top.startswith(target.rstrip(os.sep) + os.sep):
                folders.remove(name)
            seen.add(target)
        like_files = [d for d in folders if Path(d).suffix.lower() in suffixes]
        folders[:] = sorted(d for d in folders if d not in like_files and not d.startswith("."))
        for name in sorted([*files, *like_files]):
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield Path(parent) / name


def find_slides(root: Path, skip: Callable[[Path], bool]) -> dict[str, Path]:
    """Find the slides below `root`, or `root` itself: slide name (path below `root` without ending) -> file.

    skip: returns True for files that are no slides. Raises InputRefused where there is no slide, and where two would
    share a name.
    """
    if not root.exists():
        raise InputRefused(f"{root}: no such file or folder; check the path")
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
    """Return the files that a slide consists of: MIRAX keeps its pixels in a folder beside the .mrxs."""
    folder = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and folder.is_dir():
        return [path, *sorted(p for p in folder.iterdir() if p.is_file())]
    return [path]


def require_complete_file(path: Path) -> None:
    """Raise InputRefused for a path that cannot be a slide, and for a TIFF that ends before its last tile does."""
    if path.is_dir():
        raise InputRefused(f"{path}: is a folder; expected a slide: rename it")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputRefused(f"{path}: cannot be read: {error.strerror or error}; remove the link, or mend it") from error
    if size == 0:
        raise InputRefused(f"{path}: is empty; copy it again from the source")
    if path.suffix.lower() not in _TIFF_BASED:
        return
    if (end := _end_of_tiles(path)) > size:
        raise InputRefused(f"{path}: is truncated ({size} of at least {end} bytes); copy it again")


def _end_of_tiles(path: Path) -> int:
    """Return the byte at which the last tile of a TIFF ends, 0 where that is unknown."""
    # Errors and log entries of tifffile do not matter: whether a file can be read is for OpenSlide to decide.
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
    """Open a slide as `OpenSlide`; raises InputRefused for a file that OpenSlide does not read."""
    openslide = import_openslide()
    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise InputRefused(
            f"{path}: is not a slide that OpenSlide reads ({str(error).splitlines()[0]}); copy it again, or remove it"
        ) from error


def read_region(slide: Any, path: Path, corner: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
    """Read pixels of a level, (height, width, 3) uint8; areas that were not scanned are white.

    corner: x, y of the upper-left corner in level-0 px. size: width, height in px of the level. Raises InputRefused
    for a region that does not decode. The open slide is unusable after that: OpenSlide repeats the error for ever.
    """
    try:
        region = slide.read_region(corner, level, size)
    except (import_openslide().OpenSlideError, OSError, MemoryError) as error:
        raise InputRefused(
            f"{path}: cannot be read at x {corner[0]}, y {corner[1]} (level {level}): {error}; the file is damaged: "
            "copy it again, or take it out of the folder"
        ) from error
    pixels = np.asarray(region)
    if pixels[..., 3].min() < 255:
        pixels = np.asarray(Image.alpha_composite(Image.new("RGBA", region.size, "white"), region))
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB))  # slicing would copy at a tenth of the speed


class ThreadLocalCache(threading.local, Generic[T]):
    """The `limit` most recently used results of `make(key)`, separately in each thread and process.

    An open slide does not survive a fork. It must not be closed while another thread reads from it: slides that leave
    the cache are closed when nothing refers to them any more.
    """

    def __init__(self, make: Callable[[Path], T], limit: int) -> None:
        # called anew in each thread; the process is part of the key
        self._cached = lru_cache(limit)(lambda process, key: make(key))

    def __len__(self) -> int:
        return self._cached.cache_info().currsize

    def get(self, key: Path) -> T:
        """Return the cached result; create it where it is missing."""
        result: T = self._cached(os.getpid(), key)
        return result

    def clear(self) -> None:
        """Forget all results of this thread."""
        self._cached.cache_clear()


def slide_cache(limit: int = 8) -> ThreadLocalCache[Any]:
    """Return a cache of open slides, at most `limit` in each thread, which share one cache of decoded blocks."""
    block_caches: dict[int, Any] = {}  # of each process

    def open_cached(path: Path) -> Any:
        slide, process = open_slide(path), os.getpid()
        if process not in block_caches:
            block_caches.clear()
            block_caches[process] = import_openslide().OpenSlideCache(_CACHE_BYTES)
        slide.set_cache(block_caches[process])
        return slide

    return ThreadLocalCache(open_cached, limit)
