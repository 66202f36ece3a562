"""Write measures, masks, lists of names and counts as they read in the page's sentences."""

from __future__ import annotations

from collections.abc import Sequence

_LISTED = 4  # names of a longer list that are written out
_IN_SENTENCES = {"auroc": "pixel AUROC", "iou": "IoU"}


def measure_in_sentence(measure: str) -> str:
    """Return a measure's name as it reads in a sentence, such as "pixel AUROC"."""
    return _IN_SENTENCES.get(measure, measure.replace("_", " "))


def hyphenated(name: str) -> str:
    """Return the name of a mask as it reads: "non_tumor" is "non-tumor"."""
    return name.replace("_", "-")


def join_names(names: Sequence[str]) -> str:
    """Return "A, B and C"; of more than five names the first four and how many more."""
    if not names:
        return "none"
    if len(names) > _LISTED + 1:
        names = [*names[:_LISTED], f"{len(names) - _LISTED} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def is_or_are(names: Sequence[str]) -> str:
    """Return the verb for some names."""
    return "are" if len(names) > 1 else "is"


def does_or_do(names: Sequence[str]) -> str:
    """Return the auxiliary verb for some names."""
    return "do" if len(names) > 1 else "does"


def count_groups(n: int) -> str:
    """Return "1 group" or "1,234 groups"."""
    return f"{n:,} group{'' if n == 1 else 's'}"


def count_patches(n: int) -> str:
    """Return "1 patch" or "1,234 patches"."""
    return f"{n:,} patch{'' if n == 1 else 'es'}"
