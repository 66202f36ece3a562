"""GradCAM++.

Chattopadhay et al. 2018, arXiv 1710.11063: as GradCAM, with weights from second and third powers of positive
gradients, for several objects in one image.
"""

from __future__ import annotations

from histoxai.explain.bases.cam import SinglePassCAM


class GradCAMPlusPlus(SinglePassCAM):
    """pytorch-grad-cam's GradCAMPlusPlus of the target's logit at the last convolution."""

    name = "gradcampp"
    label = "GradCAM++"
    citations = ("chattopadhay2018",)
    library_class = "GradCAMPlusPlus"
