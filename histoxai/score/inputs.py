"""Inputs of `score`: paths of stores and of the model, and which tests are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histoxai.settings import Faithfulness


@dataclass(frozen=True)
class FaithfulnessInputs:
    """Tests of the maps on their model: settings, run folder, and the patches if they were moved."""

    settings: Faithfulness
    model: Path
    patches: Path | None = None


@dataclass(frozen=True)
class ScoreInputs:
    """What `score` reads.

    maps, masks: stores. allow_partial: score only the patches that have every map and a mask; a method that has not
    begun is left out. faithfulness: test the maps on their model too. patches: the explained patches, if moved.
    """

    maps: Path
    masks: Path
    allow_partial: bool = False
    faithfulness: FaithfulnessInputs | None = None
    patches: Path | None = None
