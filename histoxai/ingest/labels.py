"""Labels in arrays, numbers or text, as class indices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.ingest.npy_files import RowArray

NO_CLASS, LEFT_OUT = -1, -2  # in place of a class: a patch without a label, and one that is not wanted
_MISSING = frozenset(("", "nan", "NaN", "None", "NA", "N/A", "<NA>", "NaT", "null"))  # as other programs write it
_MOST = 1000  # distinct values; an array with more holds no class labels


def is_missing(text: str) -> bool:
    """Return whether text stands for no value: it is empty, or what pandas, numpy or R write for missing ones."""
    return text in _MISSING


def read_labels(array: RowArray, what: str = "labels") -> np.ndarray:
    """Read an array of shape (n) or (n, 1, ...) as (n) int64, or as (n) str without spaces around the text.

    Numbers to which the file itself gives names (an enum of HDF5) become these names.

    Raises InputRefused for other shapes, fractions, NaN, numbers below 0, and text that is not UTF-8.
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
    return _named(whole, array, what)


def _named(numbers: np.ndarray, array: RowArray, what: str) -> np.ndarray:
    """Return the names of an HDF5 enum in place of its numbers, and other numbers as they are."""
    enum = dict(array.dtype.metadata or {}).get("enum")  # as h5py stores it
    if not enum:
        return numbers
    names = {int(number): str(name).strip() for name, number in enum.items()}
    if unknown := sorted(set(numbers.tolist()) - set(names)):
        raise InputRefused(f"{array.path}: {what} hold {unknown[0]}, which their enum does not name; add its name")
    return np.array([names[number] for number in numbers.tolist()], dtype=str)


def encode_labels(
    labels: Sequence[np.ndarray | None],
    paths: Sequence[Path],
    selected: tuple[str, ...] | None,
    from_metadata: bool,
) -> tuple[list[str], list[np.ndarray | None]]:
    """Return class names, and the labels of several arrays as int64 indices into them.

    labels: of each array, as `read_labels` gives them, None where there are none; paths: of each array, for messages.
    selected: the classes that the user names. Numbers 0..k-1 take these names. Where the names are the labels
    themselves, numbers or text, they select classes instead. from_metadata: labels may come from a table later, so that
    an array without labels can have selected classes.

    An index is NO_CLASS for text that `is_missing`, and LEFT_OUT for a label that is not selected. Raises InputRefused
    for a label without a name, and a name that no label has.
    """
    present = _distinct_labels(labels, paths)
    if present is None:
        if selected and not from_metadata:
            raise InputRefused(f"{paths[0]}: has no labels to go with --classes; leave it out")
        return list(selected or ()), [None for _ in labels]
    if present.dtype.kind == "i" and selected and not set(selected) <= set(present.astype(str)):
        _require_names(labels, paths, len(selected))
        return list(selected), list(labels)
    texts = present.astype(str).tolist()
    words = [text for text in texts if not is_missing(text)]
    classes = list(selected or words)
    if unknown := [c for c in classes if not c or c not in texts]:
        raise InputRefused(f"{paths[0]}: has no label '{unknown[0]}'; it has {', '.join(words)}")
    code = {word: k for k, word in enumerate(classes)}
    # selected classes leave out patches without a label
    unlabelled = {} if selected else {text: NO_CLASS for text in texts if is_missing(text)}
    coded = np.array([(code | unlabelled).get(text, LEFT_OUT) for text in texts])
    return classes, [None if v is None else coded[np.searchsorted(present, v)] for v in labels]


def _distinct_labels(labels: Sequence[np.ndarray | None], paths: Sequence[Path]) -> np.ndarray | None:
    """Return the sorted distinct values of all labels, or None where there are no labels."""
    arrays = [v for v in labels if v is not None and len(v)]
    if not arrays:
        return None
    if len({v.dtype.kind == "i" for v in arrays}) > 1:
        raise InputRefused(f"{paths[0]}: labels are numbers in one part and names in another; save them alike")
    present = np.unique(np.concatenate(arrays))
    if len(present) > _MOST:
        raise InputRefused(f"{paths[0]}: has {len(present)} different labels; are they class numbers? name --labels")
    return present


def _require_names(labels: Sequence[np.ndarray | None], paths: Sequence[Path], k: int) -> None:
    for values, path in zip(labels, paths, strict=True):
        if values is not None and (values >= k).any():
            value = int(values[values >= k][0])
            raise InputRefused(f"{path}: has label {value}, but --classes names 0 to {k - 1}; name all of them")
