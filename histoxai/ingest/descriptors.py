"""What a patch store keeps of every patch beside its pixels: hashes that tell relatives, and quality."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from histoxai.ingest.hashes import content_hash, perceptual_hash, rotation_invariant_hash
from histoxai.ingest.quality import QUALITY_COLUMNS, measure_quality

IDENTITY_COLUMNS = ("content_high", "content_low", "orbit_high", "orbit_low", "perceptual")
# path in the store: dtype, and what the columns are
DESCRIPTORS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "identity": (np.uint64, IDENTITY_COLUMNS),
    "quality": (np.float32, QUALITY_COLUMNS),
}


def compute_descriptors(images: np.ndarray, threads: int = 1) -> dict[str, np.ndarray]:
    """The arrays of DESCRIBED for images (n, H, W, 3) uint8: identity (n, 5), quality (n, 4)."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        pairs = list(pool.map(_one, images))
    return {
        path: np.array([pair[k] for pair in pairs], kind).reshape(len(images), len(columns))
        for k, (path, (kind, columns)) in enumerate(DESCRIPTORS.items())
    }


def _one(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    who = np.array([*content_hash(image), *rotation_invariant_hash(image), perceptual_hash(image)], np.uint64)
    return who, measure_quality(image)
