"""Which patch is which: hashes that tell exact copies, turned and mirrored ones, and near ones.

A patch of one colour has no identity: blank glass is the same everywhere, and would make relatives of all slides.
"""

from __future__ import annotations

import cv2
import numpy as np
import xxhash

NO_HASH = 0  # the hash of a patch without identity
_SIDE, _KEPT = 32, 8
_TURNS = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)


def content_hash(image: np.ndarray) -> np.ndarray:
    """128-bit hash (2,) uint64 of an image (H, W, 3) uint8: equal where all pixels are, 0 where they are one colour."""
    return np.zeros(2, np.uint64) if _blank(image) else _words(_hash(image))


def rotation_invariant_hash(image: np.ndarray) -> np.ndarray:
    """128-bit hash (2,) uint64 that an image and its seven turned and mirrored versions share; 0 as in `content`.

    The least of the eight versions' own hashes.
    """
    if _blank(image):
        return np.zeros(2, np.uint64)
    least = _hash(image)
    for one in (image, cv2.flip(image, 1)):
        for turn in _TURNS:
            # one version at a time, so that the memory of the last one is still warm
            least = min(least, _hash(one if turn is None else cv2.rotate(one, turn)))
    return _words(least)


def perceptual_hash(image: np.ndarray) -> np.uint64:
    """Signs of the 63 lowest frequencies of an image (H, W, 3) uint8, as bits; 0 where it is one colour.

    Bit 8 v + u is the sign of the cosine coefficient at (v, u), 0..7 each, of the grey image at 32 x 32 px; bit 0, the
    mean, is set, so that no image that has an identity gets 0. After Zauner 2010, with 0 in place of the median: so
    a turn of the image is a change of bits (`turned`). Differs in a few bits after rescaling, JPEG or a little blur.
    """
    if _blank(image):
        return np.uint64(NO_HASH)
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    signs = cv2.dct(grey.astype(np.float32))[:_KEPT, :_KEPT] > 0
    return _pack(signs.ravel()[None])[0]


def hashes_of_rotations(hashes: np.ndarray) -> np.ndarray:
    """Perceptual hashes (n,) of images -> (8, n) uint64, those of their eight turned and mirrored versions.

    Mirroring changes the sign of every odd frequency along that axis, transposing exchanges the axes.
    """
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    table = bits.astype(bool).reshape(-1, _KEPT, _KEPT)
    odd = np.arange(_KEPT) % 2 == 1
    made = []
    for square in (table, table.transpose(0, 2, 1)):
        for down in (False, True):
            for across in (False, True):
                change = (odd[:, None] & down) ^ (odd[None, :] & across)
                made.append(_pack((square ^ change).reshape(-1, _KEPT**2)))
    return np.where(hashes == NO_HASH, np.uint64(NO_HASH), np.stack(made))


def _pack(bits: np.ndarray) -> np.ndarray:
    # bits (n, 64) bool -> (n,) uint64, the first one lowest and always set
    bits = bits.copy()
    bits[:, 0] = True
    return np.packbits(bits, axis=1, bitorder="little").view("<u8").ravel().astype(np.uint64)


def _blank(image: np.ndarray) -> bool:
    first = image[0, 0]
    return bool((image[0] == first).all() and (image == first).all())


def _hash(image: np.ndarray) -> int:
    return xxhash.xxh3_128_intdigest(np.ascontiguousarray(image).data)


def _words(number: int) -> np.ndarray:
    # a hash that happens to be 0 is as good as any other value but 0
    return np.array([number >> 64, number & (2**64 - 1) or 1], np.uint64)
