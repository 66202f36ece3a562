"""The explainer contract.

An explainer takes a network and a batch and gives, patch by patch, raw signed attributions at native
resolution, as its library returns them, and what is worth checking of each map; they are stored once, before any
normalisation. `render` makes of one patch's raw arrays the plane in 0..1 that scores and figures use. Method
files import torch and their library where they attribute, so that scoring, which only renders, starts without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

import numpy as np

from histoxai.core.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network

# Raised whenever a change makes any map differ from what earlier versions stored.
ENGINE = 2


@dataclass(frozen=True)
class Batch:
    """images (n, 3, H, W) float32 in 0..1; targets (n,) int64; seeds: one per patch, below 2**32.

    nuclei (n, 2, H, W): probabilities of tumor and non-tumor nuclei, where a masks store was given. ids: what messages
    call the patches.
    """

    images: torch.Tensor
    targets: torch.Tensor
    seeds: Sequence[int]
    nuclei: np.ndarray | None = None
    ids: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.images)

    def patch(self, i: int) -> tuple[torch.Tensor, int, int]:
        """Image (3, H, W), target and seed of one patch."""
        return self.images[i], int(self.targets[i]), int(self.seeds[i])

    def name(self, i: int) -> str:
        """What messages call a patch."""
        return f"patch {self.ids[i]}" if len(self.ids) else f"patch {i}"


@dataclass(frozen=True)
class RawSpec:
    """One raw array of a method: shape of a patch's row, dtype, and the value of "nothing here"."""

    shape: tuple[int, ...]
    dtype: Any = np.float32
    fill: Any = 0


@dataclass(frozen=True)
class Map:
    """One patch's raw arrays, by part ("" is the method's own), and its checks by name."""

    raw: dict[str, np.ndarray]
    checks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NoOptions:
    """A method without options."""


class Method(ABC):
    """Base of all explainers: one method, its options, its raw arrays and its rendering.

    Subclasses set `Options` (a frozen dataclass), `checks` (names of what `explain` reports of each map beside
    what every method does, `COMMON`), and write `raw_specs`, `explain`, `passes` and `render`.
    """

    Options: ClassVar[type] = NoOptions
    checks: ClassVar[tuple[str, ...]] = ()
    # `constant` and `zero` are 1 or 0; `negative_share` is the absolute sum of negative evidence over that of all.
    COMMON: ClassVar[tuple[str, ...]] = ("constant", "zero", "negative_share")

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Raw arrays by name; the name "" is the method's own array.

        Raises InputRefused or UsageError where the network, or patches of this size, do not suit the method.
        """

    @abstractmethod
    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """The map of each patch of the batch, with its place in it, as they are finished.

        The result for a patch depends on nothing but that patch.
        """

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray] | None:
        """The raw arrays of one patch (3, H, W) as the library gives them when it is called as its authors do.

        `module` may be in float64. None where no library has the method.
        """
        del module, image, target, seed
        return None

    @classmethod
    @abstractmethod
    def passes(cls, options: Any) -> str:
        """What a patch costs, in passes through the network, for people."""

    @abstractmethod
    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """One patch's plane (H, W) float64 in 0..1.

        constant: what scaling makes of a constant channel: 0, or NaN as the study's code does.
        """

    # Whether evidence is a slope, that has yet to be multiplied by a change of the input, and not what a pixel adds.
    local: ClassVar[bool] = False

    def signed(self, raw: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """One patch's signed evidence (C, H, W) float32, C 1 or 3, pixel by pixel."""
        del size
        return raw[""]

    # Which evidence the method's authors show: of either sign, or for the class alone.
    own_sign: ClassVar[str] = "absolute"

    def relevance(self, raw: dict[str, np.ndarray], size: tuple[int, int], sign: str) -> np.ndarray:
        """One patch's evidence (H, W) float32, not negative and not rescaled, that threshold-free measures rank.

        sign: positive (evidence for the class), absolute (of either sign), or own (what the method's authors show).
        Channels are added up after that.
        """
        return one_sign(raw[""], self.own_sign if sign == "own" else sign).sum(axis=0)

    def evidence(self, raw: dict[str, np.ndarray]) -> np.ndarray:
        """The signed numbers in which a method puts its evidence: what checks and comparisons look at."""
        return raw[""]

    def checked(self, found: Map) -> dict[str, float]:
        """All checks of a map: those of every method, and its own."""
        values = self.evidence(found.raw).astype(np.float64)
        whole = float(np.abs(values).sum())
        return {
            "constant": float(values.size == 0 or np.ptp(values) == 0),
            "zero": float(whole == 0),
            "negative_share": float(np.abs(values[values < 0]).sum() / whole) if whole else float("nan"),
            **found.checks,
        }


def explain_all(explainer: Method, net: Network, batch: Batch) -> dict[str, np.ndarray]:
    """`explain` of a whole batch as raw arrays (n, ...)."""
    maps = dict(explainer.explain(net, batch))
    return {part: np.stack([maps[i].raw[part] for i in range(len(batch))]) for part in maps[0].raw}


class PixelMethod(Method):
    """A method with one signed array, rendered as the study renders Integrated Gradients: (C, H, W) to a plane."""

    channels: ClassVar[int] = 3

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Signed attributions (C, H, W)."""
        del net
        return {"": RawSpec((self.channels, *size))}

    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """Absolute value, min-max per channel, sum, min-max."""
        return channels_to_plane(raw[""], constant)


def parse_options(explainer: type[Method], pairs: dict[str, str], name: str) -> Any:
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
    if kind == int | str:  # a number or a word
        return int(text) if text.lstrip("-").isdigit() else text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return kind(text)


def min_max(values: np.ndarray, constant: float, axis: tuple[int, ...] | None = None) -> np.ndarray:
    """(v - min) / (max - min) in float64 over `axis`; constant input becomes `constant`."""
    values = np.asarray(values, np.float64)
    low = values.min(axis=axis, keepdims=True)
    span = values.max(axis=axis, keepdims=True) - low
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(span > 0, (values - low) / span, np.where(np.isfinite(span), constant, np.nan))


def one_sign(values: np.ndarray, sign: str) -> np.ndarray:
    """The positive part of signed values, or their size; float32."""
    return np.maximum(values, np.float32(0)) if sign == "positive" else np.abs(values)


def channels_to_plane(attribution: np.ndarray, constant: float) -> np.ndarray:
    """The study's plane of a signed (C, H, W) attribution, in 0..1.

    Absolute value, min-max per channel, sum over channels, min-max.
    """
    per_channel = min_max(np.abs(attribution.astype(np.float64)), constant, axis=(1, 2))
    return min_max(per_channel.sum(axis=0), constant)
