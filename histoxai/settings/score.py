"""Settings of `score`: measures, statistics, and tests of maps on their model."""

from __future__ import annotations

from dataclasses import dataclass

from histoxai.core.errors import UsageError
from histoxai.settings import base
from histoxai.settings.base import Checked, option

MEASURES_PANEL = "Measures"
STATISTICS_PANEL = "Statistics"
MODEL_PANEL = "Tests on the model"

SANITY = "sanity"  # an item of a scores store, as each of PROBES is
PROBES = ("deletion", "insertion", "road", "infidelity", "sensitivity")
INFILLS = ("mean", "blur", "noisy_linear", "background")


@dataclass(frozen=True, kw_only=True)
class Score(Checked):
    """How maps are compared with masks.

    sure: the probability that parts the four cases. measures: all, or those that follow from pixel counts.
    """

    map_threshold: float = option(0.3, "Pixels of a map above it are ones.", MEASURES_PANEL, "X", gt=0, lt=1)
    mask_threshold: float = option(0.5, "Pixels of a mask above it are ones.", MEASURES_PANEL, "X", gt=0, lt=1)
    sure: float = option(0.6, "Probability from which predictions are sure.", MEASURES_PANEL, "X", gt=0, lt=1)
    sign: str = option(
        "own", "Evidence to rank (own: as its authors do)", MEASURES_PANEL, choices=("own", "positive", "absolute")
    )
    tolerance: float = option(0.0, "Tolerance of the pointing game.", MEASURES_PANEL, "PX", ge=0, le=1000)
    top_k: float = option(0.02, "Share of pixels that `top_k` takes.", MEASURES_PANEL, "SHARE", gt=0, le=1)
    measures: str = option(
        "all", "Which measures (counts: quick, IoU and its kin)", MEASURES_PANEL, choices=("all", "counts")
    )
    shard_size: int = base.shard_size(64)


@dataclass(frozen=True, kw_only=True)
class Faithfulness(Checked):
    """How maps are tested on the model that they explain; sanity: 0 for no randomised layers."""

    probes: tuple[str, ...] = option(
        ("deletion", "insertion"),
        f"Some of {', '.join(PROBES)}.",
        MODEL_PANEL,
        "NAMES",
        parse=base.names("--probes"),
        text=base.join,
    )
    steps: int = option(20, "Steps of deletion and insertion.", MODEL_PANEL, "N", ge=1)
    infill: str = option("mean", "In place of deleted pixels", MODEL_PANEL, "NAME", choices=INFILLS)
    squares: int = option(50, "Perturbed squares of infidelity.", MODEL_PANEL, "N", ge=10)
    perturbations: int = option(10, "Perturbed copies of sensitivity.", MODEL_PANEL, "N", ge=1)
    radius: float = option(0.02, "Largest perturbation of sensitivity.", MODEL_PANEL, "X", gt=0)
    sanity: int = option(0, "Patches explained with layers randomised in turn.", MODEL_PANEL, "K", ge=0)
    device: str = base.device()

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [probe for probe in self.probes if probe not in PROBES]:
            raise UsageError(f"--probes {unknown[0]}: expected some of {', '.join(PROBES)}")


@dataclass(frozen=True, kw_only=True)
class Statistics(Checked):
    """How scores are summed up; nothing here is stored.

    repetitions: of the cluster bootstrap; the default is raised where many methods need it. primary: None for auroc, or
    iou in a profile without auroc. margin: differences of it below which methods count as equivalent. cancer: None for
    all classes but those whose names say otherwise.
    """

    repetitions: int = option(2000, "Bootstrap repetitions, raised if needed.", STATISTICS_PANEL, "N", ge=100)
    level: float = option(0.95, "Level of the intervals.", STATISTICS_PANEL, "X", gt=0.5, lt=1)
    seed: int = base.seed()
    primary: str | None = base.primary(STATISTICS_PANEL)
    margin: float = option(0.05, "Equivalence margin.", STATISTICS_PANEL, "X", gt=0, lt=1)
    cancer: tuple[str, ...] | None = base.cancer(STATISTICS_PANEL)
    empty: str = option("exclude", "Value of 0/0", STATISTICS_PANEL, choices=("exclude", "zero", "one"))

    @property
    def bootstrap(self) -> tuple[int, int, float]:
        """Repetitions, seed and level, as the functions of `statistics/bootstrap.py` take them."""
        return self.repetitions, self.seed, self.level
