"""Names of files in locales that are not UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def test_a_name_in_utf8_is_not_called_anything_else(tmp_path: Path) -> None:
    (tmp_path / "src" / "caf\u00e9").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "src" / "caf\u00e9" / "x.png")
    words = [sys.executable, "-m", "histoxai", "ingest", "src", "-o", "o.zarr"]
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    outcome = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert outcome.returncode == 3
    assert outcome.stderr.splitlines()[-1] == (
        r"histoxai: src/caf\udcc3\udca9: the name is UTF-8, but this Python reads names as ascii; set PYTHONUTF8=1, or "
        "LC_ALL=C.UTF-8"
    )
    again = subprocess.run(words, cwd=tmp_path, env={**env, "PYTHONUTF8": "1"}, capture_output=True, check=False)
    assert again.returncode == 0
