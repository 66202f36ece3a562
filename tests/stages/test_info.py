"""`info` of every kind of store and run folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import Mini, done


def test_info_of_everything(mini: Mini, tmp_path: Path) -> None:
    for name in ("patches", "balanced", "nuclei", "masks", "maps", "scores", "cls", "seg", "report"):
        data = json.loads(done("info", getattr(mini, name), "--json"))
        assert data["complete"] is True
        assert data["schema"] == "histoxai.info/1"
        assert name in done("info", getattr(mini, name))
    maps = json.loads(done("info", mini.maps, "--json"))
    assert set(maps["items"]) == {"index", "predictions", "ig", "nt", "lime", "gradcam"}
    assert set(maps["parents"]) == {"patches", "model"}
    assert maps["arrays"]["attributions/ig"] == {
        "shape": [maps["arrays"]["row"]["shape"][0], 3, 64, 64],
        "dtype": "float32",
    }
    broken = shutil.copytree(mini.maps, tmp_path / "maps")
    (broken / "_done" / "nt" / "1.json").unlink()
    data = json.loads(done("info", broken, "--json"))
    assert (data["complete"], data["items"]["nt"]["missing"]) == (False, "1")
