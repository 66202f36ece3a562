"""Stain normalisation during `ingest`: fit the reference, record it, and normalise patches."""

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

# The array `stained` and its values; 0 stands for a patch that is not stored yet.
STAINED, NORMALISED, UNCHANGED = "stained", 1, 2
_PATCHES = 16  # of a store that is the reference, spread evenly over it


@dataclass(frozen=True)
class FittedStain:
    """A fitted normalisation. settings: entries that decide about pixels. facts: parameters of the reference."""

    normaliser: StainNormaliser
    settings: dict[str, Any]
    facts: dict[str, Any]

    def spec(self, n: int, shard: int) -> ArraySpec:
        """Return the array `stained` (n,) uint8: 1 normalised, 2 unchanged, since no fit is possible."""
        return ArraySpec(STAINED, (n,), np.uint8, shard)

    def rows(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Normalise patches (n, H, W, 3) uint8 where that is possible; return them and `stained`."""
        normalised = [self.normaliser.normalised(image) for image in images]
        return {
            IMAGES: np.stack([old if new is None else new for old, new in zip(images, normalised, strict=True)]),
            STAINED: np.array([UNCHANGED if new is None else NORMALISED for new in normalised], np.uint8),
        }


def fit_stain(settings: Ingest) -> FittedStain | None:
    """Fit the normalisation of the settings to its reference; None without a reference.

    Raises InputRefused where the reference is neither an image nor a complete patch store, or has too little tissue.
    """
    path = settings.stain_reference
    if path is None:
        return None
    reference, digest = _read_reference(path)
    try:
        normaliser = StainNormaliser.fit(settings.stain, reference)
    except InputRefused as error:
        raise InputRefused(f"{path}: {error}") from None
    return FittedStain(
        normaliser,
        {"stain": {"method": settings.stain, "reference": digest}},
        {"stain": {"reference": path.name, **normaliser.parameters}},
    )


def _read_reference(path: Path) -> tuple[np.ndarray, str]:
    """Return the reference (H, W, 3) uint8, and the checksum of the file or the digest of the store."""
    if not path.exists():
        raise InputRefused(f"{path}: no such stain reference; give an image file or a patch store")
    if not path.is_dir():
        return decode_image(path), file_checksum(path)
    patches = Patches(path)
    rows = np.unique(np.linspace(0, len(patches) - 1, _PATCHES).round().astype(np.int64))
    return np.concatenate(list(patches.read(rows))), patches.digest
