"""Settings of `explain`."""

from __future__ import annotations

from dataclasses import dataclass

from histoxai.settings import base
from histoxai.settings.base import DEVICE, INPUT, MAX_MICRO_BATCH, Checked, option


@dataclass(frozen=True, kw_only=True)
class Explain(Checked):
    """The patches that `explain` explains, and the methods.

    micro_batch: None for that of an existing store, else a fast one for the network on a CPU, and one that fits the
    memory of a GPU. random_weights: methods that explain the network with weights drawn anew.
    """

    methods: tuple[str, ...] = option(
        ("ig", "nt", "lime", "gradcam"),
        "Methods, or NAME=METHOD to run one twice.",
        unit="NAMES",
        name="--method",
        parse=base.names("--method"),
        text=base.join,
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
