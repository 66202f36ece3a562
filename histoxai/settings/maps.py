"""Settings of `masks`, `predict` and `explain`."""

from __future__ import annotations

from dataclasses import dataclass

from histoxai.settings.base import MOST_ROWS_OF_A_PASS, MOST_ROWS_OF_A_SHARD, Checked, bounded


@dataclass(frozen=True)
class Masks(Checked):
    """`rescale`: bring patches to the segmenter's mpp before it sees them."""

    split: str = bounded("test", choices=("train", "validation", "test", "all"))
    rescale: bool = False
    micro_batch: int = bounded(16, ge=1, le=MOST_ROWS_OF_A_PASS)
    device: str = "auto"
    shard_size: int = bounded(64, ge=1, le=MOST_ROWS_OF_A_SHARD)


@dataclass(frozen=True)
class Predict(Checked):
    """`embeddings`: store what goes into the network's last layer too."""

    split: str = bounded("all", choices=("train", "validation", "test", "all"))
    embeddings: bool = False
    micro_batch: int = bounded(16, ge=1, le=MOST_ROWS_OF_A_PASS)
    device: str = "auto"
    shard_size: int = bounded(64, ge=1, le=MOST_ROWS_OF_A_SHARD)


@dataclass(frozen=True)
class Explain(Checked):
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
    micro_batch: int | None = bounded(None, ge=1, le=MOST_ROWS_OF_A_PASS)
    device: str = "auto"
    shard_size: int = bounded(64, ge=1, le=MOST_ROWS_OF_A_SHARD)
    precision: str = bounded("fp32", choices=("fp32", "bf16", "tf32"))
    compile: bool = False
    random_weights: tuple[str, ...] = ()
