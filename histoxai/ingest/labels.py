"""Labels as arrays have them, numbers or text, to classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.base import RowArray

_MOST = 1000  # more distinct values are numbers of something else


def read_labels(array: RowArray, what: str = "labels") -> np.ndarray:
    """(n) int64 or str, from an array of shape (n) or (n, 1, ...); text without the spaces around it.

    Raises InputRefused for other shapes, fractions, NaN, numbers below 0 and text that is no UTF-8.
    """
    n, path = array.shape[0], array.path
    if int(np.prod(array.shape)) != n:
        raise InputRefused(
            f"{path}: has shape {array.shape}; expected one label a patch, ({n},): save numpy.argmax of one-hot labels"
        )
    values = np.asarray(array.read(0, n)).reshape(n)
    if values.dtype.kind in "SO":
        try:
            return np.array([(v.decode() if isinstance(v, bytes) else str(v)).strip() for v in values], dtype=str)
        except UnicodeDecodeError as error:
            raise InputRefused(f"{path}: holds text that is not UTF-8; save it again as UTF-8") from error
    if values.dtype.kind in "UT":
        return np.char.strip(values.astype(str))
    if values.dtype.kind not in "biuf":
        raise InputRefused(f"{path}: has dtype {values.dtype}; expected class numbers or names")
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if not np.array_equal(whole, values) or (n and whole.min() < 0):
        raise InputRefused(f"{path}: {what} are not whole numbers from 0 on; save numbers of {what}, or names")
    return whole


def encode_labels(
    labels: Sequence[np.ndarray | None], paths: Sequence[Path], chosen: tuple[str, ...] | None, more: bool = False
) -> tuple[list[str], list[np.ndarray | None]]:
    """Class names, and each part's labels as indices into them, -1 for empty text, -2 where `chosen` leaves it out.

    Numbers 0..k-1 take the names in `chosen`, unless those are numbers themselves and choose, as names of text do.
    more: labels may come from elsewhere, so that names need none here. Raises InputRefused for a label without a name,
    and a name that no label has.
    """
    known = [v for v in labels if v is not None and len(v)]
    if not known:
        if chosen and not more:
            raise InputRefused(f"{paths[0] if paths else 'source'}: has no labels to go with --classes; leave it out")
        return list(chosen or ()), [None for _ in labels]
    if len({v.dtype.kind == "i" for v in known}) > 1:
        raise InputRefused(f"{paths[0]}: labels are numbers in one part and names in another; save them alike")
    numbers = known[0].dtype.kind == "i"
    present = np.unique(np.concatenate(known))
    if len(present) > _MOST:
        raise InputRefused(f"{paths[0]}: has {len(present)} different labels; are they class numbers? name --labels")
    if numbers and chosen and not set(chosen) <= set(present.astype(str)):
        _require_names(labels, paths, len(chosen))
        return list(chosen), list(labels)
    words = [w for w in present.astype(str).tolist() if w]
    classes = list(chosen or words)
    if unknown := [c for c in classes if c not in words]:
        raise InputRefused(f"{paths[0]}: has no label '{unknown[0]}'; it has {', '.join(words)}")
    code = {word: k for k, word in enumerate(classes)}
    none = {} if chosen else {"": -1}  # who names classes wants patches of these
    coded = np.array([(code | none).get(word, -2) for word in present.astype(str).tolist()])
    return classes, [None if v is None else coded[np.searchsorted(present, v)] for v in labels]


def _require_names(labels: Sequence[np.ndarray | None], paths: Sequence[Path], k: int) -> None:
    for values, path in zip(labels, paths, strict=True):
        if values is not None and (values >= k).any():
            value = int(values[values >= k][0])
            raise InputRefused(f"{path}: has label {value}, but --classes names 0 to {k - 1}; name all of them")
