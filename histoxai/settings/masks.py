"""Settings of `masks`."""

from __future__ import annotations

from dataclasses import dataclass

from histoxai.settings import base
from histoxai.settings.base import Checked, option


@dataclass(frozen=True, kw_only=True)
class Masks(Checked):
    """The patches that `masks` segments, and how."""

    split: str = base.split("test")
    rescale: bool = option(False, "Bring patches to the segmenter's mpp.")
    micro_batch: int = base.micro_batch()
    device: str = base.device()
    shard_size: int = base.shard_size(64)
