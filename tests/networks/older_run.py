"""Run folders of the study's CNN as another version of histoxai wrote them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import without_seal


def make_older(source: Path, target: Path, version: int | None = None) -> Path:
    """Copy a run folder with another version of its recipe; None: of before recipes had versions."""
    shutil.copytree(source, target)
    facts = without_seal(target / "run.json")
    for place, key in ((facts["recipe"], "version"), (facts["identity"], "network_version")):
        place.pop(key)
        if version is not None:
            place[key] = version
    (target / "run.json").write_text(json.dumps(facts))
    return target
