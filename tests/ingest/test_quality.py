"""Glass in a patch, with pixels by hand."""

from __future__ import annotations

import numpy as np

from histoxai.ingest.quality import find_glass


def test_glass_is_bright_and_colourless() -> None:
    white, grey, cream, pink, dark = [245, 245, 245], [210, 205, 208], [240, 235, 225], [225, 170, 200], [90, 90, 90]
    image = np.array([[white, grey, cream], [pink, dark, [199, 199, 199]]], np.uint8)
    assert find_glass(image).tolist() == [[True, True, True], [False, False, False]]
