"""Images with masks beside them: MoNuSeg, GlaS, CoNSeP and the like, and one file per nucleus (DSB 2018)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text
from histoxai.ingest.file_listing import list_images, require_utf8_name
from histoxai.ingest.formats.base import (
    PatchIndex,
    identifier,
    require_folder,
    require_only_settings,
    require_unique_ids,
)
from histoxai.ingest.images import SUFFIXES, decode_image, decode_mask, image_size, mask_size, orientation
from histoxai.ingest.mask_pairing import Key, Pair, find_pairs, recognise_pairs
from histoxai.ingest.split_words import SPLITS, split_of_folder
from histoxai.ingest.targets import MASK_SETTINGS, TargetPlanes
from histoxai.ingest.tiles import TileLayout
from histoxai.settings import Ingest

_NAME = re.compile(rf"({'|'.join(SPLITS)})[a-z]?_.*", re.IGNORECASE)  # train_1, testA_1
_GENERIC = re.compile(rf"(({'|'.join(SPLITS)})[a-z]?|images?|img|patch|tile|sample)?", re.IGNORECASE)


_PROBED = 256  # masks that are looked at for the first object


class PairsFormat:
    """Images and label images side by side, whole or in tiles; folders named train and test become the split.

    Source: MoNuSeg (Kumar et al. 2017), GlaS (Sirinukunwattana et al. 2017), CoNSeP (Graham et al. 2019), Data Science
    Bowl 2018. Targets are two planes, tumor and non-tumor, of the mask values that the settings name. The group is
    the name without its last number where several images, but not all, share it (tiles of one field), else the image.
    """

    @staticmethod
    def recognises(root: Path) -> str | None:
        """Return why `root` looks like images with masks, or None."""
        return recognise_pairs(root) if root.is_dir() else None

    def __init__(self, root: Path, settings: Ingest) -> None:
        require_folder(root)
        require_only_settings(root, settings, "pairs", "size", *MASK_SETTINGS)
        if settings.classes:
            raise InputRefused(f"{root}: images with masks have no classes; leave out --classes")
        self._targets = TargetPlanes(root, settings)
        notes: list[str] = []
        pairing = find_pairs(root, list_images(root, SUFFIXES, notes), settings)
        self.index = index = PatchIndex([], settings.mpp, (0, 0), has_targets=True, facts=self._targets.facts)
        index.notes = [*notes, pairing.rule, self._targets.note]
        self._layout = TileLayout(index, settings)
        self._pairs: list[Pair] = []
        for path, error in pairing.unpaired:
            index.leave_out(path.relative_to(root).as_posix(), error, settings)
        splits = _splits([p.key for p in pairing.pairs])
        for pair, group, split in zip(pairing.pairs, _groups(pairing.pairs, splits), splits, strict=True):
            with index.skipping_bad(pair.image.relative_to(root).as_posix(), settings):
                self._add_pair(root, pair, group, split)
        require_unique_ids(root, index)
        self._note_groups()
        if not settings.skip_bad:
            self._targets.probe((decode_mask(p), p) for pair in self._pairs[:_PROBED] for p in pair.masks[:1])

    def _add_pair(self, root: Path, pair: Pair, group: str, split: int) -> None:
        index = self.index
        for path in (pair.image, *pair.masks):
            require_utf8_name(path.relative_to(root))
        size = image_size(pair.image)
        for mask in pair.masks:
            if (other := mask_size(mask, indices_are_named=bool(self._targets.names))) != size:
                raise InputRefused(
                    f"{mask}: is {other[1]} x {other[0]} px but its image {pair.image.name} is {size[1]} x {size[0]}; "
                    "export both at one size"
                )
        _require_one_orientation(pair)
        stem = identifier(*pair.key)
        n = self._layout.add(len(self._pairs), pair.image, size, stem)
        index.add_patches([f"{stem}#{i}" for i in range(n)], group, split=split)
        for path in (pair.image, *pair.masks):
            index.add_file(path.relative_to(root).as_posix(), path)
        for path in pair.masks:
            index.add_contents(path.relative_to(root).as_posix(), path)
        self._pairs.append(pair)

    def _note_groups(self) -> None:
        index, groups = self.index, len(set(self.index.group))
        if groups == len(self._pairs):
            index.note_groups("every image counts as a group of its own: no names tell which belong together")
            return
        group, image = self._shared_group()
        index.note_groups(
            f"group: the name without its last number where several images share it: '{escape_text(group)}' of "
            f"{escape_text(image)}, say; {groups:,} groups of {len(self._pairs):,} images"
        )

    def _shared_group(self) -> tuple[str, str]:
        """Return a group of several images, and the id of one of these."""
        first: dict[str, str] = {}
        for group, patch_id in zip(self.index.group, self.index.patch_id, strict=True):
            image = patch_id.rpartition("#")[0]
            if first.setdefault(group, image) != image:
                return group, first[group]
        return next(iter(first.items()))

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return images (n, H, W, 3) uint8 and targets (n, 2, H, W) uint8 in {0, 1}."""
        images, targets = [], []
        for (pixels, planes), corner in self._layout.iterate(start, stop, self._decode):
            images.append(self._layout.crop(pixels, corner))
            targets.append(np.moveaxis(self._layout.crop(planes, corner), -1, 0))
        return np.stack(images), np.stack(targets)

    def _decode(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Decode an image (H, W, 3) and its target planes, as (H, W, 2) so that both are cropped alike."""
        pair = self._pairs[number]
        image = decode_image(pair.image)
        if pair.instances:
            objects = np.any([self._targets.objects(decode_mask(path), path) for path in pair.masks], axis=0)
            planes = self._targets.planes_of_objects(objects[None], pair.masks[0])[0]
        else:
            planes = self._targets.planes(decode_mask(pair.masks[0])[None], pair.masks[0])[0]
        return image, np.moveaxis(planes, 0, -1)


def _require_one_orientation(pair: Pair) -> None:
    """Raise InputRefused where a mask is turned in another way than its image: on which of both was it drawn?"""
    turn = orientation(pair.image)
    for mask in pair.masks:
        if (other := orientation(mask)) != turn:
            raise InputRefused(
                f"{escape_text(mask)}: has EXIF orientation {other} but its image {escape_text(pair.image)} has {turn} "
                "(1: none), so one is turned and not the other; save both with their pixels turned, and without the tag"
            )


def _splits(keys: list[Key]) -> list[int]:
    """Return the split of each image by its folders, else by its name where all names tell one."""
    codes = [next((c for part in key[:-1] if (c := split_of_folder(part))), 0) for key in keys]
    if any(codes):
        return codes
    by_name = [SPLITS[match[1].lower()] if (match := _NAME.fullmatch(key[-1])) else 0 for key in keys]
    return by_name if all(by_name) else codes


def _groups(pairs: list[Pair], splits: list[int]) -> list[str]:
    """Return the group of each image, its scan or field of view.

    Folders that name a split are no part of it, unless two splits would then share a group.
    """
    stems = [(*p.key[:-1], re.sub(r"[_\- ]?\d+$", "", p.key[-1])) for p in pairs]
    counts = Counter(stems)
    # train_1 and train_2 share a word that says nothing of their origin; train_10_1 and train_10_2 share a field
    full = [
        s if 1 < counts[s] < len(pairs) and not _GENERIC.fullmatch(s[-1]) else p.key
        for s, p in zip(stems, pairs, strict=True)
    ]
    short = [(*(f for f in key[:-1] if not split_of_folder(f)), key[-1]) for key in full]
    splits_of = defaultdict(set)
    for key, split in zip(short, splits, strict=True):
        splits_of[key].add(split)
    keys = short if all(len(s) == 1 for s in splits_of.values()) else full
    # of <id>/images/<id>.png the id is taken once
    return [identifier(*(k[:-1] if len(k) > 1 and k[-2] == k[-1] else k)) for k in keys]
