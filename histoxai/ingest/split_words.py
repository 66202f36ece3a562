"""Recognise words that name a split, or a magnification, in names of files and folders."""

from __future__ import annotations

import re

SPLITS = {"train": 1, "training": 1, "val": 2, "valid": 2, "validation": 2, "test": 3, "testing": 3}
NAMES = {1: "train", 2: "validation", 3: "test"}
_FOLDER = re.compile(rf"(?:.*[_\- .])?({'|'.join(SPLITS)})", re.IGNORECASE)  # train, stage1_train
_MAGNIFICATION = re.compile(
    r"(?:mag(?:nification)?|level|lvl)?[_\- ]?(?:x\d+(?:\.\d+)?|\d+(?:\.\d+)?x)|"  # 40X, x40, mag_40x
    r"(?:mag(?:nification)?|level|lvl)[_\- ]?\d+(?:\.\d+)?",  # mag40, level_0
    re.IGNORECASE,
)


def split_of(name: str) -> int:
    """Return the split in the name of a file or folder (`train`, `camelyonpatch_level_2_split_valid_x`), or 0."""
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    return next((SPLITS[word] for word in words if word in SPLITS), 0)


def split_of_folder(name: str) -> int:
    """Return the split that a folder is named after (`train`, `stage1_train`), or 0."""
    match = _FOLDER.fullmatch(name)
    return SPLITS[match[1].lower()] if match else 0


def is_magnification(name: str) -> bool:
    """Return whether a folder is named after a magnification: `40X`, `x20`, `level_2`."""
    return _MAGNIFICATION.fullmatch(name) is not None
