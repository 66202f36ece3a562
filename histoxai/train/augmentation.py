"""What training does to its patches: flips, turns, colour, stain, blur and covers, anew in every epoch.

Each patch has a key of its own, (seed, epoch, patch_id), and everything random about it is drawn from a generator that
the key starts: not the batch, the worker nor the device changes what a patch becomes, and a resumed run repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from histoxai.core.provenance import keyed_seed
from histoxai.settings import Augmentation

# No tissue and no glass has it: a cover in white would pass for a lumen.
_COVER = 0.5
# scikit-image counts stain in logarithms to the base of this, its darkest value.
_DARKEST = 1e-6
# Per unit of optical density (base 10), what scikit-image calls a stain's amount.
_PER_DENSITY = math.log(10) / -math.log(_DARKEST)


class QuarterTurn(v2.Transform):
    """Turns by 0, 90, 180 or 270 degrees, each as likely; exact, pixels only move.

    Patches that are not square keep their size: they are turned by 0 or 180 degrees.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        turns = int(torch.randint(4, ()))
        height, width = flat_inputs[0].shape[-2:]
        return {"turns": turns if height == width else turns // 2 * 2}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return tv_tensors.wrap(torch.rot90(inpt, params["turns"], (-2, -1)), like=inpt)


class HedJitter(v2.Transform):
    """Stain jitter: amounts of hematoxylin, eosin and residue become a * amount + b.

    a is drawn from [1 - sigma, 1 + sigma], b from [-sigma, sigma] of optical density, for each stain by itself.
    Source: Tellez et al. 2018, IEEE Trans Med Imaging 37:2126; stains as in Ruifrok and Johnston 2001, Anal Quant Cytol
    Histol 23:291.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        factor, offset = torch.empty(2, 3, 1, 1).uniform_(-self.sigma, self.sigma)
        return {"factor": 1 + factor, "offset": offset * _PER_DENSITY}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        factor, offset = (params[k].to(inpt.device) for k in ("factor", "offset"))
        return tv_tensors.wrap(from_stains(to_stains(inpt) * factor + offset), like=inpt)


def to_stains(images: torch.Tensor) -> torch.Tensor:
    """(..., 3, H, W) float RGB in 0..1 -> amounts of hematoxylin, eosin and residue, in scikit-image's unit.

    As `skimage.color.rgb2hed`, except that amounts below 0 stay, without which colours would not come back.
    """
    density = images.clamp(min=_DARKEST).log() / math.log(_DARKEST)
    return _mix(density, _vectors("hed_from_rgb"))


def from_stains(stains: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_stains`, as `skimage.color.hed2rgb`: (..., 3, H, W) in 0..1."""
    return (_mix(stains, _vectors("rgb_from_hed")) * math.log(_DARKEST)).exp().clamp(0, 1)


def _mix(planes: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    # sums of three planes, written out: a matrix product would go through TF32 on GPUs where that is on
    m = matrix.to(planes)
    red, green, blue = planes.unbind(-3)
    return torch.stack([red * m[0, k] + green * m[1, k] + blue * m[2, k] for k in range(3)], -3)


@cache
def _vectors(name: str) -> torch.Tensor:
    from skimage import color

    return torch.from_numpy(getattr(color, name))


class Augmenter:
    """Augments batches on whatever device they are on.

    Masks move as their images do; what changes colours, blurs or covers leaves them alone. Leaves torch's own random
    state as it was.
    """

    def __init__(self, chosen: Augmentation, seed: int) -> None:
        self.seed = seed
        self._moves = v2.Compose([v2.Identity(), *_moves(chosen)])
        self._looks = v2.Compose([v2.Identity(), *_looks(chosen)])

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, epoch: int, ids: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """images (n, 3, H, W) float32 in 0..1; targets labels (n,) or masks (n, 2, H, W); epoch from 0; ids (n,).

        Gives the same shapes, ranges and types, images channels last in memory.
        """
        made = []
        with torch.random.fork_rng(devices=[]):
            for image, target, patch_id in zip(images, targets, ids, strict=True):
                # torch.manual_seed would start the GPUs' generators as well, which nothing here sets back
                torch.default_generator.manual_seed(keyed_seed(self.seed, "augment", epoch, patch_id, bits=63))
                made.append(self._one(image, target))
        stacked = torch.stack([image for image, _ in made]).contiguous(memory_format=torch.channels_last)
        return stacked, torch.stack([target for _, target in made])

    def _one(self, image: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        masks = target.ndim == 3
        pair = (tv_tensors.Image(image), tv_tensors.Mask(target) if masks else target)
        moved, target = self._moves(*pair)
        looks = self._looks(moved).as_subclass(torch.Tensor).clamp(0, 1)
        return looks, target.as_subclass(torch.Tensor)


def _moves(chosen: Augmentation) -> list[v2.Transform]:
    flips = [v2.RandomHorizontalFlip(0.5), v2.RandomVerticalFlip(0.5)] if chosen.flips else []
    return flips + ([QuarterTurn()] if chosen.rotations else [])


def _looks(chosen: Augmentation) -> list[v2.Transform]:
    made: list[v2.Transform] = []
    if chosen.hed:
        made.append(HedJitter(chosen.hed))
    if (c := chosen.colour) > 0:
        made.append(v2.ColorJitter(brightness=c, contrast=c, saturation=c, hue=c / 4))
    if chosen.blur:
        least = min(0.1, chosen.blur)
        made.append(v2.RandomApply([_Blur(least, chosen.blur)], 0.5))
    if chosen.erase:
        made.append(v2.RandomErasing(0.5, (min(0.02, chosen.erase), chosen.erase), (0.5, 2.0), _COVER))
    return made


class _Blur(v2.GaussianBlur):
    """A Gaussian blur whose kernel is four standard deviations wide, or as much of that as a small patch has."""

    def __init__(self, least: float, most: float) -> None:
        super().__init__(2 * math.ceil(2 * most) + 1, (least, most))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        # the border is mirrored, and there is no more to mirror than the patch
        kernel = [min(k, 2 * side - 1) for k, side in zip(self.kernel_size, inpt.shape[:-3:-1], strict=True)]
        return v2.functional.gaussian_blur(inpt, kernel, **params)


def augmenter(chosen: Augmentation | None, seed: int) -> Augmenter | None:
    """The augmenter for a setting; None where nothing is to be done."""
    return None if chosen is None else Augmenter(chosen, seed)
