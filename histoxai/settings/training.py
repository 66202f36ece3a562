"""Settings of `train-cls` and `train-seg`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from histoxai.core.errors import UsageError
from histoxai.settings.base import Checked, bounded


@dataclass(frozen=True)
class Augmentation(Checked):
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
class Training(Checked):
    """What both training stages share.

    `batch_size`: patches of one pass, over all processes together. `patience` counts epochs without a lower validation
    loss. `augment`: what is done to patches of the train split, never to others; None, the study's rule, for nothing.

    How steps are made: `lr` is Adam's step size (AdamW's where `weight_decay` is not 0), at the end of `warmup` epochs;
    `schedule` then leaves it, lets it fall to 0 along a cosine, or halves it where the validation loss stays. `clip`:
    largest norm of the gradient. `accumulate`: passes that make one step. `ema`: decay of the averaged weights, which
    are the ones judged and kept. `overfit_batches`: train and validate on that many batches alone.

    How they are computed: `precision`, `compile`, `deterministic`; `devices` and `nodes`, None for what srun or
    torchrun say, else one. `checkpoint_minutes`: the longest time without a checkpoint. `resume`: "required" refuses
    to begin anew.
    """

    epochs: int = bounded(50, ge=1)
    batch_size: int = bounded(64, ge=1)
    lr: float = bounded(1e-3, gt=0)
    patience: int = bounded(5, ge=1)
    seed: int = bounded(0, ge=0)
    device: str = "auto"
    augment: Augmentation | None = None
    schedule: str = bounded("constant", choices=("constant", "cosine", "plateau"))
    warmup: float = bounded(0.0, ge=0)
    weight_decay: float = bounded(0.0, ge=0)
    clip: float | None = bounded(None, gt=0)
    accumulate: int = bounded(1, ge=1)
    ema: float | None = bounded(None, gt=0, lt=1)
    overfit_batches: int | None = bounded(None, ge=1)
    precision: str = bounded("fp32", choices=("fp32", "tf32", "bf16", "fp16"))
    compile: bool = False
    deterministic: bool = False
    devices: int | None = bounded(None, ge=1)
    nodes: int | None = bounded(None, ge=1)
    checkpoint_minutes: float = bounded(10.0, ge=0)
    resume: str = bounded("auto", choices=("auto", "required"))

    # what changes no number, up to the last bits that the number of processes decides
    HOW: ClassVar = ("devices", "nodes", "checkpoint_minutes", "resume")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup >= self.epochs:
            raise UsageError(f"--warmup {self.warmup}: must be less than --epochs {self.epochs}")


@dataclass(frozen=True)
class TrainCls(Training):
    """The study's classifier training: Adam 1e-3, batch 64, at most 50 epochs, patience 5.

    `allow_leakage`: train although the splits share relatives; it goes on record. `weights`: a file to start from.
    `freeze`: "encoder" trains the head alone. `normalise`: the network's first layer; None for ImageNet's mean and
    deviation with `weights`, else for none. `class_weights`: of the loss, n / (classes x patches of the class) where
    balanced. `sampling`: balanced draws as many patches of each class in every epoch. `label_smoothing`: the share of
    each label that is spread over all classes. `mixup`: alpha of its beta distribution, 0 for none. `temperature`:
    scale the logits so that probabilities of validation patches are calibrated.
    """

    arch: str = "thesis-cnn"
    allow_leakage: bool = False
    weights: Path | None = None
    freeze: str | None = bounded(None, choices=("encoder",))
    normalise: str | None = bounded(None, choices=("none", "imagenet"))
    class_weights: str = bounded("none", choices=("none", "balanced"))
    sampling: str = bounded("shuffled", choices=("shuffled", "balanced"))
    label_smoothing: float = bounded(0.0, ge=0, lt=1)
    mixup: float = bounded(0.0, ge=0, le=10)
    temperature: bool = False

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
