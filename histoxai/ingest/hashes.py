"""Hashes of patches, by which exact, rotated or mirrored, and near duplicates are found.

A patch of one colour has no hash: blank glass is the same everywhere, and would relate all slides.
"""

from __future__ import annotations

import cv2
import numpy as np
import xxhash

NO_HASH = 0  # stands for a patch of one colour
_SIDE, _FREQUENCIES = 32, 8
_ROTATIONS = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)


def content_hash(image: np.ndarray) -> np.ndarray:
    """Return a 128-bit hash (2,) uint64 of an image (H, W, 3) uint8: equal for equal pixels, 0 for one colour."""
    return np.zeros(2, np.uint64) if _is_one_colour(image) else _as_two_words(_hash(image))


def rotation_invariant_hash(image: np.ndarray) -> np.ndarray:
    """Return a 128-bit hash (2,) uint64 that an image shares with its seven rotated and mirrored versions.

    It is the least of the eight versions' own hashes; 0 for an image of one colour.
    """
    if _is_one_colour(image):
        return np.zeros(2, np.uint64)
    least = _hash(image)
    for version in (image, cv2.flip(image, 1)):
        for rotation in _ROTATIONS:
            # one at a time, so that the memory of the last one is still in the cache
            least = min(least, _hash(version if rotation is None else cv2.rotate(version, rotation)))
    return _as_two_words(least)


def perceptual_hash(image: np.ndarray) -> np.uint64:
    """Return the signs of the 63 lowest frequencies of an image (H, W, 3) uint8, as bits; 0 for one colour.

    Bit 8 v + u is the sign of the cosine coefficient at (v, u), 0..7 each, of the grey image at 32 x 32 px. Bit 0, the
    mean, is always set, so that only images of one colour get 0. Source: Zauner 2010, with 0 in place of the median, so
    that a rotation of the image changes the bits by a rule (`hashes_of_rotations`). Rescaling, JPEG and a little blur
    change a few bits.
    """
    if _is_one_colour(image):
        return np.uint64(NO_HASH)
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    signs = cv2.dct(grey.astype(np.float32))[:_FREQUENCIES, :_FREQUENCIES] > 0
    return _pack(signs.ravel()[None])[0]


def hashes_of_rotations(hashes: np.ndarray) -> np.ndarray:
    """Convert perceptual hashes (n,) to (8, n) uint64, those of the eight rotated and mirrored versions.

    Mirroring changes the sign of every odd frequency along that axis, transposing exchanges the axes.
    """
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    table = bits.astype(bool).reshape(-1, _FREQUENCIES, _FREQUENCIES)
    odd = np.arange(_FREQUENCIES) % 2 == 1
    versions = []
    for square in (table, table.transpose(0, 2, 1)):
        for down in (False, True):
            for across in (False, True):
                flips = (odd[:, None] & down) ^ (odd[None, :] & across)
                versions.append(_pack((square ^ flips).reshape(-1, _FREQUENCIES**2)))
    return np.where(hashes == NO_HASH, np.uint64(NO_HASH), np.stack(versions))


def _pack(bits: np.ndarray) -> np.ndarray:
    # bits (n, 64) bool -> (n,) uint64; the first bit is the lowest and always set
    bits = bits.copy()
    bits[:, 0] = True
    return np.packbits(bits, axis=1, bitorder="little").view("<u8").ravel().astype(np.uint64)


def _is_one_colour(image: np.ndarray) -> bool:
    first = image[0, 0]
    return bool((image[0] == first).all() and (image == first).all())


def _hash(image: np.ndarray) -> int:
    return xxhash.xxh3_128_intdigest(np.ascontiguousarray(image).data)


def _as_two_words(number: int) -> np.ndarray:
    # 0 means no hash, so a lower word of 0 becomes 1
    return np.array([number >> 64, number & (2**64 - 1) or 1], np.uint64)
