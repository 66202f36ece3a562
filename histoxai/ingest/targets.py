"""Turn the numbers in masks into two planes of 0 and 1: tumor and non-tumor."""

from __future__ import annotations

from collections.abc import Iterable
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


# Settings of the masks, for formats that have some.
MASK_SETTINGS = ("class_map", "images", "masks", "tumor", "non_tumor", "mask_threshold", "ignore_value")
_DECIDE = (
    "say what is tumor: --mask-threshold 128 (grey edges or probabilities; 1 for numbered objects), --ignore-value 255 "
    "(a number that counts as background), or --class-map 1=tumor,2=stroma"
)
_SHOWN = 8


def histogram(values: np.ndarray, counts: np.ndarray) -> str:
    """Write how often values occur, the most frequent of many: "59,496 px of 0, 600 px of 255"."""
    common = np.sort(np.argsort(-counts, kind="stable")[:_SHOWN])
    shown = ", ".join(f"{int(counts[k]):,} px of {values[k]:g}" for k in common)
    others = len(values) - len(common)
    return shown + (f", and {others} more values up to {values[-1]:g}" if others else "")


class TargetPlanes:
    """Turns label images into tumor and non-tumor planes.

    With a class map every number but 0 (background) must be in it. Without one, --tumor and --non-tumor name numbers.
    Without any of them masks hold 0 and one other number, which is tumor, unless a threshold says what is.

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
        self._threshold, self._ignored = settings.mask_threshold, settings.ignore_value
        self._all_are_tumor = tumor is None and non_tumor is None
        self._number: tuple[int, object] | None = None  # the one beside 0 in all masks, and where it was seen first
        self._values = [
            self._mask_values(root, tumor or (), "--tumor"),
            self._mask_values(root, non_tumor or (), "--non-tumor"),
        ]
        self.facts: dict[str, Any] = {"tumor": list(tumor or ()), "non_tumor": list(non_tumor or ())}
        if self.names:
            self.facts["class_map"] = {str(k): v for k, v in sorted(self.names.items())}
        if self._all_are_tumor:
            self.facts["tumor"] = ["any"]
        self.facts |= {
            name: value
            for name, value in (("mask_threshold", self._threshold), ("ignore_value", self._ignored))
            if value is not None
        }

    @property
    def note(self) -> str:
        """Sentence for the user that says which mask values become which plane."""
        ignored = "" if self._ignored is None else f"; {self._ignored} is background (--ignore-value)"
        if self._threshold is not None:
            return f"masks: tumor: values from {self._threshold} on (--mask-threshold){ignored}; non-tumor: none"
        if self._all_are_tumor:
            return (
                "every mask value above 0 counts as tumor and none as non-tumor: name values with --class-map "
                "3=epithelial,4=spindle and choose with --tumor, --non-tumor"
            )
        parts = [f"{k.replace('_', '-')}: {', '.join(self.facts[k]) or 'none'}" for k in ("tumor", "non_tumor")]
        return f"masks: {'; '.join(parts)} (--tumor, --non-tumor){ignored}"

    def planes(self, values: np.ndarray, where: object) -> np.ndarray:
        """Convert masks (n, H, W) of whole numbers to planes (n, 2, H, W) uint8 in {0, 1}.

        Raises InputRefused, naming `where`, for fractions, numbers below 0, numbers that the class map lacks, and
        without map and choice for more numbers than 0 and one other.
        """
        if self._all_are_tumor:
            return self.planes_of_objects(self.objects(values, where), where)
        values = self._checked(values, where)
        if self.names and (unknown := [int(v) for v in np.unique(values) if v != 0 and int(v) not in self.names]):
            raise InputRefused(
                f"{escape_text(where)}: has mask value {unknown[0]}, which --class-map does not name; add "
                f"{unknown[0]}=other, say (0 is background)"
            )
        return np.stack([np.isin(values, numbers) for numbers in self._values], axis=1).astype(np.uint8)

    def objects(self, values: np.ndarray, where: object) -> np.ndarray:
        """Return where masks of any shape show an object, bool: at the threshold or above, else at the one number.

        Raises InputRefused as `planes` without map and choice.
        """
        values = self._checked(values, where)
        if self._threshold is not None:
            return np.asarray(values >= self._threshold)
        self._require_one_number(values, where)
        return np.asarray(values > 0)

    def planes_of_objects(self, objects: np.ndarray, where: object) -> np.ndarray:
        """Convert masks of objects (n, H, W) bool to planes (n, 2, H, W) uint8: value 1 of a map, else tumor."""
        if self._all_are_tumor:
            return np.stack([objects, np.zeros_like(objects)], axis=1).astype(np.uint8)
        return self.planes(objects.astype(np.int64), where)

    def _checked(self, values: np.ndarray, where: object) -> np.ndarray:
        """Return whole numbers from 0 on, those that are ignored as 0."""
        present = np.unique(values)
        if values.dtype.kind not in "bui" and not np.array_equal(present, np.floor(present)):  # also where NaN
            raise InputRefused(f"{escape_text(where)}: mask values are no whole numbers; save class numbers instead")
        if len(present) and present[0] < 0:
            raise InputRefused(f"{escape_text(where)}: has mask value {present[0]}; expected 0 for background and more")
        return values if self._ignored is None else np.where(values == self._ignored, 0, values)

    def _require_one_number(self, values: np.ndarray, where: object) -> None:
        """Raise InputRefused unless all masks so far hold 0 and one other number."""
        present, counts = np.unique(values, return_counts=True)
        numbers = present[present != 0]
        if not len(numbers):
            return
        if len(numbers) > 1:
            raise InputRefused(
                f"{escape_text(where)}: holds {len(numbers)} numbers beside 0: {histogram(present, counts)}; {_DECIDE}"
            )
        self._number = self._number or (int(numbers[0]), where)
        if self._number[0] != numbers[0]:
            raise InputRefused(
                f"{escape_text(where)}: holds {int(numbers[0])} beside 0, where {escape_text(self._number[1])} holds "
                f"{self._number[0]}; {_DECIDE}"
            )

    def probe(self, masks: Iterable[tuple[np.ndarray, object]]) -> None:
        """Look at the first masks (values, where), up to the first with an object: is it clear what is tumor?

        So the number beside 0 is the same in every process, and what is unclear is refused before any work.
        """
        if self._all_are_tumor and self._threshold is None:
            for values, where in masks:
                self.objects(values, where)
                if self._number is not None:
                    return

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
