"""One frozen dataclass per stage: defaults (the study's, where it has one), bounds, units.

Bounds stand in each field's metadata and are checked when a dataclass is made: `ge`, `gt`, `le`, `lt`
for numbers, `choices` for words. A value out of bounds raises UsageError.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from histoxai.errors import UsageError

_TESTS = {
    "ge": (lambda v, b: v >= b, "at least"),
    "gt": (lambda v, b: v > b, "more than"),
    "le": (lambda v, b: v <= b, "at most"),
    "lt": (lambda v, b: v < b, "less than"),
}


def bounded(default: Any, **bounds: Any) -> Any:
    """A dataclass field with a default and bounds (`ge`, `gt`, `le`, `lt`, `choices`)."""
    return field(default=default, metadata=bounds)


def check_bounds(settings: Any) -> None:
    """Raise UsageError for the first field that lies out of its bounds."""
    for entry in fields(settings):
        value, name = getattr(settings, entry.name), entry.name.replace("_", "-")
        if value is None:
            continue
        choices = entry.metadata.get("choices")
        if choices is not None and value not in choices:
            raise UsageError(f"--{name}: '{value}' is not one of {', '.join(map(str, choices))}")
        for key, (test, words) in _TESTS.items():
            if key in entry.metadata and not test(value, entry.metadata[key]):
                raise UsageError(f"--{name}: {value} must be {words} {entry.metadata[key]}")


class _Checked:
    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class Work(_Checked):
    """How the work of a sharded command is done; nothing here changes a number.

    `shard`: text of `--shard`. `only`: look or estimate instead of working. `verify`: recompute the checksums of what
    is done. `workers`: processes. `threads`: of each, for the records. `feed`: in a worker, the shards it is handed;
    `rank`: its number. `parity`: patches that are compared with the libraries.
    """

    shard: str | None = None
    one_indexed: bool = False
    only: str | None = bounded(None, choices=("count", "missing", "check", "estimate", "parity"))
    force: bool = False
    verify: bool = False
    workers: int = bounded(1, ge=1)
    threads: int = 0
    feed: Iterable[int] | None = None
    rank: int = 0
    parity: int = bounded(0, ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.force and self.shard is not None:
            raise UsageError("--force with --shard would throw away the other tasks' work; start over without --shard")


@dataclass(frozen=True)
class Ingest(_Checked):
    """What to read and how; a reader takes what means something to its format and refuses what does not.

    `mpp`: micrometres per pixel: of slides what tiles are made at, elsewhere what the images have. `size`, `overlap`:
    side of a tile in px (None: images as they are), and px that neighbours share. `tumor`, `non_tumor`: mask types of
    the two target planes; None for the format's own default. `class_map`: `3=epithelial`, what mask values mean.
    `images`, `masks`, `labels`: names of the parts of a source: folders or endings of `pairs`, datasets of `hdf5` and
    `zarr`, files of `npy`. `magnification`, `partition`: DiagSet's folders. `annotations`: GeoJSON or mask TIFF beside
    slides; `min_overlap`: share of a tile that an annotation has to cover. `min_tissue`: share of tissue below which a
    patch is left out. `metadata`: a CSV with scan, patient, site, label or coordinates. `stain`: normalisation to
    `stain_reference`, an image or a patch store. `skip_bad`: leave out what cannot be read, and list it.
    """

    format: str = "auto"
    classes: tuple[str, ...] | None = None
    mpp: float | None = bounded(None, gt=0.01, lt=100)
    tumor: tuple[str, ...] | None = None
    non_tumor: tuple[str, ...] | None = None
    shard_size: int = bounded(512, ge=1)
    size: int | None = bounded(None, ge=8, le=8192)
    overlap: int = bounded(0, ge=0)
    class_map: tuple[str, ...] = ()
    images: str | None = None
    masks: str | None = None
    labels: str | None = None
    magnification: str = bounded("20x", choices=("5x", "10x", "20x", "40x"))
    partition: str | None = None
    annotations: Path | None = None
    min_overlap: float = bounded(0.75, gt=0, le=1)
    min_tissue: float | None = bounded(None, ge=0, le=1)
    metadata: Path | None = None
    stain: str = bounded("none", choices=("none", "macenko", "reinhard"))
    stain_reference: Path | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.overlap >= self.size:
            raise UsageError(f"--overlap {self.overlap}: must be less than --size, which says how large tiles are")
        if (self.stain == "none") != (self.stain_reference is None):
            raise UsageError("--stain and --stain-reference go together: a method, and the image that it matches")


@dataclass(frozen=True)
class Augment(_Checked):
    """`fractions`: train, validation, test; they add up to 1.

    `split_by`: what stays on one side with all its relatives (group: the patient where known, else the scan); patch is
    the study's rule, source keeps the source's own split. `folds`, `fold`: of so many equal parts this one is test, the
    next validation. `hold_out`: sites that are test. `near`: bits in which perceptual hashes of relatives may differ.
    """

    fractions: tuple[float, float, float] = (0.5, 0.2, 0.3)
    split_by: str = bounded("group", choices=("group", "scan", "patient", "site", "patch", "source"))
    seed: int = bounded(0, ge=0)
    shard_size: int = bounded(512, ge=1)
    folds: int | None = bounded(None, ge=3, le=1000)
    fold: int | None = bounded(None, ge=0)
    hold_out: tuple[str, ...] | None = None
    near: int | None = bounded(None, ge=0, le=8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.folds is None) != (self.fold is None) or (self.folds and (self.fold or 0) >= self.folds):
            raise UsageError("--folds K --fold I: go together, with I from 0 to K - 1")
        if self.split_by in ("patch", "source") and (self.folds or self.hold_out or self.near is not None):
            raise UsageError(f"--split-by {self.split_by}: goes with none of --folds, --hold-out and --near")
        if self.folds and self.hold_out:
            raise UsageError("--folds and --hold-out: one at a time")
        if (
            len(self.fractions) != 3
            or not all(0 <= f <= 1 for f in self.fractions)
            or abs(sum(self.fractions) - 1) > 1e-6
        ):
            raise UsageError(f"--fractions: {self.fractions} must be three shares that add up to 1")
        if self.fractions[0] == 0:
            raise UsageError("--fractions: the first share, train, cannot be 0")


@dataclass(frozen=True)
class Audit(_Checked):
    """`near`: bits in which the perceptual hashes of near duplicates may differ; None: they are not looked for."""

    near: int | None = bounded(None, ge=0, le=8)


@dataclass(frozen=True)
class Augmentation(_Checked):
    """What training does to its patches anew in every epoch; 0 and False leave a transform out.

    `flips`, `rotations` by quarter turns. `colour`: brightness, contrast and saturation change by at most this share,
    hue by a quarter of it. `blur`: largest standard deviation, px. `hed`: sigma of stain jitter, in optical density.
    `erase`: largest share of a patch that is covered.
    """

    flips: bool = False
    rotations: bool = False
    colour: float = bounded(0.0, ge=0, le=1)
    blur: float = bounded(0.0, ge=0, le=10)
    hed: float = bounded(0.0, ge=0, le=1)
    erase: float = bounded(0.0, ge=0, le=0.5)


@dataclass(frozen=True)
class Training(_Checked):
    """What both training stages share; `lr` is Adam's step size, `patience` counts epochs.

    `augment`: what is done to patches of the train split, never to others; None, the study's rule, for nothing.
    """

    epochs: int = bounded(50, ge=1)
    batch_size: int = bounded(64, ge=1)
    lr: float = bounded(1e-3, gt=0)
    patience: int = bounded(5, ge=1)
    seed: int = bounded(0, ge=0)
    device: str = "auto"
    augment: Augmentation | None = None


@dataclass(frozen=True)
class TrainCls(Training):
    """The study's classifier training: Adam 1e-3, batch 64, at most 50 epochs, patience 5.

    `allow_leakage`: train although the splits share relatives; it goes on record. `weights`: a file to start from.
    `freeze`: "encoder" trains the head alone. `normalise`: the network's first layer; None for ImageNet's mean and
    deviation with `weights`, else for none.
    """

    arch: str = "thesis-cnn"
    allow_leakage: bool = False
    weights: Path | None = None
    freeze: str | None = bounded(None, choices=("encoder",))
    normalise: str | None = bounded(None, choices=("none", "imagenet"))

    @property
    def first_layer(self) -> str | None:
        """The normalisation that the network is built with; None for inputs in 0..1 as they are."""
        chosen = self.normalise or ("imagenet" if self.weights else "none")
        return None if chosen == "none" else chosen


@dataclass(frozen=True)
class TrainSeg(Training):
    """The study's U-Net training: Adam 1e-4, batch 1, at most 5,000 epochs, patience 50, BCE + Dice.

    `dice`: "plain" (sums in the denominator, the study's code) or "squared" (squares, its text). `loss`: None for the
    study's, bce-dice. `gamma` of the focal losses. `width` is the U-Net's; the study has 24 and 32.
    """

    epochs: int = bounded(5000, ge=1)
    batch_size: int = bounded(1, ge=1)
    lr: float = bounded(1e-4, gt=0)
    patience: int = bounded(50, ge=1)
    arch: str = "unet"
    width: int = bounded(32, ge=1)
    dice: str = bounded("plain", choices=("plain", "squared"))
    loss: str | None = bounded(None, choices=("bce-dice", "focal-dice", "dice", "focal", "bce"))
    gamma: float | None = bounded(None, ge=0, le=10)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arch != "unet" and self.width != TrainSeg.width:
            raise UsageError(f"--width: is the study's U-Net's; --arch {self.arch} has widths of its own")
        if self.gamma is not None and not (self.loss or "").startswith("focal"):
            raise UsageError("--gamma: is of the focal losses; add --loss focal-dice or --loss focal")


@dataclass(frozen=True)
class Masks(_Checked):
    """`rescale`: bring patches to the segmenter's mpp before it sees them."""

    split: str = bounded("test", choices=("train", "validation", "test", "all"))
    rescale: bool = False
    micro_batch: int = bounded(16, ge=1)
    device: str = "auto"
    shard_size: int = bounded(64, ge=1)


@dataclass(frozen=True)
class Predict(_Checked):
    """`embeddings`: store what goes into the network's last layer too."""

    split: str = bounded("all", choices=("train", "validation", "test", "all"))
    embeddings: bool = False
    micro_batch: int = bounded(16, ge=1)
    device: str = "auto"
    shard_size: int = bounded(64, ge=1)


@dataclass(frozen=True)
class Explain(_Checked):
    """`target`: predicted, label, or a class name; `per_class`: the first K patches of each class.

    `micro_batch`: None for what an existing store has, else on a CPU what pays (16 for most networks, 64 for the
    study's CNN at 256 px) and on a GPU what fits. `random_weights`: names of methods that explain the network with
    weights drawn anew.
    """

    methods: tuple[str, ...] = ("ig", "nt", "lime", "gradcam")
    split: str = bounded("test", choices=("train", "validation", "test", "all"))
    per_class: int | None = bounded(None, ge=1)
    target: str = "predicted"
    options: tuple[str, ...] = ()
    seed: int = bounded(0, ge=0)
    micro_batch: int | None = bounded(None, ge=1)
    device: str = "auto"
    shard_size: int = bounded(64, ge=1)
    precision: str = bounded("fp32", choices=("fp32", "bf16", "tf32"))
    compile: bool = False
    random_weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score(_Checked):
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
    shard_size: int = bounded(64, ge=1)


SANITY = "sanity"  # an item of a scores store, as each of PROBES is
PROBES = ("deletion", "insertion", "road", "infidelity", "sensitivity")
INFILLS = ("mean", "blur", "noisy_linear", "background")


@dataclass(frozen=True)
class Faithfulness(_Checked):
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
class Statistics(_Checked):
    """How scores are summed up; nothing here is stored.

    `repetitions` of the cluster bootstrap, `level` of its intervals. `primary`: the measure that methods are compared
    by and conclusions rest on; None for auroc, or iou in the profile that has no auroc. `margin`: differences of it
    that mean nothing. `cancer`: classes with tumor; None for all but those whose names say otherwise. `empty`: what 0/0
    is: left out, 0, or 1.
    """

    repetitions: int = bounded(2000, ge=100)
    level: float = bounded(0.95, gt=0.5, lt=1)
    seed: int = bounded(0, ge=0)
    primary: str | None = None
    margin: float = bounded(0.05, gt=0, lt=1)
    cancer: tuple[str, ...] | None = None
    empty: str = bounded("exclude", choices=("exclude", "zero", "one"))


@dataclass(frozen=True)
class Report(_Checked):
    """`title` heads the page."""

    title: str = "histoxai report"
