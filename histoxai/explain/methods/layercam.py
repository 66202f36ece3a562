"""LayerCAM.

Jiang et al. 2021, doi 10.1109/TIP.2021.3089943: activations weighted by the positive gradient at each place, so that
earlier layers serve too.
"""

from __future__ import annotations

from typing import Any

from histoxai.explain.bases.cam import SinglePassCAM


class LayerCAM(SinglePassCAM):
    """pytorch-grad-cam's LayerCAM of the target's logit at the last convolution.

    Source: doi 10.1109/TIP.2021.3089943.
    """

    name = "layercam"

    @staticmethod
    def library_class() -> Any:
        """pytorch_grad_cam.LayerCAM."""
        from pytorch_grad_cam import LayerCAM as Library

        return Library
