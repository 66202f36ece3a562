"""Build segmenters of segmentation-models-pytorch: two planes of logits, like the study's U-Net."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from histoxai.core.errors import InputRefused, UsageError

STRIDE = 32  # of every encoder that is allowed
_DEFAULT = "resnet18"


class Padded(nn.Module):
    """Let a network take patches of any size: mirror them at the edge to multiples of 32 px, and crop the output."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 2, H, W) for (n, 3, H, W) float32 in 0..1.

        Raises InputRefused where a side is too short to be mirrored.
        """
        height, width = x.shape[-2:]
        if min(height, width) < STRIDE:
            raise InputRefused(
                f"this segmenter takes patches of {STRIDE} px or more, not {width} x {height}; --arch unet takes them"
            )
        x = functional.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")
        return self.net(x)[..., :height, :width]


def smp_model(name: str) -> nn.Module:
    """Build `Architecture/encoder` of segmentation-models-pytorch, such as Unet/resnet18, with random weights.

    Source: Iakubovskii 2019, github.com/qubvel-org/segmentation_models.pytorch. Nothing is downloaded.

    Raises UsageError for an unknown architecture or encoder or two that do not go together, InputRefused where the
    library is missing.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import segmentation_models_pytorch as library
    except ModuleNotFoundError:
        raise InputRefused(
            f"smp:{name}: needs segmentation-models-pytorch; `pip install 'histoxai[backbones]'`"
        ) from None
    arch, _, encoder = name.partition("/")
    encoder = encoder or _DEFAULT
    known: dict[str, Any] = {kind.__name__: kind for kind in library.MODEL_ARCHITECTURES_MAPPING.values()}
    if arch not in known:
        raise UsageError(f"smp:{name}: unknown architecture '{arch}'; known: {', '.join(known)}")
    encoders = list(library.encoders.get_encoder_names())
    if encoder not in encoders:  # timm's, behind `tu-`, are not in this list
        raise UsageError(f"smp:{name}: unknown encoder '{encoder}'; known: {', '.join(encoders)}")
    try:
        return Padded(known[arch](encoder_name=encoder, encoder_weights=None, in_channels=3, classes=2))
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(
            f"smp:{name}: architecture and encoder do not go together ({why}); try Unet/{_DEFAULT}"
        ) from error
