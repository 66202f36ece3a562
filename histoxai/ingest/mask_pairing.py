"""Pair image files with mask files: by folder, by the end of the name, or one mask file per nucleus."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text
from histoxai.ingest.images import SUFFIXES
from histoxai.ingest.slide_files import SLIDES
from histoxai.settings import Ingest

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "tissue images", "tissue_images")
MASK_FOLDERS = (
    "masks", "mask", "seg_mask", "seg_masks", "segmentation", "segmentations", "labels", "label", "gt",
    "ground_truth", "groundtruth", "annotations",
)  # fmt: skip
ENDINGS = ("_anno", "_mask", "_masks", "_label", "_labels", "_seg", "_gt", "-mask", "-labels")
_UNREADABLE = {".xml", ".mat"}  # annotations of patches that are not read; `find_pairs` says what to do with them
_MAX_FOLDERS = 500  # that are looked at to recognise a source

Key = tuple[str, ...]  # folders without the one that says image or mask, and the common part of the name


class Pair(NamedTuple):
    """An image and its masks: one label image, or a file for each nucleus (`instances`). key: what they share."""

    image: Path
    masks: tuple[Path, ...]
    key: Key
    instances: bool


class Pairing(NamedTuple):
    """All pairs in the images' order, the rule that was used, and files without a partner with the reason."""

    pairs: list[Pair]
    rule: str
    unpaired: list[tuple[Path, InputRefused]]


def recognise_pairs(root: Path) -> str | None:
    """Return why a tree seems to hold images and masks, from the names of files and folders alone, or None.

    Only folders with image files in them count. Slides beside annotations are another format.
    """
    with_images, with_masks, ending = set[str](), set[str](), None
    for count, (folder, _, names) in enumerate(os.walk(root)):
        files = [os.path.splitext(name) for name in names if not name.startswith(".")]
        words = {part.lower() for part in Path(folder).relative_to(root).parts}
        suffixes = {suffix.lower() for _, suffix in files}
        if suffixes & SLIDES:
            return None
        if suffixes & (SUFFIXES | _UNREADABLE):
            with_masks |= words
        if suffixes & SUFFIXES and not words & set(MASK_FOLDERS):
            with_images |= words
        ending = ending or _mask_ending({stem for stem, suffix in files if suffix.lower() in SUFFIXES})
        if count > _MAX_FOLDERS:
            break
    images, masks = _first(IMAGE_FOLDERS, with_images), _first(MASK_FOLDERS, with_masks)
    if images and masks:
        return f"it has '{images}' and '{masks}' folders"
    return f"it has images with '{ending}' beside them" if ending else None


def find_pairs(root: Path, paths: list[Path], settings: Ingest) -> Pairing:
    """Pair the image files below `root` (sorted); raises InputRefused where it is unclear which are masks."""
    if settings.images is None and settings.masks is None and (pairing := _pair_instances(root, paths)):
        return pairing
    names = {part.lower() for p in paths for part in p.relative_to(root).parts[:-1]}
    images, masks = _FileRule(settings.images, names), _FileRule(settings.masks, names)
    if settings.masks is None:
        masks = _default_mask_rule(root, paths, names)
    if settings.images is None:
        images = _FileRule(_first(IMAGE_FOLDERS, names), names)
    return _pair_by_key(root, paths, images, masks)


class _FileRule:
    """Selects files whose path has a folder `name`, or whose name ends with it; without a name all files."""

    def __init__(self, name: str | None, folders: set[str]) -> None:
        self.name = name
        self._is_folder = name is not None and name.strip("/").lower() in folders

    def __str__(self) -> str:
        return f"{self.name}/" if self._is_folder else f"*{self.name or ''}"

    def key(self, path: Path) -> Key | None:
        """Return the key that image and mask share, from a path below the root; None for files not selected."""
        folders, stem = path.parts[:-1], path.stem
        if self.name is None:
            return (*folders, stem)
        if self._is_folder:
            lower = [f.lower() for f in folders]
            name = self.name.strip("/").lower()
            if name not in lower:
                return None
            k = lower.index(name)
            return (*folders[:k], *folders[k + 1 :], stem)
        for text in (path.name, stem):
            if text.endswith(self.name):
                return (*folders, text[: len(text) - len(self.name)])
        return None


def _first(names: Iterable[str], present: set[str]) -> str | None:
    return next((name for name in names if name in present), None)


def _mask_ending(stems: set[str]) -> str | None:
    """Return the first ending that some name has beside the same name without it."""
    return next((e for e in ENDINGS if any(s.endswith(e) and s[: -len(e)] in stems for s in stems)), None)


def _default_mask_rule(root: Path, paths: list[Path], folders: set[str]) -> _FileRule:
    name = _first(MASK_FOLDERS, folders) or _mask_ending({str(p.with_suffix("")) for p in paths})
    if name is None:
        raise InputRefused(
            f"{root}: no masks found among {len(paths)} images; name their folder or ending: --masks seg_mask, "
            "--masks _anno (.mat and .xml annotations are not read: save them as label images)"
        )
    return _FileRule(name, folders)


def _pair_by_key(root: Path, paths: list[Path], images: _FileRule, masks: _FileRule) -> Pairing:
    masks_by_key: dict[Key, list[Path]] = defaultdict(list)
    image_keys: dict[Path, Key] = {}
    for path in paths:
        below = path.relative_to(root)
        if (key := masks.key(below)) is not None:
            masks_by_key[key].append(path)
        elif (key := images.key(below)) is not None:
            image_keys[path] = key
    _strip_endings(masks_by_key, set(image_keys.values()))
    pairs, unpaired = [], []
    for path, key in image_keys.items():
        partners = masks_by_key.get(key, [])
        if len(partners) == 1:
            pairs.append(Pair(path, tuple(partners), key, False))
        else:
            unpaired.append((path, _image_error(path, partners, masks)))
    for key in masks_by_key.keys() - set(image_keys.values()):
        path = masks_by_key[key][0]
        error = f"{escape_text(path)}: is a mask of no image; looked in {images}: copy the image, or name --images"
        unpaired.append((path, InputRefused(error)))
    return Pairing(pairs, f"images: {images}, masks: {masks}", sorted(unpaired, key=lambda u: u[0]))


def _image_error(path: Path, masks: list[Path], rule: _FileRule) -> InputRefused:
    has = f"{len(masks)} masks ({', '.join(escape_text(m) for m in masks)})" if masks else "no mask"
    return InputRefused(f"{escape_text(path)}: has {has}; looked in {rule}: add it, or name another place with --masks")


def _strip_endings(masks_by_key: dict[Key, list[Path]], image_keys: set[Key]) -> None:
    # masks/x_mask.png goes with images/x.png
    for key in [k for k in masks_by_key if k not in image_keys]:
        for ending in ENDINGS:
            short = (*key[:-1], key[-1].removesuffix(ending))
            if short != key and short in image_keys:
                masks_by_key[short] += masks_by_key.pop(key)
                break


def _pair_instances(root: Path, paths: list[Path]) -> Pairing | None:
    """Pair `<id>/images/<one file>` with `<id>/masks/<a file per nucleus>`, as in the Data Science Bowl 2018.

    Returns None for any other layout.
    """
    by_id: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: {"images": [], "masks": []})
    for path in paths:
        if path.parent.name in ("images", "masks"):
            by_id[path.parent.parent][path.parent.name].append(path)
    count = sum(len(files["images"]) + len(files["masks"]) for files in by_id.values())
    if not by_id or count < len(paths) or any(len(files["images"]) != 1 for files in by_id.values()):
        return None
    pairs, unpaired = [], []
    for folder, files in sorted(by_id.items()):
        image, masks = files["images"][0], files["masks"]
        if any(m.stem.startswith(image.stem) for m in masks):
            return None  # one mask that is named after its image makes an ordinary pair
        key = (*folder.relative_to(root).parts, image.stem)
        if masks:
            pairs.append(Pair(image, tuple(masks), key, True))
        else:
            error = f"{escape_text(image)}: has no mask; looked in {escape_text(folder / 'masks')}"
            unpaired.append((image, InputRefused(error)))
    return Pairing(pairs, "images/, one file per nucleus in masks/", unpaired)
