"""Settings of `masks`."""

from __future__ import annotations

from dataclasses import dataclass

from histoxai.settings import base
from histoxai.settings.base import Checked, option


@dataclass(frozen=True, kw_only=True)
class Masks(Checked):
    """Which patches `masks` segments and how; rescale: bring patches to the segmenter's mpp before it sees them."""

    split: str = base.split("test")
    rescale: bool = option(False, "Bring patches to the segmenter's mpp.")
    micro_batch: int = base.micro_batch()
    device: str = base.device()
    shard_size: int = base.shard_size(64)
