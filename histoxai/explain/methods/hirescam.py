"""HiResCAM.

Draelos and Carin 2020, arXiv 2011.08891: gradient times activation, summed over channels, without the averaging that
lets GradCAM point where the network did not look.
"""

from __future__ import annotations

from typing import Any

from histoxai.explain.bases.cam import SinglePassCAM


class HiResCAM(SinglePassCAM):
    """pytorch-grad-cam's HiResCAM of the target's logit at the last convolution.

    Source: arXiv 2011.08891.
    """

    name = "hirescam"

    @staticmethod
    def library_class() -> Any:
        """pytorch_grad_cam.HiResCAM."""
        from pytorch_grad_cam import HiResCAM as Library

        return Library
