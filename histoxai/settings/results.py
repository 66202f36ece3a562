"""Settings of `score` and `report`."""

from __future__ import annotations

from dataclasses import dataclass

from histoxai.core.errors import UsageError
from histoxai.settings.base import MOST_ROWS_OF_A_SHARD, Checked, bounded


@dataclass(frozen=True)
class Score(Checked):
    """`map_threshold` and `mask_threshold` binarise; `sure` parts the four cases by probability.

    `sign`: the evidence that is ranked: positive, absolute (of either sign), or own (what a method's authors show).
    `tolerance`: of the pointing game, in pixels. `top_k`: share of the pixels that the measure of that name takes.
    `measures`: all, or those that follow from pixel counts.
    """

    map_threshold: float = bounded(0.3, gt=0, lt=1)
    mask_threshold: float = bounded(0.5, gt=0, lt=1)
    sure: float = bounded(0.6, gt=0, lt=1)
    sign: str = bounded("own", choices=("own", "positive", "absolute"))
    tolerance: float = bounded(0.0, ge=0, le=1000)
    top_k: float = bounded(0.02, gt=0, le=1)
    measures: str = bounded("all", choices=("all", "counts"))
    shard_size: int = bounded(64, ge=1, le=MOST_ROWS_OF_A_SHARD)


SANITY = "sanity"  # an item of a scores store, as each of PROBES is
PROBES = ("deletion", "insertion", "road", "infidelity", "sensitivity")
INFILLS = ("mean", "blur", "noisy_linear", "background")


@dataclass(frozen=True)
class Faithfulness(Checked):
    """How maps are tested on the model.

    `probes`: some of PROBES. `steps` of deletion and insertion, `squares` of infidelity, `infill` of what is gone.
    `perturbations` of sensitivity, by at most `radius` of the input's 0..1. `sanity`: patches on which layers are drawn
    anew one after the other; 0 for none.
    """

    probes: tuple[str, ...] = ("deletion", "insertion")
    steps: int = bounded(20, ge=1)
    infill: str = bounded("mean", choices=INFILLS)
    squares: int = bounded(50, ge=10)
    perturbations: int = bounded(10, ge=1)
    radius: float = bounded(0.02, gt=0)
    sanity: int = bounded(0, ge=0)
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [p for p in self.probes if p not in PROBES]:
            raise UsageError(f"--probes {unknown[0]}: expected some of {', '.join(PROBES)}")


@dataclass(frozen=True)
class Statistics(Checked):
    """How scores are summed up; nothing here is stored.

    `repetitions` of the cluster bootstrap (the default is raised where many methods need it), `level` of its intervals.
    `primary`: the measure that methods are compared by and conclusions rest on; None for auroc, or iou in the profile
    that has no auroc. `margin`: differences of it that mean nothing. `cancer`: classes with tumor; None for all but
    those whose names say otherwise. `empty`: what 0/0 is: left out, 0, or 1.
    """

    repetitions: int = bounded(2000, ge=100)
    level: float = bounded(0.95, gt=0.5, lt=1)
    seed: int = bounded(0, ge=0)
    primary: str | None = None
    margin: float = bounded(0.05, gt=0, lt=1)
    cancer: tuple[str, ...] | None = None
    empty: str = bounded("exclude", choices=("exclude", "zero", "one"))


@dataclass(frozen=True)
class Report(Checked):
    """`title` heads the page; `colours` of overlays: safe for colour-blind readers, or the study's.

    `examples`: patches that can be looked at on the page, and `show`: some that have to be among them, by id; `limit`:
    of the page, in MB. `primary` and `cancer` as in `Statistics`.
    """

    title: str = "histoxai report"
    colours: str = bounded("safe", choices=("safe", "study"))
    examples: int = bounded(100, ge=0)
    show: tuple[str, ...] = ()
    limit: float = bounded(25.0, ge=1)
    primary: str | None = None
    cancer: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Comparison(Checked):
    """`title` heads the page; `primary` as in `Statistics`."""

    title: str = "histoxai comparison"
    primary: str | None = None
