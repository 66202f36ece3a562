"""The `corrected` profile: every registered measure, the study's as its text defines them."""

from __future__ import annotations

from functools import cache

import numpy as np

from histoxai.core import registry
from histoxai.score.measures.base import Measure
from histoxai.score.profiles.base import Profile, ProfileScores, StoredScores


class CorrectedProfile(Profile):
    """Measure maps as the study's text says, and by every other registered measure.

    A map pixel is one above `map_threshold`, a mask pixel above `mask_threshold`. 0/0 is undefined (NaN). A map that is
    not finite has no measure at all. Source: Valatkaite 2024, text.
    """

    @classmethod
    def measures(cls) -> tuple[Measure, ...]:
        return _registered(tuple(registry.names("measure")))

    @classmethod
    def read(cls, name: str, stored: StoredScores) -> ProfileScores:
        axes = stored.header["axes"]
        study = stored.column("values")[:, :, :, axes["profile"].index(name)]
        values = np.concatenate([study, stored.column("measures")], axis=-1)
        return cls.measured(ProfileScores(axes["chance"], values, stored.column("chance")), stored)


@cache
def _registered(names: tuple[str, ...]) -> tuple[Measure, ...]:
    return tuple(registry.resolve("measure", name) for name in names)
