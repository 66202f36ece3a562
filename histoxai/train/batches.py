"""Cut epochs into batches, share each batch among the ranks, and mix and augment its patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from histoxai.core.provenance import keyed_seed
from histoxai.settings import Training
from histoxai.train.dataset import PatchDataset

# (outputs, targets) of a batch -> scalar, a mean over its patches
BatchMetric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """This rank's part of one batch: number in the epoch, positions in the dataset, images and targets.

    patches: number of patches; 0 if this rank got a filler, since the batch has fewer patches than there are ranks.
    """

    number: int
    positions: np.ndarray
    patches: int
    images: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True)
class BatchOutcome:
    """Mean loss and metric of one batch of this rank, the patches they count for, and their patch_ids."""

    loss: torch.Tensor
    metric: torch.Tensor
    patches: int
    ids: np.ndarray


def cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut an order of positions into batches of `size`, the last one smaller."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def train_batches(dataset: PatchDataset, settings: Training, epoch: int, least: int = 2) -> list[np.ndarray]:
    """Return the positions of each batch of an epoch; a last batch with fewer than `least` patches is left out."""
    batches = cut(dataset.order(settings.seed, epoch), settings.batch_size)
    # BatchNorm has no variance over one patch; in the next epoch's order the patch lies elsewhere.
    if len(batches) > 1 and len(batches[-1]) < min(least, settings.batch_size):
        batches.pop()
    return batches


def normalises_over_batch(model: nn.Module) -> bool:
    """Whether a network has layers that take their statistics from the batch."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


def own_batches(
    dataset: PatchDataset, positions: Sequence[np.ndarray], fabric: Fabric, first: int = 0
) -> Iterator[Batch]:
    """Yield this rank's part of every batch; first: the number of the first batch.

    A rank without a patch gets the batch's first one as a filler, with `patches` 0.
    """
    rank, world = fabric.global_rank, fabric.world_size
    parts = [np.array_split(at, world)[rank] for at in positions]
    filled = [own if len(own) else at[:1] for own, at in zip(parts, positions, strict=True)]
    tensors = dataset.batches(filled, fabric.device)
    for k, (own, part, (images, targets)) in enumerate(zip(filled, parts, tensors, strict=True), first):
        yield Batch(k, own, len(part), images, targets)


def augmented(batch: Batch, dataset: PatchDataset, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and targets as the dataset's augmentation changes them in this epoch."""
    if dataset.augment is None:
        return batch.images, batch.targets
    ids = dataset.ids[batch.positions]
    # a patch that is drawn again in the same epoch is augmented differently
    keys = [f"{i}@{batch.number}" for i in ids] if dataset.balanced else ids
    return dataset.augment(batch.images, batch.targets, epoch, keys)


@dataclass(frozen=True)
class Mixup:
    """Mixup (Zhang et al. 2018): position of each patch's partner, and lambda, the weight of the patch itself."""

    partner: torch.Tensor
    share: float

    @classmethod
    def draw(cls, alpha: float, batch: Batch, seed: int, epoch: int, rank: int) -> Mixup:
        """Draw the share from Beta(alpha, alpha), the same on all ranks, and the partners on each rank."""
        share = float(np.random.default_rng(keyed_seed(seed, "mixup", epoch, batch.number)).beta(alpha, alpha))
        key = keyed_seed(seed, "partners", epoch, batch.number, rank)
        order = np.random.default_rng(key).permutation(len(batch.positions))
        return cls(torch.from_numpy(order).to(batch.images.device), share)

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Return each image mixed with its partner."""
        return self.share * images + (1 - self.share) * images[self.partner]

    def loss(self, loss: BatchMetric, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss against each patch's own target and its partner's, weighted as the images are."""
        return self.share * loss(outputs, targets) + (1 - self.share) * loss(outputs, targets[self.partner])
