"""Bases of methods that run the network on many perturbed copies of a patch.

A perturbation method is one class with `prepare`, `perturb(i)` and `reduce(outputs)`:

    class RISE(Sampling):
        def prepare(self):             # once a patch; sets `rows`, the number of copies
            self.rows = self.options.masks
            self.masks = self.random.random((self.rows, *self.image.shape[1:])) < 0.5

        def perturb(self, i):          # copy i (3, H, W)
            return self.image * self.masks[i]

        def reduce(self, outputs):     # the network's output (rows,) for every copy -> the map
            return Map({"": np.tensordot(outputs.numpy(), self.masks, 1)[None]})

Each patch is explained by its own copy of the method, which has the patch as `image` and `target` and draws from
`random`, seeded for this patch alone. Maps therefore do not depend on shards, workers or the order of patches. Copies
of several patches fill whole micro-batches (packing.py).

Two parts may be written for speed on a GPU: `fill` in place of `perturb`, for many copies with few kernels, and
`summary`, for what is better computed there than on the host.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from histoxai.explain.bases.method import Batch, Map, PixelMethod
from histoxai.explain.bases.packing import PatchInputs, Step, run_packed

if TYPE_CHECKING:
    import torch

    from histoxai.explain.network import Network


# Outputs that differ by no more, as a share of the largest, are one output: two units of the last place of float32.
SAME_OUTPUT = 2.0**-22


def is_same_output(outputs: np.ndarray) -> bool:
    """Tell whether the outputs (n,) differ by rounding alone, as LIME's of a patch of one colour do.

    What a method makes of them would be a map of the rounding, or of its own samples.
    """
    return bool(np.ptp(outputs) <= SAME_OUTPUT * np.abs(outputs).max())


class PerturbedCopies(PixelMethod, PatchInputs):
    """What `Sampling` and `GradientSampling` share.

    Attributes of a patch's copy of the method: image (3, H, W) float32 on the network's device, host_image (the same on
    the host), target (class), seed, and random, a numpy generator of that seed. `prepare` sets rows, the number of
    perturbed copies.
    """

    # Cost of a patch in passes, with options in braces.
    passes: ClassVar[str]
    image: torch.Tensor
    host_image: torch.Tensor
    seed: int
    random: np.random.Generator

    @classmethod
    def cost(cls, options: Any) -> str:
        return cls.passes.format(**vars(options))

    def prepare(self) -> None:
        """Set `rows` and whatever all copies of this patch share."""
        self.rows = self.options.samples

    def perturb(self, i: int) -> torch.Tensor:
        """Perturbed copy i of the patch, (3, H, W) float32. A method writes either this or `fill`."""
        import torch

        row = torch.empty_like(self.image)[None]
        self.fill(i, i + 1, row)
        return row[0]

    def for_patch(self, image: torch.Tensor, batch: Batch, i: int, **attributes: Any) -> Self:
        """Copy the method for patch i of the batch; `attributes` are set before `prepare` runs.

        image: the patch on the network's device.
        """
        one = copy.copy(self)
        one.image = image
        one.host_image, one.target, one.seed = batch.patch(i)
        one.random = np.random.default_rng(one.seed)
        for name, value in attributes.items():
            setattr(one, name, value)
        one.prepare()
        return one

    def patches(self, net: Network, images: torch.Tensor, batch: Batch) -> Iterator[tuple[int, Self]]:
        """Yield (position, copy of the method) for every patch; `images` are the batch's on the network's device."""
        del net
        for i in range(len(batch)):
            yield i, self.for_patch(images[i], batch, i)

    @abstractmethod
    def step(self, net: Network) -> Step:
        """The function of the network that is run on micro-batches."""

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Explain every patch; copies of several patches share micro-batches."""
        images = net.ready(batch.images)
        yield from run_packed(net, self.step(net), self.patches(net, images, batch), images.shape[1:])

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write copies [start, stop) into `out`."""
        for i, row in enumerate(out, start):
            row.copy_(self.perturb(i))


class Sampling(PerturbedCopies):
    """A method that reduces the network's outputs for all perturbed copies of a patch to a map."""

    # The output for the target class.
    output: ClassVar[Literal["logit", "probability"]] = "probability"
    passes = "{samples} forward"

    def step(self, net: Network) -> Step:
        """The target's logit or probability."""
        return net.logit if self.output == "logit" else net.probability

    @abstractmethod
    def reduce(self, outputs: torch.Tensor) -> Map:
        """The map, from the outputs (rows, ...) on the host for all copies in their order, or from `summary`."""

    def take(self, start: int, stop: int, outputs: torch.Tensor) -> None:
        """Keep the outputs until all are there."""
        if start == 0:
            self._outputs: list[torch.Tensor] = []
        self._outputs.append(outputs)

    def summary(self) -> torch.Tensor:
        """The outputs of all copies."""
        import torch

        return torch.cat(self._outputs)


class GradientSampling(PerturbedCopies):
    """A method that adds up gradients of the target's logit at perturbed copies of a patch.

    Gradients (3, H, W) are added as they come, because those of all copies would not fit into memory.
    """

    passes = "{samples} forward + backward"

    def step(self, net: Network) -> Step:
        """The gradient of the target's logit with respect to the copy."""
        return net.gradient

    @abstractmethod
    def accumulate(self, i: int, gradient: torch.Tensor) -> None:
        """Add the gradient (3, H, W) at copy i; called in the order of copies."""

    @abstractmethod
    def summary(self) -> torch.Tensor:
        """The attribution (3, H, W), from the gradients of all copies."""

    def take(self, start: int, stop: int, outputs: torch.Tensor) -> None:
        for i, gradient in enumerate(outputs, start):
            self.accumulate(i, gradient)
