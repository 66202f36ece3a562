"""Build backbones of torchvision and timm with random weights and a head for given classes; nothing is downloaded.

A network describes itself by four attributes:

- `gradcam_layer`: name of the layer whose activations class activation maps weigh;
- `head_layer`: name of the linear layer that gives the logits; its input is a patch's embedding;
- `gradcam_grid`: (h, w) where `gradcam_layer` gives (n, tokens, channels), of which the last h * w form the grid;
- `gradcam_last`: whether `gradcam_layer` gives (n, h, w, channels).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from histoxai.core.errors import InputRefused, UsageError

SMALLEST = 32  # px; a smaller patch has no pixel left after five halvings
_VIT_PATCH = 16
_ANOTHER = "choose another --arch"


# (torchvision.models, classes, (height, width)) -> module
Build = Callable[[Any, int, tuple[int, int]], nn.Module]


@dataclass(frozen=True)
class Backbone:
    """A registered network of torchvision; calling it with (classes, (height, width)) builds it.

    build(torchvision.models, classes, size) makes the module. head, layer: names of its last linear layer and of the
    layer for GradCAM. source: its paper. last: its layers give channels last.
    """

    name: str
    build: Build
    head: str
    layer: str
    source: str
    last: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", f"torchvision's {self.name} from scratch.\n\nSource: {self.source}.")

    def __call__(self, classes: int, size: tuple[int, int]) -> nn.Module:
        """Build the network with random weights from torch's generator.

        Raises InputRefused for a patch size that it cannot take.
        """
        import torchvision  # not at the top: the import takes two seconds, and the study's CNN does not need it

        _check_size(self.name, size)
        net = self.build(torchvision.models, classes, size)
        net.gradcam_layer, net.head_layer, net.gradcam_last = self.layer, self.head, self.last
        return net


def _check_size(name: str, size: tuple[int, int]) -> None:
    if min(size) < SMALLEST:
        raise InputRefused(f"{name} takes patches of {SMALLEST} px or more, not {size[1]} x {size[0]}; use larger ones")


def _any_size(function: str) -> Build:
    # a network that pools globally takes any size
    def build(models: Any, classes: int, size: tuple[int, int]) -> nn.Module:
        del size
        return getattr(models, function)(weights=None, num_classes=classes)

    return build


def _densenet(models: Any, classes: int, size: tuple[int, int]) -> nn.Module:
    del size

    class DenseNet(models.DenseNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """As torchvision's, but the ReLU does not overwrite the activations that GradCAM weighs."""
            x = functional.relu(self.features(x))
            return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(x, (1, 1)), 1))

    return DenseNet(num_classes=classes)  # whose defaults are DenseNet-121's


def _vit(name: str, heads: int, width: int) -> Build:
    def build(models: Any, classes: int, size: tuple[int, int]) -> nn.Module:
        if size[0] != size[1] or size[0] % _VIT_PATCH:
            raise InputRefused(
                f"{name} takes square patches whose side is a multiple of {_VIT_PATCH} px, not {size[1]} x {size[0]}; "
                "use swin-t, or ingest with another --size"
            )
        net = models.VisionTransformer(size[0], _VIT_PATCH, 12, heads, width, 4 * width, num_classes=classes)
        net.gradcam_grid = (size[0] // _VIT_PATCH, size[1] // _VIT_PATCH)
        return net

    return build


_RESNET, _VIT = "He et al. 2016, arXiv 1512.03385", "Dosovitskiy et al. 2021, arXiv 2010.11929"
# As pytorch-grad-cam's authors advise for each family: the last stage of a CNN, the last block's norm of a transformer.
_VIT_LAYER = "encoder.layers.encoder_layer_11.ln_1"
resnet18 = Backbone("resnet18", _any_size("resnet18"), "fc", "layer4", _RESNET)
resnet34 = Backbone("resnet34", _any_size("resnet34"), "fc", "layer4", _RESNET)
resnet50 = Backbone("resnet50", _any_size("resnet50"), "fc", "layer4", _RESNET)
densenet121 = Backbone("densenet121", _densenet, "classifier", "features.norm5", "Huang et al. 2017, arXiv 1608.06993")
efficientnet_b0 = Backbone(
    "efficientnet-b0", _any_size("efficientnet_b0"), "classifier.1", "features.8", "Tan and Le 2019, arXiv 1905.11946"
)
efficientnet_v2_s = Backbone(
    "efficientnet-v2-s",
    _any_size("efficientnet_v2_s"),
    "classifier.1",
    "features.7",
    "Tan and Le 2021, arXiv 2104.00298",
)
convnext_tiny = Backbone(
    "convnext-tiny", _any_size("convnext_tiny"), "classifier.2", "features.7", "Liu et al. 2022, arXiv 2201.03545"
)
vit_s_16 = Backbone("vit-s-16", _vit("vit-s-16", 6, 384), "heads.head", _VIT_LAYER, _VIT)
vit_b_16 = Backbone("vit-b-16", _vit("vit-b-16", 12, 768), "heads.head", _VIT_LAYER, _VIT)
swin_t = Backbone(
    "swin-t", _any_size("swin_t"), "head", "features.7.1.norm2", "Liu et al. 2021, arXiv 2103.14030", last=True
)


def timm_model(name: str, classes: int, size: tuple[int, int]) -> nn.Module:
    """Build a network of timm's registry by its bare name, with random weights from torch's generator.

    Nothing is downloaded or read: a name with a scheme (`hf-hub:`, `local-dir:`) or a tag of weights is refused.
    Source: Wightman 2019, doi 10.5281/zenodo.4414861. Raises UsageError for such a name and for an unknown one,
    InputRefused where timm is not installed or the network cannot take patches of this size.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import timm
    except ModuleNotFoundError:
        raise InputRefused(f"timm:{name}: needs timm; `pip install 'histoxai[backbones]'`") from None
    if not re.fullmatch(r"[a-z0-9_]+", name) or not timm.is_model(name):
        raise UsageError(
            f"timm:{name}: not in timm's registry; a bare name such as timm:resnet26 is expected, and "
            "`python -c 'import timm; print(*timm.list_models())'` lists them"
        )
    _check_size(f"timm:{name}", size)
    config = timm.get_pretrained_cfg(name)
    sized: dict[str, Any] = {"img_size": size} if getattr(config, "fixed_input_size", False) else {}
    try:
        net = timm.create_model(name, pretrained=False, num_classes=classes, **sized)
        _describe(net, classes, size)
    except InputRefused as error:
        raise InputRefused(f"timm:{name}: {error}") from None
    except (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputRefused(
            f"timm:{name}: does not take patches of {size[1]} x {size[0]} px, or is no classifier ({reason}); choose "
            "another --arch"
        ) from error
    return net


def _describe(net: Any, classes: int, size: tuple[int, int]) -> None:
    """Set the attributes by which a network describes itself, from timm's records and one forward pass."""
    names = {id(part): name for name, part in net.named_modules()}
    head = net.get_classifier()
    if not isinstance(head, nn.Linear):
        raise InputRefused(f"its head is no linear layer; {_ANOTHER}")
    net.head_layer = names[id(head)]
    if not getattr(net, "feature_info", None):
        raise InputRefused("timm does not say which layers are its stages, which activation maps need; " + _ANOTHER)
    layer = str(net.feature_info[-1]["module"])
    outputs: list[torch.Tensor] = []
    hook = net.get_submodule(layer).register_forward_hook(lambda *call: outputs.append(call[2]))
    training = net.training
    try:
        with torch.no_grad():
            logits = net.eval()(torch.zeros(1, 3, *size))
    finally:
        hook.remove()
        net.train(training)
    if tuple(logits.shape) != (1, classes):
        raise InputRefused(f"gives {tuple(logits.shape)}, not (n, classes); {_ANOTHER}")
    if not outputs or not torch.is_tensor(outputs[0]):
        raise InputRefused(f"its last stage, {layer}, gives no activation that maps can weigh; {_ANOTHER}")
    activations = outputs[0]
    if activations.ndim == 3:
        # The tokens of the last block's output no longer reach the head where only the class token is read.
        layer += ".norm1"
        net.get_submodule(layer)
        net.gradcam_grid = tuple(net.patch_embed.grid_size)
    net.gradcam_last = activations.ndim == 4 and activations.shape[1] != net.num_features == activations.shape[-1]
    net.gradcam_layer = layer
