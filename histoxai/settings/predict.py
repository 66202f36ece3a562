"""Settings of `predict`."""

from __future__ import annotations

from dataclasses import dataclass

from histoxai.settings import base
from histoxai.settings.base import Checked, option


@dataclass(frozen=True, kw_only=True)
class Predict(Checked):
    """The patches that `predict` classifies, and how."""

    split: str = base.split("all")
    embeddings: bool = option(False, "Store the input of the network's last layer too.")
    micro_batch: int = base.micro_batch()
    device: str = base.device()
    shard_size: int = base.shard_size(64)
