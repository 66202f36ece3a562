"""Turn the numbers in masks into two planes of 0 and 1: tumor and non-tumor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text
from histoxai.ingest.class_map import class_map_entry
from histoxai.settings import Ingest

# Defaults of --tumor and --non-tumor: the first of these names that the class map has.
TUMOR = ("neoplastic", "tumor", "tumour", "malignant", "cancer", "carcinoma", "epithelial", "epithelium")
NON_TUMOR = ("connective", "non-tumor", "normal", "benign", "healthy", "stroma", "stromal", "spindle")


class TargetPlanes:
    """Turns label images into tumor and non-tumor planes.

    With a class map every number but 0 (background) must be in it. Without one, --tumor and --non-tumor name numbers.
    Without any of them every number above 0 is tumor.

    names: class of each number. facts: entries for the store's settings. Raises UsageError for a malformed
    --class-map, and InputRefused for names that it does not have.
    """

    def __init__(self, root: Path, settings: Ingest) -> None:
        self.names = dict(class_map_entry(entry) for entry in settings.class_map)
        tumor, non_tumor = settings.tumor, settings.non_tumor
        if self.names and non_tumor is None:
            non_tumor = self._default_name(NON_TUMOR)
        if self.names and tumor is None and not (tumor := self._default_name(TUMOR)):
            raise InputRefused(f"{root}: choose with --tumor among {', '.join(dict.fromkeys(self.names.values()))}")
        self._all_are_tumor = tumor is None and non_tumor is None
        self._values = [
            self._mask_values(root, tumor or (), "--tumor"),
            self._mask_values(root, non_tumor or (), "--non-tumor"),
        ]
        self.facts: dict[str, Any] = {"tumor": list(tumor or ()), "non_tumor": list(non_tumor or ())}
        if self.names:
            self.facts["class_map"] = {str(k): v for k, v in sorted(self.names.items())}
        if self._all_are_tumor:
            self.facts["tumor"] = ["any"]

    @property
    def note(self) -> str:
        """Sentence for the user that says which mask values become which plane."""
        if self._all_are_tumor:
            return (
                "every mask value above 0 counts as tumor and none as non-tumor: name values with --class-map "
                "3=epithelial,4=spindle and choose with --tumor, --non-tumor"
            )
        parts = [f"{k.replace('_', '-')}: {', '.join(self.facts[k]) or 'none'}" for k in ("tumor", "non_tumor")]
        return f"masks: {'; '.join(parts)} (--tumor, --non-tumor)"

    def planes(self, values: np.ndarray, where: object) -> np.ndarray:
        """Convert masks (n, H, W) of whole numbers to planes (n, 2, H, W) uint8 in {0, 1}.

        Raises InputRefused, naming `where`, for fractions, numbers below 0 and numbers that the class map lacks.
        """
        present = np.unique(values)
        if values.dtype.kind not in "bui" and not np.array_equal(present, np.floor(present)):  # also where NaN
            raise InputRefused(f"{escape_text(where)}: mask values are no whole numbers; save class numbers instead")
        if len(present) and present[0] < 0:
            raise InputRefused(f"{escape_text(where)}: has mask value {present[0]}; expected 0 for background and more")
        if self.names and (unknown := [int(v) for v in present if v != 0 and int(v) not in self.names]):
            raise InputRefused(
                f"{escape_text(where)}: has mask value {unknown[0]}, which --class-map does not name; add "
                f"{unknown[0]}=other, say (0 is background)"
            )
        planes = [(values > 0) if self._all_are_tumor else np.isin(values, numbers) for numbers in self._values]
        if self._all_are_tumor:
            planes[1] = np.zeros_like(planes[0])
        return np.stack(planes, axis=1).astype(np.uint8)

    def _default_name(self, names: tuple[str, ...]) -> tuple[str, ...]:
        own_names = {name.lower(): name for name in self.names.values()}
        return tuple(own_names[name] for name in names if name in own_names)[:1]

    def _mask_values(self, root: Path, words: tuple[str, ...], flag: str) -> list[int]:
        numbers: list[int] = []
        for word in words:
            named = [k for k, v in self.names.items() if v == word]
            if not named and not word.isdecimal():
                known = ", ".join(f"{k}={v}" for k, v in sorted(self.names.items())) or "nothing"
                raise InputRefused(f"{root}: {flag} names '{word}', but --class-map has {known}; add <number>={word}")
            numbers += named or [int(word)]
        return numbers
