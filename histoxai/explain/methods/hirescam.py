"""HiResCAM.

Draelos and Carin 2020, arXiv 2011.08891: gradient times activation, summed over channels, without the averaging that
lets GradCAM point where the network did not look.
"""

from __future__ import annotations

from histoxai.explain.bases.cam import SinglePassCAM


class HiResCAM(SinglePassCAM):
    """pytorch-grad-cam's HiResCAM of the target's logit at the last convolution."""

    name = "hirescam"
    label = "HiResCAM"
    citations = ("draelos2020",)
    library_class = "HiResCAM"
