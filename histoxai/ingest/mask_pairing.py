"""Which mask files go with which image files: by folder, by ending, or one file per nucleus."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import printable
from histoxai.ingest.images import SUFFIXES
from histoxai.ingest.slide_files import SLIDES
from histoxai.settings import Ingest

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "tissue images", "tissue_images")
MASK_FOLDERS = (
    "masks", "mask", "seg_mask", "seg_masks", "segmentation", "segmentations", "labels", "label", "gt",
    "ground_truth", "groundtruth", "annotations",
)  # fmt: skip
ENDINGS = ("_anno", "_mask", "_masks", "_label", "_labels", "_seg", "_gt", "-mask", "-labels")
_UNREAD = {".xml", ".mat"}  # what annotations of patches come as, which `find_pairs` says more of
_FOLDERS_TO_LOOK_AT = 500  # when asked whether a source is of this kind

Key = tuple[str, ...]  # folders but the one that says image or mask, and the common part of the name


class Pair(NamedTuple):
    """An image and its masks: one label image, or a file per nucleus (`instances`). key: what they share."""

    image: Path
    masks: tuple[Path, ...]
    key: Key
    instances: bool


class Pairs(NamedTuple):
    """All pairs in the images' order, what was found, and files without a partner, each with what is wrong."""

    pairs: list[Pair]
    how: str
    alone: list[tuple[Path, InputRefused]]


def recognise_pairs(root: Path) -> str | None:
    """Says in a few words why a tree seems to hold images and masks, from names alone, or None.

    Folders count that have image files in them. Slides beside annotations are none of these.
    """
    pictured, masked, found = set[str](), set[str](), None
    for count, (place, _, names) in enumerate(os.walk(root)):
        files = [os.path.splitext(name) for name in names if not name.startswith(".")]
        above = {part.lower() for part in Path(place).relative_to(root).parts}
        kinds = {suffix.lower() for _, suffix in files}
        if kinds & SLIDES:
            return None
        if kinds & (SUFFIXES | _UNREAD):
            masked |= above
        if kinds & SUFFIXES and not above & set(MASK_FOLDERS):
            pictured |= above
        found = found or _ending({stem for stem, suffix in files if suffix.lower() in SUFFIXES})
        if count > _FOLDERS_TO_LOOK_AT:
            break
    images, masks = _first(IMAGE_FOLDERS, pictured), _first(MASK_FOLDERS, masked)
    if images and masks:
        return f"it has '{images}' and '{masks}' folders"
    return f"it has images with '{found}' beside them" if found else None


def find_pairs(root: Path, paths: list[Path], settings: Ingest) -> Pairs:
    """Pairs among image files below `root` (sorted).

    Raises InputRefused where it cannot be told which are masks.
    """
    if settings.images is None and settings.masks is None and (found := _instances(root, paths)):
        return found
    names = {part.lower() for p in paths for part in p.relative_to(root).parts[:-1]}
    images, masks = _Side(settings.images, names), _Side(settings.masks, names)
    if settings.masks is None:
        masks = _guess(root, paths, names)
    if settings.images is None:
        images = _Side(_first(IMAGE_FOLDERS, names), names)
    return _match(root, paths, images, masks)


class _Side:
    """Files whose path has a folder `name`, or whose name ends so; without a name all."""

    def __init__(self, name: str | None, folders: set[str]) -> None:
        self.name = name
        self._folder = name is not None and name.strip("/").lower() in folders

    def __str__(self) -> str:
        return f"{self.name}/" if self._folder else f"*{self.name or ''}"

    def key(self, path: Path) -> Key | None:
        """What image and mask share, from a path below the root; None for a file that is not of this side."""
        folders, stem = path.parts[:-1], path.stem
        if self.name is None:
            return (*folders, stem)
        if self._folder:
            at = [f.lower() for f in folders]
            name = self.name.strip("/").lower()
            return (*folders[: at.index(name)], *folders[at.index(name) + 1 :], stem) if name in at else None
        for text in (path.name, stem):
            if text.endswith(self.name):
                return (*folders, text[: len(text) - len(self.name)])
        return None


def _first(known: Iterable[str], present: set[str]) -> str | None:
    return next((name for name in known if name in present), None)


def _ending(stems: set[str]) -> str | None:
    return next((e for e in ENDINGS if any(s.endswith(e) and s[: -len(e)] in stems for s in stems)), None)


def _guess(root: Path, paths: list[Path], names: set[str]) -> _Side:
    name = _first(MASK_FOLDERS, names) or _ending({str(p.with_suffix("")) for p in paths})
    if name is None:
        raise InputRefused(
            f"{root}: no masks found among {len(paths)} images; name their folder or ending: --masks seg_mask, "
            "--masks _anno (.mat and .xml annotations are not read: save them as label images)"
        )
    return _Side(name, names)


def _match(root: Path, paths: list[Path], images: _Side, masks: _Side) -> Pairs:
    by_key: dict[Key, list[Path]] = defaultdict(list)
    pictures: list[tuple[Path, Key]] = []
    for path in paths:
        below = path.relative_to(root)
        if (key := masks.key(below)) is not None:
            by_key[key].append(path)
        elif (key := images.key(below)) is not None:
            pictures.append((path, key))
    _strip_endings(by_key, {key for _, key in pictures})
    found, alone, used = [], [], set()
    for path, key in pictures:
        partners = by_key.get(key, [])
        used.add(key)
        if len(partners) == 1:
            found.append(Pair(path, tuple(partners), key, False))
            continue
        what = "no mask" if not partners else f"{len(partners)} masks ({', '.join(printable(p) for p in partners)})"
        error = f"{printable(path)}: has {what}; looked in {masks}: add it, or name another place with --masks"
        alone.append((path, InputRefused(error)))
    for key in by_key.keys() - used:
        error = (
            f"{printable(by_key[key][0])}: is a mask of no image; looked in {images}: copy the image, or name --images"
        )
        alone.append((by_key[key][0], InputRefused(error)))
    return Pairs(found, f"images: {images}, masks: {masks}", sorted(alone, key=lambda a: a[0]))


def _strip_endings(by_key: dict[Key, list[Path]], wanted: set[Key]) -> None:
    # masks/x_mask.png goes with images/x.png
    for key in [k for k in by_key if k not in wanted]:
        for ending in ENDINGS:
            short = (*key[:-1], key[-1].removesuffix(ending))
            if short != key and short in wanted:
                by_key[short] += by_key.pop(key)
                break


def _instances(root: Path, paths: list[Path]) -> Pairs | None:
    # <id>/images/<one file> and <id>/masks/<a file per nucleus>: as in the Data Science Bowl 2018
    places: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: {"images": [], "masks": []})
    for path in paths:
        if path.parent.name in ("images", "masks"):
            places[path.parent.parent][path.parent.name].append(path)
    held = sum(len(p["images"]) + len(p["masks"]) for p in places.values())
    if not places or held < len(paths) or any(len(p["images"]) != 1 for p in places.values()):
        return None
    pairs, alone = [], []
    for place, files in sorted(places.items()):
        image, masks = files["images"][0], files["masks"]
        if any(m.stem.startswith(image.stem) for m in masks):
            return None  # one mask named after its image: an ordinary pair
        key = (*place.relative_to(root).parts, image.stem)
        if masks:
            pairs.append(Pair(image, tuple(masks), key, True))
        else:
            alone.append(
                (image, InputRefused(f"{printable(image)}: has no mask; looked in {printable(place / 'masks')}"))
            )
    return Pairs(pairs, "images/, one file per nucleus in masks/", alone)
