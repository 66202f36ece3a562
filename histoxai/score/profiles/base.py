"""Base of all scoring profiles: how a map is rendered, which measures it gets, and the chance of each.

Two profiles are built in: `corrected` computes what the study's text defines, `thesis` what its code computes. A new
one is one file and one entry of the registry. Its values and chances get arrays of their own in a scores store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.score.measures.base import Measure, RenderedMap


@dataclass(frozen=True)
class StoredScores:
    """A scores store as a profile reads it: its path and header, and a function that reads an array by name."""

    path: Any
    header: dict[str, Any]
    column: Callable[[str], np.ndarray]


@dataclass(frozen=True)
class ProfileScores:
    """Values and chances (n, methods, masks, Q) float64 of Q named measures; NaN where undefined."""

    names: list[str]
    values: np.ndarray
    chance: np.ndarray


def array_path(profile: str, kind: str) -> str:
    """Return where a profile beyond the built-in ones keeps its "values" or "chance": (n, methods, masks, Q)."""
    return f"profiles/{profile}/{kind}"


class Profile(ABC):
    """Base of all profiles: subclasses name their measures, and may render maps in another way.

    constant: what min-max scaling makes of a constant channel when maps are rendered.
    """

    constant: ClassVar[float] = 0.0

    @classmethod
    @abstractmethod
    def measures(cls) -> Sequence[Measure]:
        """Return the measures of this profile, in the order of its columns."""

    def render(self, plane: Callable[[float], np.ndarray]) -> np.ndarray:
        """Return the map (H, W) float64 in 0..1; plane(constant) renders it with a value for constant channels."""
        return plane(self.constant)

    def score(self, rendered: RenderedMap) -> tuple[np.ndarray, np.ndarray]:
        """Return values and chances, float64 (masks, measures), of one map against each mask; NaN undefined."""
        scores = np.array([[m.score(pair) for m in self.measures()] for pair in rendered.pairs], np.float64)
        return scores[..., 0], scores[..., 1]

    @classmethod
    def available(cls, counts_only: bool) -> list[str]:
        """Return the names of the measures that a store has; counts_only: one made with --measures counts."""
        return [m.name for m in cls.measures() if m.needs == "counts" or not counts_only]

    @classmethod
    def read(cls, name: str, stored: StoredScores) -> ProfileScores:
        """Read what a store holds of this profile, registered as `name`.

        Raises InputRefused where the store was made before the profile was installed.
        """
        if name not in stored.header["axes"].get("profiles", {}):
            raise InputRefused(f"{stored.path}: was scored without the profile '{name}'; score again with --force")
        values, chance = (stored.column(array_path(name, kind)) for kind in ("values", "chance"))
        return cls.measured(ProfileScores(stored.header["axes"]["profiles"][name], values, chance), stored)

    @classmethod
    def measured(cls, scores: ProfileScores, stored: StoredScores) -> ProfileScores:
        """Return the scores without the measures that --measures counts has left out of a store."""
        counts_only = stored.header["settings"]["measures"] != "all"
        skipped = {m.name for m in cls.measures()} - set(cls.available(counts_only))
        at = [k for k, name in enumerate(scores.names) if name not in skipped]
        return ProfileScores([scores.names[k] for k in at], scores.values[..., at], scores.chance[..., at])
