"""Descriptors that a store keeps of every patch: hashes, by which related patches are found, and quality."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from histoxai.ingest.hashes import content_hash, perceptual_hash, rotation_invariant_hash
from histoxai.ingest.quality import QUALITY_COLUMNS, measure_quality

IDENTITY_COLUMNS = ("content_high", "content_low", "orbit_high", "orbit_low", "perceptual")
# Path in the store: dtype, and names of the columns.
DESCRIPTORS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "identity": (np.uint64, IDENTITY_COLUMNS),
    "quality": (np.float32, QUALITY_COLUMNS),
}


def compute_descriptors(images: np.ndarray, threads: int = 1) -> dict[str, np.ndarray]:
    """Compute identity (n, 5) uint64 and quality (n, 4) float32 of images (n, H, W, 3) uint8."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        pairs = list(pool.map(_describe, images))
    return {
        path: np.array([pair[k] for pair in pairs], dtype).reshape(len(images), len(columns))
        for k, (path, (dtype, columns)) in enumerate(DESCRIPTORS.items())
    }


def _describe(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hashes = [*content_hash(image), *rotation_invariant_hash(image), perceptual_hash(image)]
    return np.array(hashes, np.uint64), measure_quality(image)
