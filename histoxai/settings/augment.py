"""Settings of `augment` and `audit`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from histoxai.core.errors import UsageError
from histoxai.settings import base
from histoxai.settings.base import Checked, option

_SPLIT = "Split"


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Read three numbers with commas between them; raise UsageError for anything else."""
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--fractions {text}: expected three numbers such as 0.5,0.2,0.3") from None
    return train, validation, test


_near = partial(option, None, "Near duplicates: bits by which hashes may differ.", _SPLIT, "BITS", ge=0, le=8)


@dataclass(frozen=True, kw_only=True)
class Augment(Checked):
    """How `augment` splits, rotates and balances patches.

    fractions: they add up to 1. split_by: what stays on one side of the split with all its relatives; group is the
    patient where known, else the scan; patch is the study's rule, and source keeps the source's own split. near:
    patches whose perceptual hashes differ in at most so many bits stay together too. rotate: add turned copies of the
    smallest classes before classes are balanced, the study's rule.
    """

    fractions: tuple[float, float, float] = option(
        (0.5, 0.2, 0.3), "Shares of train, validation, test.", _SPLIT, "A,B,C", parse=parse_fractions, text=base.join
    )
    split_by: str = option(
        "group",
        "What no two splits share",
        _SPLIT,
        "NAME",
        choices=("group", "scan", "patient", "site", "patch", "source"),
    )
    seed: int = base.seed()
    shard_size: int = base.shard_size(512)
    folds: int | None = option(None, "Cut into equal parts instead; with --fold.", _SPLIT, "K", ge=3, le=1000)
    fold: int | None = option(None, "Part for testing, from 0; the next validates.", _SPLIT, "I", ge=0)
    hold_out: tuple[str, ...] | None = option(
        None,
        "Sites that are the test split, commas between.",
        _SPLIT,
        "NAMES",
        parse=base.names("--hold-out"),
        text=base.join,
    )
    near: int | None = _near()
    rotate: bool = option(True, "Add rotated copies of the smallest classes.", _SPLIT, omit_default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.folds is None) != (self.fold is None) or (self.folds and (self.fold or 0) >= self.folds):
            raise UsageError("--folds K --fold I: go together, with I from 0 to K - 1")
        if self.split_by in ("patch", "source") and (self.folds or self.hold_out or self.near is not None):
            raise UsageError(f"--split-by {self.split_by}: goes with none of --folds, --hold-out and --near")
        if self.folds and self.hold_out:
            raise UsageError("--folds and --hold-out: one at a time")
        shares = self.fractions
        if len(shares) != 3 or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            raise UsageError(f"--fractions: {shares} must be three shares that add up to 1")
        if shares[0] == 0:
            raise UsageError("--fractions: the first share, train, cannot be 0")


@dataclass(frozen=True, kw_only=True)
class Audit(Checked):
    """Settings of `audit`; near: as in `Augment`, None to leave near duplicates out."""

    near: int | None = _near()
