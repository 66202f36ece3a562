"""The contract of every attribution method.

A method takes a network and a batch of patches. For each patch it returns raw, signed attributions at native resolution
and a few checks of them. Stores keep these raw arrays; `render`, `relevance` and `signed` turn them into what scores
and figures need. Method files import torch and their library inside functions, so that scoring starts without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.settings import check_bounds

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network

# Raised whenever a change makes any map differ from what earlier versions stored.
ENGINE = 4
# Contrast that is no more than rounding, as a share of the largest absolute value: the numerics contract of maps.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Batch:
    """Patches to explain.

    images: (n, 3, H, W) float32 in 0..1. targets: (n,) int64, the class that each map explains. seeds: one per patch,
    below 2**32. nuclei: (n, 2, H, W) probabilities of tumor and non-tumor nuclei, given with a masks store. ids: names
    of the patches in messages.
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
        """Name of one patch in messages."""
        return f"patch {self.ids[i]}" if len(self.ids) else f"patch {i}"


@dataclass(frozen=True)
class RawSpec:
    """One raw array of a method: shape of a patch's row, dtype, and fill value."""

    shape: tuple[int, ...]
    dtype: Any = np.float32
    fill: Any = 0


@dataclass(frozen=True)
class Map:
    """One patch's raw arrays by part ("" is the method's own array), and its checks by name."""

    raw: dict[str, np.ndarray]
    checks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodOptions:
    """Base of every method's options: a frozen dataclass whose bounds are checked; by itself, no options.

    An option that is added later is declared with `omit_default=True`, and its default must never change.
    """

    def __post_init__(self) -> None:
        check_bounds(self)


class Method(ABC):
    """Base of all attribution methods. The class describes the method; an instance is the method with its options.

    Subclasses set the facts below and write `raw_specs`, `explain`, `cost` and `render`. The first paragraph of their
    docstring says in one sentence what the method computes by default; `explain --list` shows it.
    """

    # Name after `--method`, and in messages.
    name: ClassVar[str]
    # Name in the literature.
    label: ClassVar[str]
    # One of FAMILIES in catalogue.py, or a plugin's own.
    family: ClassVar[str] = "other"
    # Keys of the papers to cite: in core/references.bib, or in `bibtex`.
    citations: ClassVar[tuple[str, ...]] = ()
    # BibTeX entries of works that core/references.bib does not have; for plugins.
    bibtex: ClassVar[str] = ""
    # A frozen dataclass derived from MethodOptions.
    Options: ClassVar[type] = MethodOptions
    # Names of the checks that `explain` reports of each map, in addition to COMMON_CHECKS.
    checks: ClassVar[tuple[str, ...]] = ()
    # `constant` and `zero` are 1 or 0; `negative_share` is the absolute sum of negative evidence over that of all.
    COMMON_CHECKS: ClassVar[tuple[str, ...]] = ("constant", "zero", "negative_share")
    # Whether values are slopes, which have yet to be multiplied by a change of the input, not contributions of pixels.
    is_gradient: ClassVar[bool] = False
    # The sign of evidence that the method's authors show: "absolute" (either sign) or "positive" (for the class).
    own_sign: ClassVar[str] = "absolute"
    # The package that `library` calls, such as "captum"; empty if there is none.
    library_package: ClassVar[str] = ""

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Raw arrays by part for patches of `size` (H, W); the part "" is the method's own array.

        Raises InputRefused or UsageError if the network or the size of the patches does not suit the method.
        """

    @abstractmethod
    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Yield (position in the batch, map) of every patch, in the order in which they are finished.

        The result for a patch depends on nothing but that patch.
        """

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray] | None:
        """Raw arrays of one patch (3, H, W) from the method's own library, called as its authors call it.

        `module` may be in float64. None if no library has the method.
        """
        del module, image, target, seed
        return None

    def why_no_library(self) -> str:
        """Why no library computes the method with these options; empty if one does."""
        return "" if type(self).library is not Method.library else "no library has this method"

    def library_map(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> Map:
        """One patch's map and checks as stores have them, made by the library.

        Raises InputRefused if the library gives none.
        """
        raw = self.library(module, image, target, seed)
        if raw is None:
            raise InputRefused(f"{self.name}: no library computes it with these options; use --engine histoxai")
        return Map(raw)

    def explain_with_library(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Yield what `explain` yields, made by the library patch after patch, from the network in float32."""
        from histoxai.explain.network import quiet_library

        for i in range(len(batch)):
            image, target, seed = batch.patch(i)
            with quiet_library():
                result = self.library_map(net.exact, net.ready(image[None])[0], target, seed)
            yield i, result

    @classmethod
    @abstractmethod
    def cost(cls, options: Any) -> str:
        """Cost of a patch in passes through the network, such as "100 forward + backward"."""

    @abstractmethod
    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """Render one patch's plane (H, W) float64 in 0..1.

        constant: value of a channel without contrast after scaling: 0, or NaN as in the study's code.
        """

    def signed(self, raw: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """One patch's signed evidence (C, H, W) float32 per pixel, C 1 or 3."""
        del size
        return level(raw[""])

    def relevance(self, raw: dict[str, np.ndarray], size: tuple[int, int], sign: str) -> np.ndarray:
        """One patch's evidence (H, W) float32 for threshold-free measures: not negative, not rescaled.

        sign: "positive" (evidence for the class), "absolute" (either sign), or "own" (see `own_sign`). Channels are
        summed afterwards.
        """
        return one_sign(level(raw[""]), self.own_sign if sign == "own" else sign).sum(axis=0)

    def evidence(self, raw: dict[str, np.ndarray]) -> np.ndarray:
        """The signed numbers that checks and comparisons look at."""
        return raw[""]

    def all_checks(self, result: Map) -> dict[str, float]:
        """Checks of a map by name: the common ones and the method's own."""
        values = self.evidence(result.raw).astype(np.float64)
        total = float(np.abs(values).sum())
        return {
            "constant": float(values.size == 0 or np.ptp(level(values, tuple(range(values.ndim)))) == 0),
            "zero": float(total == 0),
            "negative_share": float(np.abs(values[values < 0]).sum() / total) if total else float("nan"),
            **result.checks,
        }


def explain_all(explainer: Method, net: Network, batch: Batch) -> dict[str, np.ndarray]:
    """Explain a whole batch; raw arrays (n, ...) by part."""
    maps = dict(explainer.explain(net, batch))
    return {part: np.stack([maps[i].raw[part] for i in range(len(batch))]) for part in maps[0].raw}


class PixelMethod(Method):
    """A method with one signed array (C, H, W), rendered as the study renders Integrated Gradients."""

    channels: ClassVar[int] = 3

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Signed attributions (C, H, W) float32."""
        del net
        return {"": RawSpec((self.channels, *size))}

    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """Absolute value, min-max per channel, sum, min-max."""
        return channels_to_plane(raw[""], constant)


def level(values: np.ndarray, axis: tuple[int, ...] = (-2, -1)) -> np.ndarray:
    """Make values that are constant below rounding over `axis` exactly constant; all others stay as they are.

    Scaling and ranking would otherwise turn the rounding of a map without contrast into evidence.
    """
    low, high = values.min(axis=axis, keepdims=True), values.max(axis=axis, keepdims=True)
    with np.errstate(invalid="ignore"):
        is_level = high - low <= ROUNDING * np.maximum(np.abs(low), np.abs(high))
    return np.where(is_level, low, values) if is_level.any() else values


def min_max(values: np.ndarray, constant: float, axis: tuple[int, ...] | None = None) -> np.ndarray:
    """Scale to (v - min) / (max - min) in float64 over `axis`; input without contrast becomes `constant`.

    Contrast below rounding is none.
    """
    values = np.asarray(values, np.float64)
    values = level(values, tuple(range(values.ndim)) if axis is None else axis)
    low = values.min(axis=axis, keepdims=True)
    span = values.max(axis=axis, keepdims=True) - low
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(span > 0, (values - low) / span, np.where(np.isfinite(span), constant, np.nan))


def one_sign(values: np.ndarray, sign: str) -> np.ndarray:
    """Positive part of signed values (sign "positive") or their absolute value; float32."""
    return np.maximum(values, np.float32(0)) if sign == "positive" else np.abs(values)


def channels_to_plane(attribution: np.ndarray, constant: float) -> np.ndarray:
    """The study's plane (H, W) in 0..1 of a signed attribution (C, H, W).

    Absolute value, min-max per channel, sum over channels, min-max.
    """
    per_channel = min_max(np.abs(attribution.astype(np.float64)), constant, axis=(1, 2))
    return min_max(per_channel.sum(axis=0), constant)
