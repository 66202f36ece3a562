"""Settings of `train-cls` and `train-seg`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from histoxai.core import registry
from histoxai.core.errors import UsageError
from histoxai.settings import base
from histoxai.settings.base import BEHAVIOUR, DEVICE, Checked, bounded, option, with_default

_NETWORK = "Network"
_STEPS = "Optimisation"
_DATA = "Sampling and augmentation"
_LOSS = "Loss and calibration"
STOP_RULES = ("patience", "thesis")


@dataclass(frozen=True, kw_only=True)
class Augmentation(Checked):
    """How patches of the train split are changed anew in every epoch; 0 and False leave a transform out.

    flips; rotations: by quarter turns. colour: largest relative change of brightness, contrast and saturation; hue
    changes by a quarter of it. blur: largest standard deviation, px. hed: sigma of stain jitter, in optical density.
    erase: largest share of a patch that is covered. noise: standard deviation, where white is 1. crop: largest share of
    each side that is cut off.
    """

    flips: bool = False
    rotations: bool = False
    colour: float = bounded(0.0, ge=0, le=1)
    blur: float = bounded(0.0, ge=0, le=10)
    hed: float = bounded(0.0, ge=0, le=1)
    erase: float = bounded(0.0, ge=0, le=0.5)
    noise: float = bounded(0.0, ge=0, le=1)
    crop: float = bounded(0.0, ge=0, le=0.5)


# Strength of a transform that is named alone, and the presets.
_ALONE: dict[str, Any] = {
    "flips": True,
    "rotations": True,
    "crop": 0.2,
    "colour": 0.1,
    "hed": 0.05,
    "blur": 1.0,
    "noise": 0.02,
    "erase": 0.1,
}
_PRESETS: dict[str, dict[str, Any]] = {
    "light": {"flips": True, "rotations": True, "colour": 0.1, "hed": 0.05},
    "strong": {"flips": True, "rotations": True, "colour": 0.2, "hed": 0.1, "blur": 1.5, "erase": 0.1},
}


def parse_augmentation(text: str, flag: str = "--augment") -> Augmentation | None:
    """Read `none`, `light`, `strong`, names of transforms, or both with strengths: `light,hed=0.1,erase`.

    A later word overrides an earlier one. Returns None where nothing is left to do. Raises UsageError for unknown names
    and for strengths that are no numbers or out of bounds.
    """
    chosen: dict[str, Any] = {}
    try:
        for word in text.split(","):
            chosen |= _PRESETS.get(word.strip()) or _transform(word.strip())
        augmentation = Augmentation(**chosen)
    except UsageError as error:
        raise UsageError(f"{flag} {text}: {str(error).removeprefix('--')}") from None
    return None if augmentation == Augmentation() else augmentation


def _transform(word: str) -> dict[str, Any]:
    # one word of --augment as fields of Augmentation
    name, given, value = word.partition("=")
    if word == "none":
        return dict.fromkeys(_ALONE, 0.0) | {"flips": False, "rotations": False}
    if name not in _ALONE:
        raise UsageError(f"'{word}' is not one of none, {', '.join(_PRESETS)}, {', '.join(_ALONE)}")
    if not given:
        return {name: _ALONE[name]}
    if isinstance(_ALONE[name], bool):
        raise UsageError(f"'{word}': {name} have no strength; name them alone")
    try:
        return {name: float(value)}
    except ValueError:
        raise UsageError(f"'{word}': expected a number, such as {name}={_ALONE[name]}") from None


def augmentation_text(augmentation: Augmentation | None) -> str:
    """Write an augmentation as the text that `parse_augmentation` reads."""
    if augmentation is None:
        return "none"
    strengths = {entry.name: getattr(augmentation, entry.name) for entry in fields(augmentation)}
    return ",".join(name if value is True else f"{name}={value!r}" for name, value in strengths.items() if value)


@dataclass(frozen=True, kw_only=True)
class Training(Checked):
    """Settings that both training verbs share.

    augment: None for no augmentation, the study's rule. lr: the step size of Adam (AdamW where weight_decay is not 0)
    at the end of `warmup` epochs; `schedule` then leaves it, lets it fall to 0 along a cosine, or halves it on a
    plateau of the validation loss. ema: decay of the averaged weights, which then are those evaluated and stored.
    devices, nodes: None for those of srun or torchrun, else one.
    """

    epochs: int = option(50, "Most epochs.", _STEPS, "N", ge=1)
    batch_size: int = option(64, "Patches of one pass, over all devices.", _STEPS, "N", ge=1)
    lr: float = option(1e-3, "Learning rate of Adam.", _STEPS, "X", gt=0)
    patience: int = option(5, "Epochs without a lower validation loss.", _STEPS, "N", ge=1)
    # which epochs count towards `patience`; the study printed its rule for the classifier, whose option it is
    stop_rule: str = bounded("patience", choices=STOP_RULES)
    seed: int = base.seed()
    device: str = base.device()
    augment: Augmentation | None = option(
        None,
        "none, light, strong, or flips, rotations, crop, colour, hed, blur, noise, erase; strengths as hed=0.1.",
        _DATA,
        "TRANSFORMS",
        parse=parse_augmentation,
        text=augmentation_text,
    )
    schedule: str = option(
        "constant", "Of the learning rate", _STEPS, "NAME", choices=("constant", "cosine", "plateau")
    )
    warmup: float = option(0.0, "Epochs in which the rate grows to --lr.", _STEPS, "EPOCHS", ge=0)
    weight_decay: float = option(0.0, "Weight decay of AdamW; 0 is Adam.", _STEPS, "X", ge=0)
    clip: float | None = option(None, "Largest norm of the gradient.", _STEPS, "X", gt=0)
    accumulate: int = option(1, "Passes that make one step.", _STEPS, "N", ge=1)
    ema: float | None = option(None, "Average the weights with this decay, say 0.999.", _STEPS, "X", gt=0, lt=1)
    overfit_batches: int | None = option(None, "Train and validate on that few batches, as a test.", _DATA, "N", ge=1)
    precision: str = option("fp32", "Arithmetic (GPUs: all)", DEVICE, "NAME", choices=("fp32", "tf32", "bf16", "fp16"))
    compile: bool = option(False, "Train through torch.compile.", DEVICE)
    deterministic: bool = option(False, "Use GPU kernels that give the same bits each time.", DEVICE)
    devices: int | None = option(None, "GPUs, or processes of --threads each.", DEVICE, "N", default_text="1", ge=1)
    nodes: int | None = option(None, "Nodes, under srun or torchrun.", DEVICE, "N", default_text="1", ge=1)
    checkpoint_minutes: float = option(10.0, "Longest time without a checkpoint.", BEHAVIOUR, "MINUTES", ge=0)
    resume: str = option(
        "auto",
        "Go on with a run (required: never begin anew)",
        BEHAVIOUR,
        changes_numbers=False,
        choices=("auto", "required"),
    )

    @property
    def most_epochs(self) -> int:
        """The most epochs that are trained: the study's code has `range(n_epochs + 1)`, one more than its text."""
        return self.epochs + (self.stop_rule == "thesis")

    # settings that change no number, up to the last bits that the number of processes decides
    HOW: ClassVar = ("devices", "nodes", "checkpoint_minutes", "resume")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup >= self.epochs:
            raise UsageError(f"--warmup {self.warmup}: must be less than --epochs {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class TrainCls(Training):
    """The classifier's training; the defaults are the study's: Adam 1e-3, batch 64, at most 50 epochs, patience 5.

    freeze: "encoder" trains the head alone. normalise: None for ImageNet's mean and deviation with `weights`, else for
    none. class_weights: balanced is n / (classes x patches of the class). sampling: balanced draws as many patches of
    each class in every epoch. mixup: alpha of its beta distribution. stop_rule: thesis is the rule of the study's code.
    """

    stop_rule: str = option("patience", "Stopping rule (plain, or of the study's code)", _STEPS, choices=STOP_RULES)
    arch: str = option("thesis-cnn", ", ".join(registry.builtin_names("classifier")) + ".", _NETWORK, "NAME")
    allow_leakage: bool = option(False, "Train although splits share relatives.", BEHAVIOUR)
    weights: Path | None = option(None, "Start from .safetensors, .pth or .pt.", _NETWORK, "FILE")
    allow_partial_weights: bool = option(False, "Take --weights that fill part of the encoder.", BEHAVIOUR)
    freeze: str | None = option(None, "What stays as in --weights", _NETWORK, choices=("encoder",))
    normalise: str | None = option(
        None, "First layer", _NETWORK, default_text="imagenet with --weights", choices=("none", "imagenet")
    )
    class_weights: str = option("none", "Weights of the loss", _LOSS, choices=("none", "balanced"))
    sampling: str = option("shuffled", "Patches of an epoch", _DATA, choices=("shuffled", "balanced"))
    label_smoothing: float = option(0.0, "Share of a label spread over all.", _LOSS, "SHARE", ge=0, lt=1)
    mixup: float = option(0.0, "Mix pairs of patches with this alpha; 0 is off.", _DATA, "ALPHA", ge=0, le=10)
    temperature: bool = option(False, "Calibrate probabilities on the validation split.", _LOSS)

    @property
    def first_layer(self) -> str | None:
        """The normalisation that the network is built with; None for inputs in 0..1 as they are."""
        chosen = self.normalise or ("imagenet" if self.weights else "none")
        return None if chosen == "none" else chosen


@dataclass(frozen=True, kw_only=True)
class TrainSeg(Training):
    """The segmenter's training; the defaults are the study's U-Net's: Adam 1e-4, batch 1, at most 5,000 epochs,
    patience 50, loss BCE + Dice.

    dice: "plain" has sums in the denominator, as the study's code; "squared" has squares, as its text. width: the study
    has 24 and 32.
    """

    epochs: int = with_default(Training, "epochs", 5000)
    batch_size: int = with_default(Training, "batch_size", 1)
    lr: float = with_default(Training, "lr", 1e-4)
    patience: int = with_default(Training, "patience", 50)
    arch: str = option(
        "unet",
        "unet, thesis-unet-text, or smp:ARCHITECTURE/ENCODER, say smp:Unet/resnet18.",
        _NETWORK,
        "NAME",
    )
    width: int = option(32, "Channels of the first U-Net block.", _NETWORK, "N", ge=1)
    dice: str = option("plain", "Dice loss (the study's code, its text)", _LOSS, choices=("plain", "squared"))
    loss: str | None = option(
        None, "Loss", _LOSS, "NAME", default_text="bce-dice", choices=("bce-dice", "focal-dice", "dice", "focal", "bce")
    )
    gamma: float | None = option(None, "Exponent of the focal losses.", _LOSS, "X", default_text="2", ge=0, le=10)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.has_width and self.width != TrainSeg.width:
            raise UsageError(f"--width: is the study's U-Net's; --arch {self.arch} has widths of its own")
        if self.gamma is not None and not (self.loss or "").startswith("focal"):
            raise UsageError("--gamma: is of the focal losses; add --loss focal-dice or --loss focal")

    @property
    def has_width(self) -> bool:
        """Whether the architecture is histoxai's own, whose width can be chosen."""
        return self.arch in registry.ENTRIES["segmenter"]
