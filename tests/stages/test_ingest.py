"""`ingest` as users run it; formats are in tests/ingest/."""

from __future__ import annotations

import numpy as np

from histoxai.store.patches import Patches
from tests.conftest import Mini


def test_ingest_keeps_every_pixel_and_label(mini: Mini) -> None:
    patches = Patches(mini.patches)
    for i in (0, 17, 50, len(patches) - 1):
        scan, name, rest = patches.patch_id[i].split("/")
        stem, number = rest.split("#")
        image = np.load(mini.diagset / "blobs/S/20x" / scan / name / f"{stem}.npy")[int(number)]
        assert np.array_equal(patches.images[i], image)
        assert patches.classes[patches.label[i]] == name
        assert patches.group[i] == scan
