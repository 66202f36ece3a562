"""Base of all measures: how well one map agrees with one mask of the same patch.

A measure is one object: it knows its name, its words, its value and its chance value. Values that several measures
share, such as the sorted map, are computed once by `once`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from histoxai.settings import Score
from histoxai.statistics.confusion import confusion_counts
from histoxai.statistics.ranks import Hits, Ranking, centred_ranks

# Why a measure may be undefined, or mean nothing: bits of the array `flags` of a scores store.
DEGENERATE = {"empty_mask": 1, "full_mask": 2, "constant_map": 4, "not_finite_map": 8}
NAN = float("nan")
T = TypeVar("T")


class Shared:
    """Remember results that several measures need."""

    @cached_property
    def _results(self) -> dict[Any, Any]:
        return {}

    def once(self, compute: Callable[..., T], *arguments: Any) -> T:
        """Return compute(self, *arguments), computed when it is first asked for."""
        key = (compute, *arguments)
        if key not in self._results:
            self._results[key] = compute(self, *arguments)
        return self._results[key]


class PatchMask(Shared):
    """One mask of one patch: its probability (H, W) float64 in 0..1, and that binarised at a threshold."""

    def __init__(self, probability: np.ndarray, threshold: float) -> None:
        self.probability, self.threshold = np.asarray(probability, np.float64), threshold
        self.binary: np.ndarray = self.probability > threshold

    @cached_property
    def ranks(self) -> np.ndarray | None:
        """Centred ranks of the probabilities; None for a constant mask."""
        return centred_ranks(self.probability)

    @cached_property
    def flags(self) -> int:
        """Bits of DEGENERATE."""
        empty, full = not self.binary.any(), bool(self.binary.all())
        return (DEGENERATE["empty_mask"] if empty else 0) | (DEGENERATE["full_mask"] if full else 0)


class PatchMasks(Shared, list[PatchMask]):
    """All masks of one patch, made once for all its maps."""

    @classmethod
    def of(cls, probabilities: np.ndarray, threshold: float) -> PatchMasks:
        """Binarise probabilities (masks, H, W) above the threshold."""
        return cls(PatchMask(p, threshold) for p in probabilities)

    @cached_property
    def truth(self) -> np.ndarray:
        """Binary masks as rows (masks + 1, P) bool; the last row is their union."""
        rows = np.stack([mask.binary.ravel() for mask in self])
        return np.concatenate([rows, rows.any(axis=0, keepdims=True)])


class RenderedMap(Shared):
    """One map of one patch as a profile renders it, beside the masks of the patch.

    plane (H, W): float64 in 0..1, as the study binarises it. relevance (H, W): float32, evidence of one sign that is
    neither scaled nor cut; None where only pixel counts are measured. method: the registered name of the method.
    """

    def __init__(
        self, method: str, plane: np.ndarray, relevance: np.ndarray | None, masks: PatchMasks, settings: Score
    ) -> None:
        self.method, self.plane, self.relevance, self.masks = method, plane, relevance, masks
        self.settings = settings

    @cached_property
    def found(self) -> np.ndarray:
        """Pixels (H, W) bool of the plane above the map threshold; NaN is not above."""
        return self.plane > self.settings.map_threshold

    @cached_property
    def counts(self) -> np.ndarray:
        """TP, FP, FN, TN of `found` against each mask and their union; int64 (masks + 1, 4)."""
        return confusion_counts(self.found.ravel(), self.masks.truth)

    @cached_property
    def plane_is_finite(self) -> bool:
        """Whether every pixel of the plane is a number."""
        return bool(np.isfinite(self.plane).all())

    @cached_property
    def is_finite(self) -> bool:
        """Whether plane and relevance, where there is one, are finite; else the map has no chance value at all."""
        return self.plane_is_finite and (self.relevance is None or bool(np.isfinite(self.relevance).all()))

    @property
    def required_relevance(self) -> np.ndarray:
        """The relevance, where a measure needs one."""
        assert self.relevance is not None
        return self.relevance

    @cached_property
    def ranking(self) -> Ranking:
        """Pixels sorted by relevance, which must be there and finite."""
        return Ranking.of(self.required_relevance)

    @cached_property
    def plane_ranks(self) -> np.ndarray | None:
        """Centred ranks of the plane; None for a constant or non-finite one."""
        return centred_ranks(self.plane)

    @cached_property
    def flags(self) -> np.ndarray:
        """Bits of DEGENERATE of the map and each mask; uint8 (masks,)."""
        values = self.plane if self.relevance is None else self.relevance
        flags = np.array([mask.flags for mask in self.masks], np.uint8)
        if not self.is_finite:
            return flags | DEGENERATE["not_finite_map"]
        return flags | DEGENERATE["constant_map"] if values.min() == values.max() else flags

    @cached_property
    def pairs(self) -> list[Pair]:
        """The map beside each mask."""
        return [Pair(self, mask, k) for k, mask in enumerate(self.masks)]


class Pair(Shared):
    """One map and one mask of the same patch; index: which of the map's masks."""

    def __init__(self, rendered: RenderedMap, mask: PatchMask, index: int) -> None:
        self.map, self.mask, self.index = rendered, mask, index

    @property
    def counts(self) -> np.ndarray:
        """TP, FP, FN, TN (4,) int64 of the map above its threshold."""
        return self.map.counts[self.index]

    @cached_property
    def hits(self) -> Hits:
        """Pixels of the mask along the sorted map."""
        return self.map.ranking.against(self.mask.binary)

    @property
    def prevalence(self) -> float:
        """Share of the patch that is in the mask."""
        return self.hits.positives / self.hits.pixels


@dataclass(frozen=True, kw_only=True)
class Measure(ABC):
    """How well a map agrees with a mask.

    name: as users type it. label: as pages and figures print it. subject, description: what is compared, and how.
    source: a key of references.bib, or a sentence. lowest, highest: bounds of the value; the highest is the best.
    needs: "counts" where four pixel counts are enough, "plane" where intensities of the plane are compared,
    "relevance" where the evidence is ranked. convention: whether --empty gives a value to 0/0; otherwise it stays
    undefined. variant_of: the measure that this one repeats at another threshold. headline: whether tables for
    people show it.
    """

    name: str
    label: str
    subject: str
    description: str
    source: str
    needs: Literal["counts", "plane", "relevance"] = "relevance"
    lowest: float = 0.0
    highest: float = 1.0
    convention: bool = True
    variant_of: str = ""
    headline: bool = False

    @abstractmethod
    def value(self, pair: Pair) -> float:
        """Return the value of a finite map; NaN where it is undefined."""

    @abstractmethod
    def chance(self, pair: Pair) -> float:
        """Return the expected value of a map that knows nothing: as many pixels as the real one, drawn at random."""

    def score(self, pair: Pair) -> tuple[float, float]:
        """Return value and chance; NaN where the map is not finite, and chance where the value is undefined."""
        view = pair.map
        if self.needs == "relevance" and (view.relevance is None or not view.is_finite):
            return NAN, NAN
        value = self.value(pair) if view.plane_is_finite else NAN
        chance = self.chance(pair) if view.is_finite else NAN
        return value, NAN if self.needs == "relevance" and np.isnan(value) else chance


@dataclass(frozen=True, kw_only=True)
class FormulaMeasure(Measure):
    """A measure that two functions of a pair define: its value and its chance."""

    formula: Callable[[Pair], float]
    expected: Callable[[Pair], float]

    def value(self, pair: Pair) -> float:
        return self.formula(pair)

    def chance(self, pair: Pair) -> float:
        return self.expected(pair)
