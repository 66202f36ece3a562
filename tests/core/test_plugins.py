"""Installed packages that register methods, measures and source formats through entry points."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from histoxai.core.registry import ENTRIES
from histoxai.store.shards import Store
from tests.conftest import ROOT, Mini

# The method of docs/explain.md, so that the page's code runs.
METHOD = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "explain.md").read_text(), re.DOTALL)[-1]
FORMAT = '''
from pathlib import Path

import numpy as np

from histoxai.ingest.formats.base import PatchIndex


class Gradients:
    """Two grey ramps beside a file named ramps.txt."""

    def __init__(self, root, settings):
        self.index = PatchIndex(["A", "B"], 0.5, (32, 32))
        self.index.add_patches(["ramp-0"], "g0", label=0, split=1)
        self.index.add_patches(["ramp-1"], "g1", label=1, split=3)
        self.index.add_file("ramps.txt", root / "ramps.txt")

    @staticmethod
    def recognises(root: Path):
        return "it has ramps.txt" if (root / "ramps.txt").is_file() else None

    def read(self, start, stop):
        ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None, None] * 8, (32, 32, 3))
        return np.stack([ramp if i == 0 else ramp[::-1] for i in range(start, stop)]), None
'''
MEASURE = '''
from dataclasses import dataclass

from histoxai.score.measures.base import Measure


@dataclass(frozen=True, kw_only=True)
class Covered(Measure):
    """Share of the mask in the patch, whatever the map."""

    def value(self, pair):
        return float(pair.mask.binary.mean())

    def chance(self, pair):
        return float(pair.mask.binary.mean()) / 2


COVERED = Covered(
    name="covered", label="covered share", subject="the mask", description="share of the patch", source="This test.",
    needs="plane",
)
'''


def install(folder: Path, package: str, version: str, code: str, entries: dict[str, dict[str, str]]) -> None:
    """Lay out an installed package: a module, and a dist-info folder with its entry points."""
    module = package.replace("-", "_")
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {module}:{attribute}\n" for name, attribute in named.items())
        for group, named in entries.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))


def histoxai(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with the packages of `folder` installed."""
    return python(folder, "-m", "histoxai", *arguments)


def python(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_a_method_of_a_plugin_is_listed_with_its_package_and_paper(tmp_path: Path) -> None:
    install(tmp_path / "site", "hx-speckle", "1.2", METHOD, {"histoxai.methods": {"speckle": "Speckle"}})
    result = histoxai(tmp_path / "site", "explain", "--list", "--json")
    assert result.returncode == 0, result.stderr
    rows = {row["method"]: row for row in json.loads(result.stdout)["rows"]}
    assert list(rows) == [*ENTRIES["method"], "speckle"]
    assert {row["origin"] for name, row in rows.items() if name != "speckle"} == {"histoxai"}
    assert rows["speckle"] == {
        "method": "speckle",
        "what": "Mean of 200 random masks, weighted by the probability of the target class.",
        "source": "Doe 2026",
        "passes": "200 forward",
        "options": {},
        "label": "Speckle masks",
        "family": "perturbation",
        "citations": ["speckle2026"],
        "origin": "hx-speckle 1.2",
    }


def test_a_method_of_a_plugin_explains_and_is_recorded(tmp_path: Path) -> None:
    """Maps of a plugin do not depend on a patch's neighbours, find what the network sees, and name their package."""
    install(tmp_path / "site", "hx-speckle", "1.2", METHOD, {"histoxai.methods": {"speckle": "Speckle"}})
    code = """
import json, numpy as np, torch
from torch import nn
from histoxai.core.registry import origin
from histoxai.explain.arguments import make_explainers
from histoxai.explain.bases.method import Batch, explain_all
from histoxai.explain.network import Network
class Left(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))
    def forward(self, x):
        left = (x[..., :8].mean(dim=(1, 2, 3)) - 0.25) * self.scale
        return torch.stack([left, -left], dim=1)
((method, explainer),) = make_explainers(("speckle",), ()).values()
x, targets = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1])
net = Network(Left(), 16)
maps = explain_all(explainer, net, Batch(x, targets, [5, 6, 7]))[""]
alone = explain_all(explainer, net, Batch(x[1:2], targets[1:2], [6]))[""]
difference = [float(m[0, :, :8].mean() - m[0, :, 8:].mean()) for m in maps]
same = bool(np.array_equal(maps[1:2], alone))
print(json.dumps([method, origin("method", method), list(maps.shape), same, difference]))
"""
    result = python(tmp_path / "site", "-c", code)
    assert result.returncode == 0, result.stderr
    method, package, shape, same, difference = json.loads(result.stdout)
    assert (method, package, shape, same) == ("speckle", "hx-speckle 1.2", [3, 1, 16, 16], True)
    assert difference[0] > 0
    assert difference[1] > 0
    assert difference[2] < 0


def test_a_format_of_a_plugin_is_recognised_and_ingested(tmp_path: Path) -> None:
    install(tmp_path / "site", "hx-ramps", "0.3", FORMAT, {"histoxai.formats": {"ramps": "Gradients"}})
    source = tmp_path / "source"
    source.mkdir()
    (source / "ramps.txt").write_text("two")
    result = histoxai(tmp_path / "site", "ingest", source, "-o", tmp_path / "patches.zarr", "--json")
    assert result.returncode == 0, result.stderr
    info = histoxai(tmp_path / "site", "info", tmp_path / "patches.zarr", "--json")
    assert json.loads(info.stdout)["settings"]["format"] == "ramps"
    from histoxai.store.shards import Store

    images = Store(tmp_path / "patches.zarr").read("images")
    assert images.shape == (2, 32, 32, 3)
    assert images[0, :, 0, 0].tolist() == list(range(0, 256, 8))
    assert np.array_equal(images[1], images[0, ::-1])


def test_a_measure_of_a_plugin_is_scored_and_on_record(mini: Mini, tmp_path: Path) -> None:
    install(tmp_path / "site", "hx-covered", "2.0", MEASURE, {"histoxai.measures": {"covered": "COVERED"}})
    words = ["score", mini.maps, "--masks", mini.masks, "-o", tmp_path / "s", "--repetitions", "100", "--json"]
    result = histoxai(tmp_path / "site", *words)
    assert result.returncode == 0, result.stderr
    rows = [r for r in json.loads(result.stdout)["rows"] if r["metric"] == "covered"]
    masks = Store(mini.masks)
    chosen = np.isin(masks.read("patch_id"), Store(mini.maps).read("patch_id"))
    for k, mask in enumerate(("tumor", "non_tumor")):
        share = (masks.read("probability")[chosen, k] > 0.5).mean()
        found = [r for r in rows if r["mask"] == mask and r["class"] == r["case"] == "all"]
        assert len(found) == 4
        for row in found:
            assert row["mean"] == pytest.approx(share)
            assert row["chance"] == pytest.approx(share / 2)
    item = json.loads((tmp_path / "s/_done/scores/item.json").read_text())
    assert item["what"]["measures"] == {"covered": "hx-covered 2.0"}
    without = histoxai(tmp_path / "nothing", *words)
    assert without.returncode == 3
    assert "hx-covered" in without.stderr


def test_a_measure_that_is_none_is_refused_by_name(mini: Mini, tmp_path: Path) -> None:
    install(tmp_path / "site", "hx-odd", "1.0", "ODD = object()", {"histoxai.measures": {"odd": "ODD"}})
    result = histoxai(tmp_path / "site", "score", mini.maps, "--masks", mini.masks, "-o", tmp_path / "s")
    assert result.returncode == 1
    assert "the measure 'odd' of the package hx-odd 1.0 cannot be used" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_names_that_are_taken_are_refused(tmp_path: Path) -> None:
    install(tmp_path / "own", "hx-other-ig", "1.0", METHOD, {"histoxai.methods": {"ig": "Speckle"}})
    result = histoxai(tmp_path / "own", "explain", "--list")
    assert result.returncode == 1
    words = " ".join(result.stderr.split())
    assert "the package hx-other-ig 1.0 registers the method 'ig', a name that histoxai has already; uninstall" in words
    assert "Traceback" not in result.stderr
    for package in ("hx-one", "hx-two"):
        install(tmp_path / "two", package, "1.0", METHOD, {"histoxai.methods": {"speckle": "Speckle"}})
    result = histoxai(tmp_path / "two", "explain", "--list")
    assert result.returncode == 1
    words = " ".join(result.stderr.split())
    assert "the package hx-two 1.0 registers the method 'speckle', a name that hx-one 1.0 has already" in words


BROKEN = [
    ("import no_such_library", "Speckle", "ModuleNotFoundError: No module named 'no_such_library'"),
    ("x = 1", "Speckle", "AttributeError"),
    ("Speckle = 3", "Speckle", "not derived from histoxai.explain.bases.method.Method"),
    (METHOD.replace("def reduce", "def reduced"), "Speckle", "does not define reduce"),
]


@pytest.mark.parametrize(("code", "attribute", "reason"), BROKEN)
def test_a_broken_plugin_is_named(tmp_path: Path, code: str, attribute: str, reason: str) -> None:
    install(tmp_path / "site", "hx-broken", "1.0", code, {"histoxai.methods": {"speckle": attribute}})
    listed = histoxai(tmp_path / "site", "explain", "--list", "--json")
    assert listed.returncode == 0, listed.stderr
    row = json.loads(listed.stdout)["rows"][-1]
    assert (row["method"], row["origin"]) == ("speckle", "hx-broken 1.0")
    assert row["what"].startswith("the method 'speckle' of the package hx-broken 1.0 cannot be used (hx_broken:Speckle")
    assert reason in row["what"]
    assert row["what"].endswith("update or uninstall hx-broken")


def test_help_does_not_look_for_plugins(tmp_path: Path) -> None:
    install(tmp_path / "site", "hx-other-ig", "1.0", METHOD, {"histoxai.methods": {"ig": "Speckle"}})
    code = (
        "import sys, importlib.metadata\nfrom histoxai.__main__ import main\n"
        "importlib.metadata.entry_points = None  # calling it fails\n"
        "sys.argv = ['histoxai', 'explain', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
    )
    result = python(tmp_path / "site", "-c", code)
    assert result.returncode == 0, result.stderr
