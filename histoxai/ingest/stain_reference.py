"""Stain normalisation while patches are read: the reference, what goes on record about it, and the patches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.provenance import file_checksum
from histoxai.ingest.images import decode_image
from histoxai.ingest.stain import StainNormaliser
from histoxai.settings import Ingest
from histoxai.store.patches import IMAGES, Patches
from histoxai.store.schema import ArraySpec

# Values of the array `stained`: 0 is a patch that is not there yet.
STAINED, NORMALISED, AS_IT_WAS = "stained", 1, 2
# Patches of a store that make a reference, spread evenly over it.
_PATCHES = 16


@dataclass(frozen=True)
class FittedStain:
    """A fitted normalisation. settings: what decides about pixels. facts: what the reference gave."""

    normaliser: StainNormaliser
    settings: dict[str, Any]
    facts: dict[str, Any]

    def spec(self, n: int, shard: int) -> ArraySpec:
        """`stained` (n,) uint8: 1 normalised, 2 left as it was, for no fit is possible."""
        return ArraySpec(STAINED, (n,), np.uint8, shard)

    def rows(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Patches (n, H, W, 3) uint8, normalised where that is possible, and `stained`, which says where."""
        made = [self.normaliser.normalised(image) for image in images]
        return {
            IMAGES: np.stack([old if new is None else new for old, new in zip(images, made, strict=True)]),
            STAINED: np.array([AS_IT_WAS if new is None else NORMALISED for new in made], np.uint8),
        }


def fit_stain(settings: Ingest) -> FittedStain | None:
    """The normalisation that settings ask for, fitted to its reference; None where they ask for none.

    Raises InputRefused where the reference is no image and no complete patch store, or cannot be fitted to.
    """
    path = settings.stain_reference
    if path is None:
        return None
    reference, digest = _read(path)
    try:
        normaliser = StainNormaliser.fit(settings.stain, reference)
    except InputRefused as error:
        raise InputRefused(f"{path}: {error}") from None
    return FittedStain(
        normaliser,
        {"stain": {"method": settings.stain, "reference": digest}},
        {"stain": {"reference": path.name, **normaliser.parameters}},
    )


def count_unchanged(stained: np.ndarray) -> int:
    """How many patches, of those that are there, no fit was possible for."""
    return int((stained == AS_IT_WAS).sum())


def _read(path: Path) -> tuple[np.ndarray, str]:
    # the reference (H, W, 3) uint8, and the checksum of the file or digest of the store
    if not path.exists():
        raise InputRefused(f"{path}: no such stain reference; give an image file or a patch store")
    if not path.is_dir():
        return decode_image(path), file_checksum(path)
    patches = Patches(path)
    rows = np.unique(np.linspace(0, len(patches) - 1, _PATCHES).round().astype(np.int64))
    return np.concatenate(list(patches.read(rows))), patches.digest
