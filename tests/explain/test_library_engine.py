"""`explain --engine library`: the same stores within the contract, on record as the library's, resumable, refusals."""

from __future__ import annotations

import copy
import json
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from histoxai.core.provenance import keyed_seed
from histoxai.core.registry import names, resolve
from histoxai.explain.bases.method import Method
from histoxai.explain.library_engine import library_version, require_libraries
from histoxai.explain.maps_store import stored_methods
from histoxai.explain.methods import ig
from histoxai.networks.inference import to_tensor
from histoxai.networks.run_folder import open_run
from histoxai.networks.weights import load_model
from histoxai.store.patches import Patches
from histoxai.store.shards import Store
from tests.conftest import Mini, array_files, done, run
from tests.stages.test_explain import FEW, explain

WITHOUT = ("rise", "random", "center", "edges", "hematoxylin")
METHODS = [name for name in names("method") if name not in WITHOUT]
OPTIONS = [
    word
    for option, value in zip(FEW[::2], FEW[1::2], strict=True)
    if value.split(".")[0] in METHODS
    for word in (option, value)
]


@pytest.fixture(scope="module")
def both(mini: Mini, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """Two patches of each class, explained by histoxai's engine and by the libraries."""
    folder = tmp_path_factory.mktemp("engines")
    # a twin under random weights, and LIME with a second seed
    chosen = ["--method", ",".join([*METHODS, "twin=ig"]), "--random-weights", "twin", "--per-class", 2]
    chosen += ["-O", "twin.steps=8", "-O", "lime.stability=true", *OPTIONS]
    done(*explain(mini, folder / "ours", *chosen))
    done(*explain(mini, folder / "theirs", *chosen, "--engine", "library"))
    return Store(folder / "ours"), Store(folder / "theirs")


def test_every_method_is_declared_with_the_package_that_computes_it() -> None:
    made = {"captum": 0, "lime": 0, "grad-cam": 0, "": 0}
    for name in names("method"):
        kind = resolve("method", name)
        assert bool(kind.library_package) == (kind.library is not Method.library), name
        made[kind.library_package] += 1
    assert made == {"captum": 11, "lime": 1, "grad-cam": 6, "": len(WITHOUT)}
    assert library_version(resolve("method", "gradcam")(None)) == f"grad-cam {metadata.version('grad-cam')}"
    require_libraries({name: resolve("method", name)(resolve("method", name).Options()) for name in METHODS})


@pytest.mark.parametrize("name", [*METHODS, "twin"])
def test_both_engines_agree_within_the_contract(mini: Mini, both: tuple[Store, Store], name: str) -> None:
    """Rule 3 of docs/format.md, patch by patch, written out here."""
    ours, theirs = both
    explainer = {m.name: m.explainer for m in stored_methods(theirs)}[name]
    assert ours.arrays(f"attributions/{name}") == theirs.arrays(f"attributions/{name}")
    path = f"attributions/{name}" + ("/weights" if name == "lime" else "")
    assert (ours.array(path).shape, ours.array(path).dtype) == (theirs.array(path).shape, theirs.array(path).dtype)
    a, b = ours.read(path), theirs.read(path)
    assert np.array_equal(np.isnan(a), np.isnan(b))
    assert np.nanmax(np.abs(b)) > 0
    assert theirs.read("targets").tolist() == ours.read("targets").tolist()
    if name == "lime":
        assert np.array_equal(ours.read("attributions/lime/segments"), theirs.read("attributions/lime/segments"))
        np.testing.assert_allclose(a, b, atol=1e-6)
        return
    far = [i for i in range(len(a)) if np.abs(a[i] - b[i]).max() > 1e-5 * np.abs(b[i]).max()]
    assert not (name == "twin" and far)
    if far:  # the library's own error to float64 decides
        net = load_model(open_run(mini.cls), torch.device("cpu")).requires_grad_(False)
        double = copy.deepcopy(net).double()
        images = to_tensor(Patches(mini.balanced).read(ours.read("row")))
        for i in far:
            image, target = images[i].double(), int(ours.read("targets")[i])
            truth = explainer.library(double, image, target, seed_of(ours, name, i))
            assert truth is not None
            error, own = (np.abs(x[i] - truth[""]).max() for x in (b, a))
            floor = 4 * np.finfo(np.float32).eps * float(net(images[i : i + 1]).abs().max())
            assert own <= max(1.5 * error, floor), (name, i, own, error)


def seed_of(store: Store, name: str, i: int) -> int:
    return keyed_seed(store.header["seed"], name, store.read("patch_id")[i])


def test_checks_are_those_of_the_same_maps(both: tuple[Store, Store]) -> None:
    theirs = both[1]
    for name in (*METHODS, "twin"):
        a, b = (store.read(f"checks/{name}") for store in both)
        columns = [list(store.array(f"checks/{name}").attrs["columns"]) for store in both]  # type: ignore[arg-type, call-overload]
        assert columns[0] == columns[1]
        assert np.isfinite(a).tolist() == np.isfinite(b).tolist(), name
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=2e-3, err_msg=name)
    assert columns[0][-2:] == ["completeness_error", "steps"]
    assert theirs.read("checks/ig")[:, -1].tolist() == [8] * 6
    assert np.isfinite(theirs.read("checks/lime")).all()  # r2 and stability among them


def test_the_engine_is_on_record_and_one_engine_does_not_go_on_with_the_others_maps(
    mini: Mini, both: tuple[Store, Store], tmp_path: Path
) -> None:
    version = f"captum {metadata.version('captum')}"
    items = json.loads(done("info", both[1].path, "--json"))["items"]
    assert items["ig"]["what"]["library"] == version
    assert items["lime"]["what"]["library"] == f"lime {metadata.version('lime')}"
    assert items["scorecam"]["what"]["library"] == f"grad-cam {metadata.version('grad-cam')}"
    assert "library" not in json.loads(done("info", both[0].path, "--json"))["items"]["ig"]["what"]
    assert {m.name: m.library for m in stored_methods(both[1])}["twin"] == version
    assert version in done("info", both[1].path)
    assert "histoxai" in done("info", both[0].path)
    store = shutil.copytree(both[1].path, tmp_path / "m")
    command = explain(mini, store, "--method", "saliency", "--per-class", 2)
    refused = run(*command)
    assert refused.code == 3
    assert f"'saliency' in {store}: exists with library = {version}, asked for None" in " ".join(refused.err.split())
    assert "saliency 0" in done(*command, "--engine", "library")
    # another method by histoxai's engine, in the same store
    done(*explain(mini, store, "--method", "center,mine=saliency", "--per-class", 2))
    assert {m.name: m.library for m in stored_methods(Store(store))}["mine"] == ""
    np.testing.assert_array_equal(Store(store).read("attributions/mine"), both[0].read("attributions/saliency"))


def test_a_killed_run_goes_on_at_its_patch(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["--method", "ig,gradcam", "-O", "ig.steps=4", "--per-class", 2, "--engine", "library"]
    done(*explain(mini, tmp_path / "whole", *command))
    library, calls = ig.IntegratedGradients.library, []

    def stops(self: ig.IntegratedGradients, *given: object) -> dict[str, np.ndarray]:
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return library(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(ig.IntegratedGradients, "library", stops)
    assert run(*explain(mini, tmp_path / "m", *command)).code == 75
    assert [p.name for p in (tmp_path / "m/_part/ig/0").iterdir()] == ["0-3.part"]
    done(*explain(mini, tmp_path / "m", *command))
    assert len(calls) == 4 + 3  # the three that were missing
    assert array_files(tmp_path / "m") == array_files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "ig,random,rise"), "cannot compute random (no library has this method), rise (no library has"),
        (("--method", "ig", "-O", "ig.steps=auto"), "ig (captum has no steps=auto; give a number of steps)"),
        (("--method", "lime", "-O", "lime.segments=nuclei"), "lime (lime takes no nuclei"),
        (("--method", "ig", "--precision", "bf16"), "--precision bf16: --engine library computes in fp32"),
        (("--method", "ig", "--compile"), "--compile: applies to --engine histoxai alone"),
    ],
)
def test_what_libraries_cannot_do_is_refused_before_work_starts(
    mini: Mini, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    refused = run(*explain(mini, tmp_path / "m", *more, "--engine", "library"))
    assert refused.code == 2
    assert message in " ".join(refused.err.split())
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_the_papers_methods_name_the_library(mini: Mini, tmp_path: Path) -> None:
    chosen = ["--method", "ig,lime,gradcam", "-O", "ig.steps=8", "-O", "lime.samples=10", "--per-class", 4]
    done(*explain(mini, tmp_path / "m", *chosen, "--engine", "library"))
    done("score", tmp_path / "m", "--masks", mini.masks, "-o", tmp_path / "s", "--repetitions", 100)
    done("report", tmp_path / "s", "-o", tmp_path / "r", "--export", tmp_path / "paper")
    text = (tmp_path / "paper/methods.md").read_text()
    assert f"ig was computed by captum {metadata.version('captum')}, with steps = 8, baseline = 0.0" in text
    assert f"gradcam was computed by grad-cam {metadata.version('grad-cam')}, with no further options" in text
    page = (tmp_path / "r/index.html").read_text()
    assert f"lime by lime {metadata.version('lime')}" in page
