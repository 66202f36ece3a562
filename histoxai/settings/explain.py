"""Settings of `explain`."""

from __future__ import annotations

from dataclasses import dataclass

from histoxai.core.errors import UsageError
from histoxai.settings import base
from histoxai.settings.base import DEVICE, INPUT, MAX_MICRO_BATCH, Checked, option


@dataclass(frozen=True, kw_only=True)
class Explain(Checked):
    """The patches that `explain` explains, and the methods.

    micro_batch: None for that of an existing store, else a fast one for the network on a CPU, and one that fits the
    memory of a GPU. random_weights: methods that explain the network with weights drawn anew. engine: "library" calls
    the methods' libraries as their authors do.
    """

    methods: tuple[str, ...] = option(
        ("ig", "nt", "lime", "gradcam"),
        "Methods, or NAME=METHOD to run one twice.",
        unit="NAMES",
        name="--method",
        parse=base.names("--method"),
        text=base.join,
    )
    engine: str = option(
        "histoxai",
        "Who computes maps; libraries are captum, lime and grad-cam",
        unit="NAME",
        choices=("histoxai", "library"),
    )
    split: str = base.split("test")
    per_class: int | None = option(None, "Only K patches of each class.", INPUT, "K", ge=1)
    target: str = option("predicted", "Class to explain: predicted, label, or a name.", unit="CLASS")
    options: tuple[str, ...] = option(
        (), "NAME.OPTION=VALUE, such as ig.steps=300.", unit="SETTING", name="--option", short="-O", repeated=True
    )
    seed: int = base.seed()
    micro_batch: int | None = option(
        None,
        "Patches in one pass.",
        DEVICE,
        "N",
        default_text="the output's, else a fast one",
        ge=1,
        le=MAX_MICRO_BATCH,
    )
    device: str = base.device()
    shard_size: int = base.shard_size(64)
    precision: str = option("fp32", "Arithmetic (tf32 on GPUs)", DEVICE, choices=("fp32", "bf16", "tf32"))
    compile: bool = option(False, "Use torch.compile for perturbation methods.", DEVICE)
    random_weights: tuple[str, ...] = option(
        (),
        "Those methods whose network gets random weights.",
        unit="NAMES",
        parse=base.optional_names("--random-weights"),
        text=base.join,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "library" and self.precision != "fp32":
            raise UsageError(f"--precision {self.precision}: --engine library computes in fp32; leave one of them out")
        if self.engine == "library" and self.compile:
            raise UsageError("--compile: applies to --engine histoxai alone; leave one of them out")
