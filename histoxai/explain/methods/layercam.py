"""LayerCAM.

Jiang et al. 2021, doi 10.1109/TIP.2021.3089943: activations weighted by the positive gradient at each place, so that
earlier layers serve too.
"""

from __future__ import annotations

from histoxai.explain.bases.cam import SinglePassCAM


class LayerCAM(SinglePassCAM):
    """pytorch-grad-cam's LayerCAM of the target's logit at the last convolution."""

    name = "layercam"
    label = "LayerCAM"
    citations = ("jiang2021",)
    library_class = "LayerCAM"
