"""Base of class activation maps (CAM): the layer, the signed sum as it is stored, and pytorch-grad-cam's scaling.

To add a CAM of pytorch-grad-cam, derive it from `SinglePassCAM` as methods/hirescam.py does: set `name`, `label`,
`citations` and `library_class`, and enter it in core/registry.py. A CAM with another formula writes `read` as well.

Each method's formula is pytorch-grad-cam's own, applied to activations and gradients of one pass that all methods
share. Two parts of the library are replaced: `backward`, which also computes the gradient of every weight (223 ms a
patch of the study's CNN against 25 to 46), and the scaling, which loses sign and size and is left to `render`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.explain.bases.method import Method, MethodOptions, RawSpec, level, one_sign
from histoxai.explain.bases.single_pass import SinglePass

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.layers import Layer
    from histoxai.explain.network import Network


@dataclass(frozen=True)
class Options(MethodOptions):
    """layer: dotted name of a module; empty for the network's own choice, else its last convolution.

    `relu:3` is the third use of the module `relu` in a pass.
    """

    layer: str = ""


class CAM(Method):
    """A method of pytorch-grad-cam that looks at one layer."""

    family = "activation map"
    Options: ClassVar[type] = Options
    own_sign = "positive"
    library_package = "grad-cam"
    # Name of the method's class in pytorch_grad_cam.
    library_class: ClassVar[str]

    def layer(self, body: nn.Module) -> Layer:
        """The chosen layer, else the network's own choice, else its last convolution."""
        from histoxai.explain.layers import find_layer

        return find_layer(body, self.options.layer, self.name)

    def channels_first(self, body: nn.Module, values: torch.Tensor) -> torch.Tensor:
        """The layer's output as (n, channels, h, w) if the network declares tokens, or channels last.

        As pytorch-grad-cam's authors reshape for transformers: the class token is dropped, the others form the grid.
        """
        from torch import nn

        from histoxai.explain.layers import use_of

        grid = getattr(body, "gradcam_grid", None)
        if values.ndim == 3 and grid and values.shape[1] >= grid[0] * grid[1]:
            tokens = values[:, -grid[0] * grid[1] :]
            return tokens.transpose(1, 2).reshape(len(values), values.shape[2], *grid)
        if (
            values.ndim == 4
            and getattr(body, "gradcam_last", False)
            and not isinstance(use_of(self.layer(body)).module, nn.Conv2d)
        ):
            return values.permute(0, 3, 1, 2)
        return values

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """The signed sum (1, h, w) float32 at the layer's resolution.

        Raises UsageError if the layer named by the user gives no (n, channels, h, w) activation, and InputRefused if
        the network's own choice gives none.
        """
        shape = self._activation_shape(net, size)
        if len(shape) != 4 or shape[0] != 1:
            layer = f"-O {self.name}.layer={self.options.layer}" if self.options.layer else f"{self.name}: its layer"
            kind = UsageError if self.options.layer else InputRefused
            raise kind(f"{layer}: gives no (n, channels, h, w) activation but {shape or 'nothing'}; name another layer")
        return {"": RawSpec((1, *shape[2:]))}

    def _activation_shape(self, net: Network, size: tuple[int, int]) -> tuple[int, ...]:
        import torch

        from histoxai.explain.layers import captured

        layer = self.layer(net.body)
        with torch.no_grad(), captured([layer], cut=False) as values:
            net.module(net.ready(torch.zeros(1, 3, *size)))
        return tuple(self.channels_first(net.body, values[layer]).shape) if layer in values else ()

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """pytorch-grad-cam's own run up to the signed sum."""
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        from histoxai.explain.layers import use_of

        transform, use = partial(self.channels_first, module), use_of(self.layer(module))
        cam = self._signed_library_class(use.number - 1)(
            model=module, target_layers=[use.module], reshape_transform=transform
        )
        # as its authors call it: with gradients of all weights
        flags = [(p, p.requires_grad) for p in module.parameters()]
        try:
            module.requires_grad_(True)
            return {"": np.asarray(cam(image[None], [ClassifierOutputTarget(target)]))}
        finally:
            cam.activations_and_grads.release()
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
                parameter.grad = None

    def _library_class(self) -> Any:
        import pytorch_grad_cam

        return getattr(pytorch_grad_cam, self.library_class)

    def _signed_library_class(self, use: int) -> Any:
        class Signed(self._library_class()):  # type: ignore[misc]
            """The library's class without ReLU, scaling and resizing; reads the layer's use number `use`, from 0."""

            def compute_cam_per_layer(self, input_tensor, targets, eigen_smooth):  # type: ignore[no-untyped-def]
                hooks = self.activations_and_grads
                arrays = [
                    (values[use].cpu().numpy() if values else None) for values in (hooks.activations, hooks.gradients)
                ]
                return self.get_cam_image(input_tensor, self.target_layers[0], targets, *arrays, eigen_smooth)

            def aggregate_multi_layers(self, cam_per_target_layer):  # type: ignore[no-untyped-def]
                return cam_per_target_layer

        return Signed

    def signed(self, raw: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """The layer's map, bilinear at the patch's size."""
        return cv2.resize(level(raw[""][0]), (size[1], size[0]))[None]

    def relevance(self, raw: dict[str, np.ndarray], size: tuple[int, int], sign: str) -> np.ndarray:
        """The layer's map of one sign, bilinear at the patch's size."""
        return cv2.resize(one_sign(level(raw[""][0]), self.own_sign if sign == "own" else sign), (size[1], size[0]))

    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """Scale as the library does: ReLU, min-max (+ 1e-7), bilinear resize, min-max (+ 1e-7); never NaN."""
        del constant  # the library's own scaling turns a constant map into zeros
        scaled = cv2.resize(_scaled(np.maximum(level(raw[""][0]), 0)), (size[1], size[0]))
        return _scaled(np.maximum(scaled, 0)).astype(np.float64)


class SinglePassCAM(CAM, SinglePass):
    """A formula of pytorch-grad-cam over a layer's activation and gradient."""

    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        """The library's weighted sum (n, 1, h, w) float32."""
        formula = object.__new__(self._library_class())  # without __init__, which would register hooks
        formula.activations_and_grads = _NoHooks()
        arrays = value.cpu().numpy(), None if gradient is None else gradient.cpu().numpy()  # waits: library takes numpy
        return np.asarray(formula.get_cam_image(None, None, None, *arrays, False), np.float32)[:, None]


class _NoHooks:
    def release(self) -> None:
        """Do nothing; the library calls this from `__del__`."""


def _scaled(plane: np.ndarray) -> np.ndarray:
    # the library's scale_cam_image in float32, with its 1e-7
    plane = plane - plane.min()
    return (plane / (1e-7 + plane.max())).astype(np.float32)
