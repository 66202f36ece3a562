"""GradCAM through pytorch-grad-cam.

Selvaraju et al. 2017, arXiv 1610.02391: activations of a layer, weighted by the spatial mean of the
target's gradient, summed over channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from histoxai.errors import InputRefused, UsageError
from histoxai.explainers.base import Batch, Explainer, RawSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Options:
    """layer: dotted name of a module; empty for the network's own choice, else its last convolution."""

    layer: str = ""


def _signed_cam(model: nn.Module, layer: nn.Module) -> Any:
    from pytorch_grad_cam import GradCAM as LibraryGradCAM

    class Signed(LibraryGradCAM):
        """The library's GradCAM up to the weighted sum: ReLU, scaling and resizing lose sign and size."""

        def compute_cam_per_layer(self, input_tensor, targets, eigen_smooth):  # type: ignore[no-untyped-def]
            store = self.activations_and_grads
            found = store.activations[0].numpy(), store.gradients[0].numpy()
            return self.get_cam_image(input_tensor, self.target_layers[0], targets, *found, eigen_smooth)

        def aggregate_multi_layers(self, cam_per_target_layer):  # type: ignore[no-untyped-def]
            return cam_per_target_layer

    return Signed(model, [layer])


def _scaled(plane: np.ndarray) -> np.ndarray:
    # the library's scale_cam_image in float32, with its 1e-7
    plane = plane - plane.min()
    return (plane / (1e-7 + plane.max())).astype(np.float32)


class GradCAM(Explainer):
    """pytorch-grad-cam's GradCAM of the target's logit at the last convolution (the study: conv3, before ReLU).

    Source: arXiv 1610.02391.
    """

    Options = Options
    together = True

    def raw_specs(self, model: nn.Module, size: tuple[int, int]) -> dict[str, RawSpec]:
        """The signed weighted sum (1, h, w) at the layer's resolution."""
        import torch

        shapes: list[torch.Size] = []
        handle = find_layer(model, self.options.layer).register_forward_hook(
            lambda module, inputs, output: shapes.append(output.shape)
        )
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, *size, device=next(model.parameters()).device))
        finally:
            handle.remove()
        if not shapes or len(shapes[0]) != 4:
            raise InputRefused(f"-O gradcam.layer={self.options.layer}: gives no (n, channels, h, w) activation")
        return {"": RawSpec((1, *shapes[0][2:]))}

    def attribute(self, model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """Micro-batches of exactly `micro_batch` patches, the last one padded with its last patch."""
        import torch
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        layer = find_layer(model, self.options.layer)
        parts = []
        for start in range(0, len(batch), self.micro_batch):
            images = batch.images[start : start + self.micro_batch]
            targets = batch.targets[start : start + self.micro_batch].tolist()
            short = self.micro_batch - len(images)
            if short:
                images = torch.cat([images, images[-1:].expand(short, -1, -1, -1)])
            images = images.contiguous(memory_format=torch.channels_last)
            wanted = [ClassifierOutputTarget(t) for t in [*targets, *[targets[-1]] * short]]
            cam = _signed_cam(model, layer)
            try:
                parts.append(cam(images, wanted)[: len(targets)])
            finally:
                cam.activations_and_grads.release()
                model.zero_grad(set_to_none=True)
        return {"": np.concatenate(parts)[:, None].astype(np.float32)}

    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """As the library does: ReLU, min-max (+ 1e-7), bilinear resize, min-max (+ 1e-7); never constant NaN."""
        del constant  # the library's own scaling turns a constant map into zeros
        scaled = cv2.resize(_scaled(np.maximum(raw[""][0], 0)), (size[1], size[0]))
        return _scaled(np.maximum(scaled, 0)).astype(np.float64)


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The module that GradCAM weighs: `name`, else the network's `gradcam_layer`, else its last convolution.

    Raises UsageError for a name that the network does not have and InputRefused where it has no
    convolution at all.
    """
    from torch import nn

    name = name or str(getattr(model, "gradcam_layer", ""))
    modules = dict(model.named_modules())
    if name:
        if name not in modules:
            convolutions = [n for n, m in modules.items() if isinstance(m, nn.Conv2d)]
            raise UsageError(f"-O gradcam.layer={name}: no such layer; its convolutions: {', '.join(convolutions)}")
        return modules[name]
    convolutions = [m for m in modules.values() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        raise InputRefused("gradcam: the network has no convolution; choose other methods with --method")
    return convolutions[-1]
