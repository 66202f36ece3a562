"""The explainer contract, and hooks that are always released.

An explainer takes a network and a batch and gives raw signed attributions at native resolution, as the
library returns them; they are stored once, before any normalisation. `render` makes of one patch's raw
arrays the plane in 0..1 that scores and figures use. Explainer files import their library where they
attribute, so that scoring, which only renders, starts without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

import numpy as np

from histoxai.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Batch:
    """images (n, 3, H, W) float32 in 0..1; targets (n,) int64; seeds: one per patch, below 2**32."""

    images: torch.Tensor
    targets: torch.Tensor
    seeds: Sequence[int]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class RawSpec:
    """One raw array of a method: shape of a patch's row, dtype, and the value of "nothing here"."""

    shape: tuple[int, ...]
    dtype: Any = np.float32
    fill: Any = 0


@dataclass(frozen=True)
class NoOptions:
    """A method without options."""


class Explainer(ABC):
    """Base of all explainers: one method, its options, its raw arrays and its rendering.

    Subclasses set `Options` (a frozen dataclass) and write `raw_specs`, `attribute` and `render`.
    """

    Options: ClassVar[type] = NoOptions
    # Whether a network pass holds several patches; else a shard is done, and kept, patch by patch.
    together: ClassVar[bool] = False

    @property
    def piece(self) -> int:
        """Patches that are computed together; a batch of so many gives the bytes of any larger one."""
        return self.micro_batch if self.together else 1

    def __init__(self, options: Any, micro_batch: int) -> None:
        self.options, self.micro_batch = options, micro_batch

    @abstractmethod
    def raw_specs(self, model: nn.Module, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Raw arrays by name; the name "" is the method's own array."""

    @abstractmethod
    def attribute(self, model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """Raw arrays (n, ...) of a batch. The result for a patch depends on nothing but that patch."""

    @abstractmethod
    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """One patch's plane (H, W) float64 in 0..1.

        constant: what scaling makes of a constant channel: 0, or NaN as the study's code does.
        """


def parse_options(explainer: type[Explainer], pairs: dict[str, str], name: str) -> Any:
    """Options from `-O name.option=value` texts, converted to the types of the dataclass.

    Raises UsageError for an unknown option or a value that does not convert, listing what there is.
    """
    hints = get_type_hints(explainer.Options)
    known = {f.name: hints[f.name] for f in fields(explainer.Options)}
    chosen: dict[str, Any] = {}
    for key, text in pairs.items():
        if key not in known:
            raise UsageError(f"-O {name}.{key}: no such option; {name} has {', '.join(known) or 'none'}")
        try:
            chosen[key] = _convert(text, known[key])
        except ValueError:
            kind = getattr(known[key], "__name__", known[key])
            raise UsageError(f"-O {name}.{key}={text}: expected a value of type {kind}") from None
    try:
        return explainer.Options(**chosen)
    except UsageError as error:  # the bounds speak of flags
        raise UsageError(f"-O {name}.{str(error).removeprefix('--')}") from None


def _convert(text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return kind(text)


@contextmanager
def without_weight_gradients(model: nn.Module) -> Iterator[None]:
    """Switch off gradients of the weights, which no attribution needs, and switch them back on."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in flags:
            p.requires_grad_(False)
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


def one_by_one(batch: Batch, explain: Callable[[torch.Tensor, int, int], np.ndarray]) -> np.ndarray:
    """Run explain(image (1, 3, H, W), target, seed) for each patch alone and stack the results.

    Alone, a patch meets the same batch shapes in the network wherever it stands, hence the same bytes.
    """
    return np.stack(
        [explain(batch.images[i : i + 1], int(batch.targets[i]), int(batch.seeds[i])) for i in range(len(batch))]
    )


def min_max(values: np.ndarray, constant: float, axis: tuple[int, ...] | None = None) -> np.ndarray:
    """(v - min) / (max - min) in float64 over `axis`; constant input becomes `constant`."""
    values = np.asarray(values, np.float64)
    low = values.min(axis=axis, keepdims=True)
    span = values.max(axis=axis, keepdims=True) - low
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(span > 0, (values - low) / span, np.where(np.isfinite(span), constant, np.nan))


def channels_to_plane(attribution: np.ndarray, constant: float) -> np.ndarray:
    """The study's plane of a signed (C, H, W) attribution, in 0..1.

    Absolute value, min-max per channel, sum over channels, min-max.
    """
    per_channel = min_max(np.abs(attribution.astype(np.float64)), constant, axis=(1, 2))
    return min_max(per_channel.sum(axis=0), constant)
