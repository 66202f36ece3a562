"""Augment training patches anew in every epoch: flips, rotations, crops, colour, stain, blur, noise and erasing.

Everything random about a patch is drawn from a generator seeded by (seed, epoch, patch_id). Neither batch, worker nor
device changes the result, and a resumed run repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2

from histoxai.core.provenance import keyed_seed
from histoxai.settings import Augmentation

# Neither tissue nor glass has this grey; a white rectangle would look like a lumen.
_ERASED = 0.5
# scikit-image measures stain in logarithms to the base of this, its darkest value.
_DARKEST = 1e-6
# scikit-image's amount of a stain per unit of optical density (base 10).
_PER_DENSITY = math.log(10) / -math.log(_DARKEST)


class QuarterTurn(v2.Transform):
    """Rotate by 0, 90, 180 or 270 degrees with equal probability, without interpolation.

    Patches that are not square are rotated by 0 or 180 degrees, which keeps their size.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        turns = int(torch.randint(4, ()))
        height, width = flat_inputs[0].shape[-2:]
        return {"turns": turns if height == width else turns // 2 * 2}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return tv_tensors.wrap(torch.rot90(inpt, params["turns"], (-2, -1)), like=inpt)


class Crop(v2.Transform):
    """Cut out a part of a patch and scale it up to the patch's size; masks keep their values.

    The part has the patch's shape. The share of each side that is cut off is drawn from [0, most], and so is the place.
    Images are interpolated bilinearly. A mask's pixel takes the value of the pixel that covers its centre.
    """

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        sides = flat_inputs[0].shape[-2:]
        share = 1 - float(torch.empty(()).uniform_(0, self.most))
        height, width = (max(1, round(side * share)) for side in sides)
        top, left = (int(torch.randint(s - k + 1, ())) for s, k in zip(sides, (height, width), strict=True))
        return {"rows": slice(top, top + height), "columns": slice(left, left + width)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        part = inpt[..., params["rows"], params["columns"]]
        if part.shape == inpt.shape:
            return inpt
        mode = "nearest-exact" if isinstance(inpt, tv_tensors.Mask) else "bilinear"
        scaled = functional.interpolate(part.as_subclass(torch.Tensor)[None], size=inpt.shape[-2:], mode=mode)[0]
        return tv_tensors.wrap(scaled, like=inpt)


class Noise(v2.Transform):
    """Add Gaussian noise of one standard deviation to every pixel and channel, drawn on the CPU for any device."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"noise": torch.randn(flat_inputs[0].shape) * self.deviation}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return tv_tensors.wrap(inpt + params["noise"].to(inpt.device), like=inpt)


class HedJitter(v2.Transform):
    """Jitter stains: the amounts of hematoxylin, eosin and residue become a * amount + b.

    a is drawn from [1 - sigma, 1 + sigma], b from [-sigma, sigma] of optical density, for each stain separately.
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
    """Convert (..., 3, H, W) float RGB in 0..1 to amounts of hematoxylin, eosin and residue, in scikit-image's unit.

    As `skimage.color.rgb2hed`, but amounts below 0 stay, since `from_stains` could not restore the colours otherwise.
    """
    density = images.clamp(min=_DARKEST).log() / math.log(_DARKEST)
    return _mix(density, _vectors("hed_from_rgb"))


def from_stains(stains: torch.Tensor) -> torch.Tensor:
    """Convert stain amounts back to RGB (..., 3, H, W) in 0..1, as `skimage.color.hed2rgb`."""
    return (_mix(stains, _vectors("rgb_from_hed")) * math.log(_DARKEST)).exp().clamp(0, 1)


def _mix(planes: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    # sums of three planes, written out: GPUs compute a matrix product in TF32 where that is enabled
    m = matrix.to(planes)
    red, green, blue = planes.unbind(-3)
    return torch.stack([red * m[0, k] + green * m[1, k] + blue * m[2, k] for k in range(3)], -3)


@cache
def _vectors(name: str) -> torch.Tensor:
    from skimage import color

    return torch.from_numpy(getattr(color, name))


class Augmenter:
    """Augment batches on the device that they are on.

    Masks move with their images; colour, blur, noise and erasing leave masks alone. torch's random state does not
    change.
    """

    def __init__(self, settings: Augmentation, seed: int) -> None:
        self.seed = seed
        self._geometric = v2.Compose([v2.Identity(), *_geometric(settings)])
        self._photometric = v2.Compose([v2.Identity(), *_photometric(settings)])

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, epoch: int, ids: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment images (n, 3, H, W) float32 in 0..1, with labels (n,) or masks (n, 2, H, W); epoch from 0; ids (n,).

        Returns the same shapes, ranges and dtypes, images channels last in memory.
        """
        pairs = []
        with torch.random.fork_rng(devices=[]):
            for image, target, patch_id in zip(images, targets, ids, strict=True):
                # torch.manual_seed would seed the GPUs' generators as well, which nothing here restores
                torch.default_generator.manual_seed(keyed_seed(self.seed, "augment", epoch, patch_id, bits=63))
                pairs.append(self._augment(image, target))
        stacked = torch.stack([image for image, _ in pairs]).contiguous(memory_format=torch.channels_last)
        return stacked, torch.stack([target for _, target in pairs])

    def _augment(self, image: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        masks = target.ndim == 3
        pair = (tv_tensors.Image(image), tv_tensors.Mask(target) if masks else target)
        moved, target = self._geometric(*pair)
        changed = self._photometric(moved).as_subclass(torch.Tensor).clamp(0, 1)
        return changed, target.as_subclass(torch.Tensor)


def _geometric(settings: Augmentation) -> list[v2.Transform]:
    flips = [v2.RandomHorizontalFlip(0.5), v2.RandomVerticalFlip(0.5)] if settings.flips else []
    turns = [QuarterTurn()] if settings.rotations else []
    return [*flips, *turns, *([Crop(settings.crop)] if settings.crop else [])]


def _photometric(settings: Augmentation) -> list[v2.Transform]:
    transforms: list[v2.Transform] = []
    if settings.hed:
        transforms.append(HedJitter(settings.hed))
    if (c := settings.colour) > 0:
        transforms.append(v2.ColorJitter(brightness=c, contrast=c, saturation=c, hue=c / 4))
    if settings.blur:
        least = min(0.1, settings.blur)
        transforms.append(v2.RandomApply([_Blur(least, settings.blur)], 0.5))
    if settings.noise:
        transforms.append(Noise(settings.noise))
    if settings.erase:
        transforms.append(v2.RandomErasing(0.5, (min(0.02, settings.erase), settings.erase), (0.5, 2.0), _ERASED))
    return transforms


class _Blur(v2.GaussianBlur):
    """A Gaussian blur whose kernel is four standard deviations wide, less where a patch is smaller than that."""

    def __init__(self, least: float, most: float) -> None:
        super().__init__(2 * math.ceil(2 * most) + 1, (least, most))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        # the border is mirrored, which a kernel wider than twice the patch does not allow
        kernel = [min(k, 2 * side - 1) for k, side in zip(self.kernel_size, inpt.shape[:-3:-1], strict=True)]
        return v2.functional.gaussian_blur(inpt, kernel, **params)


def augmenter(settings: Augmentation | None, seed: int) -> Augmenter | None:
    """Return the augmenter for these settings; None for None."""
    return None if settings is None else Augmenter(settings, seed)
