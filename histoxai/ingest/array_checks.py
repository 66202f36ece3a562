"""Checks of arrays of images: shape, dtype and values."""

from __future__ import annotations

import math

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.ingest.npy_files import RowArray
from histoxai.store.records import MAX_ROWS

_PROBED, _PROBED_AT_ONCE, _PROBED_BYTES = 4096, 16, 1 << 26  # rows whose values are looked at before any work
MAX_PIXELS = 100_000_000  # of one patch; a header that claims more would fill memory before any data is read


def require_images(array: RowArray, dtype: str | None = None) -> None:
    """Raise InputRefused unless an array has the shape (n, H, W, 3) and holds numbers (of `dtype`, where given)."""
    shape = array.shape
    if len(shape) != 4 or shape[-1] != 3:
        remedy = ""
        if len(shape) == 4 and shape[1] == 3:
            remedy = ": channels come first; save numpy.moveaxis(images, 1, -1)"
        elif len(shape) == 4 and shape[-1] == 4:
            remedy = ": RGBA; blend it on white and save the first three channels"
        elif len(shape) == 3 or (len(shape) == 4 and shape[-1] == 1):
            remedy = ": grayscale; H&E needs colour"
        raise InputRefused(f"{array.path}: has shape {shape}; expected (n, height, width, 3){remedy}")
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise InputRefused(f"{array.path}: has dtype {array.dtype}; expected {dtype} (values 0 to 255)")
    if 0 in shape:
        raise InputRefused(f"{array.path}: holds no patch; remove it")
    if shape[0] > MAX_ROWS or shape[1] * shape[2] > MAX_PIXELS:
        raise InputRefused(
            f"{array.path}: claims {shape[0]:,} patches of {shape[2]:,} x {shape[1]:,} px; is it damaged?"
        )
    if array.dtype.kind not in "uif":
        raise InputRefused(f"{array.path}: has dtype {array.dtype}; expected numbers from 0 to 255")


def require_full_range(array: RowArray) -> None:
    """Raise InputRefused where the first patches hold nothing but 0 and 1: images in 0..1 that were rounded.

    Rows that cannot be read are refused later, when they are needed.
    """
    row = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    step = min(_PROBED_AT_ONCE, max(1, _PROBED_BYTES // row))
    has_one = False
    for start in range(0, min(array.shape[0], _PROBED), step):
        try:
            values = array.read(start, min(start + step, array.shape[0]))
        except InputRefused:
            return
        if not ((values == 0) | (values == 1)).all():
            return
        has_one |= bool(values.any())
    if has_one:
        raise InputRefused(
            f"{array.path}: values are 0 and 1 alone, which is black; images in 0..1 were rounded too early: multiply "
            "them by 255, then round"
        )


def as_uint8(values: np.ndarray, where: object) -> np.ndarray:
    """Convert whole numbers in 0..255 of any dtype to uint8.

    Raises InputRefused, naming `where`, for all other numbers: values in 0..1 would turn black without notice.
    """
    if values.dtype == np.uint8:
        return values
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.uint8)
    if np.array_equal(whole, values):
        return whole
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputRefused(f"{where}: holds NaN or infinity; replace them or leave those patches out")
    low, high = values.min(), values.max()
    remedy = "scale and round them first"
    if low >= 0 and high <= 1:
        remedy = "multiply them by 255 and round"
    elif low >= 0 and 255 < high < 65536:
        remedy = "they look like 16 bits: divide them by 257 and round"
    raise InputRefused(f"{where}: values from {low:g} to {high:g} are not whole numbers in 0..255; {remedy}")
