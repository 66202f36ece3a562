"""`score --faithfulness` and `--sanity`: against the libraries and brute force, in shards, resumed, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from captum.metrics import infidelity, sensitivity_max
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

from histoxai.core.provenance import keyed_seed
from histoxai.explain.maps_store import stored_methods
from histoxai.explain.methods.base import Batch
from histoxai.explain.network import Network, reinitialised
from histoxai.networks.inference import to_tensor
from histoxai.networks.run_folder import open_run
from histoxai.networks.weights import load_model
from histoxai.score.measures.faithfulness import (
    area,
    imputed,
    infill,
    rank_plane,
    removal_order,
    removed,
    similarity,
    squares,
)
from histoxai.score.measures.faithfulness import infidelity as infidelity_of
from histoxai.settings import PROBES
from histoxai.store.patches import Patches
from histoxai.store.shards import Store
from tests.conftest import ROOT, Mini, array_files, done, run

ALL = ["--faithfulness", "--probes", ",".join(PROBES), "--steps", 4, "--perturbations", 3, "--sanity", 2]


@pytest.fixture(scope="module")
def maps(mini: Mini, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patches, five methods, one a prior and one under random weights."""
    output = tmp_path_factory.mktemp("few") / "maps"
    chosen = ["--method", "ig,lime,gradcam,saliency,center,null=ig", "--random-weights", "null", "-O", "null.steps=4"]
    fast = ["-O", "ig.steps=8", "-O", "lime.samples=40", "-O", "lime.max_dist=10"]
    done("explain", mini.balanced, "--model", mini.cls, "-o", output, *chosen, *fast, "--per-class", 1)
    return output


@pytest.fixture(scope="module")
def scored(mini: Mini, maps: Path) -> tuple[Path, dict[str, Any]]:
    output = maps.parent / "scores"
    return output, json.loads(done(*score(mini, maps, output, *ALL, "--model", mini.cls), "--json"))


def score(mini: Mini, maps: Path, output: Path, *more: object) -> list[object]:
    return ["score", maps, "--masks", mini.masks, "-o", output, "--repetitions", 100, *more]


class Given:
    """What every oracle needs: network, patches, targets, seeds and maps in the order of the stores."""

    def __init__(self, mini: Mini, maps: Path, scores: Path) -> None:
        self.maps, self.scores = Store(maps), Store(scores)
        self.net = load_model(open_run(mini.cls), torch.device("cpu")).eval()
        self.images = to_tensor(Patches(mini.balanced).read(self.maps.read("row")))
        self.targets = self.maps.read("targets").tolist()
        self.ids = self.maps.read("patch_id").tolist()
        self.seeds = [keyed_seed(0, "faithfulness", i) for i in self.ids]
        self.methods = {m.name: m for m in stored_methods(self.maps)}
        self.names = list(self.scores.header["axes"]["method"])

    def relevance(self, name: str, i: int) -> np.ndarray:
        method = self.methods[name]
        return method.relevance(method.take(self.maps, np.arange(len(self.ids))), i, (64, 64), "own")

    def signed(self, name: str, i: int) -> np.ndarray:
        method = self.methods[name]
        return method.explainer.signed({k: v[i] for k, v in method.take(self.maps, [0, 1, 2]).items()}, (64, 64))

    def value(self, probe: str) -> np.ndarray:
        return self.scores.read(f"faithfulness/{probe}")

    def curves(self) -> np.ndarray:
        return np.stack([self.scores.read(f"curves_of/{c}") for c in ("deletion", "insertion")], axis=2)


@pytest.fixture(scope="module")
def given(mini: Mini, maps: Path, scored: tuple[Path, dict[str, Any]]) -> Given:
    return Given(mini, maps, scored[0])


def assert_curves(given: Given, curves: np.ndarray, kind: str) -> None:
    """Every point of every curve from a patch put together pixel by pixel and shown to the network alone."""
    for i, image in enumerate(given.images):
        pixels = image.permute(1, 2, 0).numpy()
        blank = infill(pixels, "mean" if kind == "noisy_linear" else kind)
        for j, name in enumerate(given.names):
            order = removal_order(given.relevance(name, i), given.seeds[i])
            for curve in (0, 1):
                for step, k in enumerate(removed(64 * 64, 4)):
                    kept = np.full(64 * 64, not curve)
                    kept[order[:k]] = curve
                    kept = kept.reshape(64, 64)
                    other = blank
                    if kind == "noisy_linear" and kept.any():
                        other = imputed(pixels, kept, (given.seeds[i] + step) % 2**32)
                    made = np.where(kept[..., None], pixels, other)
                    with torch.no_grad():
                        logits = given.net(torch.from_numpy(made).permute(2, 0, 1)[None])
                    p = torch.softmax(logits, dim=1)[0, given.targets[i]].item()
                    assert curves[i, j, curve, step] == pytest.approx(p, abs=1e-5), (name, i, curve, step)


def test_deletion_and_insertion_pixel_by_pixel(given: Given) -> None:
    curves = given.curves()
    assert_curves(given, curves, "mean")
    np.testing.assert_allclose(given.value("deletion"), area(curves[:, :, 0].astype(float)), atol=1e-6)
    np.testing.assert_allclose(given.value("insertion"), area(curves[:, :, 1].astype(float)), atol=1e-6)
    assert np.array_equal(curves[:, 0, 0, 0], curves[:, 1, 0, 0])  # nothing is gone yet
    np.testing.assert_allclose(curves[:, :, 0, 0], curves[:, :, 1, -1], atol=1e-6)


def test_road_is_pytorch_grad_cams_on_ranks_without_ties(given: Given) -> None:
    metric = ROADCombined(percentiles=[20, 40, 60, 80])
    for i, image in enumerate(given.images):
        for j, name in enumerate(given.names):
            cam = rank_plane(given.relevance(name, i), given.seeds[i])
            assert len(np.unique(cam)) == cam.size  # so that every share is the one that was asked for
            torch.manual_seed(given.seeds[i])
            expected = metric(image[None], cam[None], [ClassifierOutputSoftmaxTarget(given.targets[i])], given.net)
            assert given.value("road")[i, j] == pytest.approx(float(expected[0]), abs=1e-4), name


def test_infidelity_is_captums_on_squares(given: Given) -> None:
    """captum's normalised infidelity, as a share of that of a map that tells nothing."""
    for i, image in enumerate(given.images):
        gone = torch.from_numpy(squares(given.seeds[i], 50, (64, 64)))
        blank = torch.from_numpy(infill(image.permute(1, 2, 0).numpy(), "mean")).permute(2, 0, 1)
        with torch.no_grad():
            replaced = torch.where(gone[:, None], blank, image)
            drop = (given.net(image[None]) - given.net(replaced))[:, given.targets[i]]
        for j, name in enumerate(given.names):
            signed = torch.from_numpy(given.signed(name, i).copy())
            signed = signed if len(signed) == 3 else signed.expand(3, -1, -1) / 3
            change = (image - blank) if name == "saliency" else torch.ones_like(image)

            def perturb(x: torch.Tensor, change: torch.Tensor = change) -> Any:
                return gone[:, None] * change, replaced  # noqa: B023

            told = (gone[:, None] * change * signed).sum(dim=(1, 2, 3))
            if not (told * drop).sum() > 0:
                assert given.value("infidelity")[i, j] == 1, name
                continue
            theirs = infidelity(
                given.net,
                perturb,
                image[None],
                signed[None],
                target=given.targets[i],
                n_perturb_samples=50,
                normalize=True,
            )
            expected = theirs.item() / (drop**2).mean().item()
            assert given.value("infidelity")[i, j] == pytest.approx(expected, abs=1e-3), name


def test_infidelity_of_linear_models_is_nothing_for_exact_maps() -> None:
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(2, 16, 16))
    gone = squares(3, 40, (16, 16))
    drop = np.array([(weights * x)[plane].sum() for plane in gone])
    assert infidelity_of(weights * x, gone, drop) == pytest.approx(0, abs=1e-12)
    assert infidelity_of(7 * weights * x, gone, drop) == pytest.approx(0, abs=1e-12)
    assert infidelity_of(-weights * x, gone, drop) == 1
    assert infidelity_of(weights * 0, gone, drop) == 1
    assert 0.2 < infidelity_of(rng.normal(size=(16, 16)), gone, drop) <= 1
    assert np.isnan(infidelity_of(weights, gone, drop * 0))


def test_sensitivity_is_captums(given: Given) -> None:
    untrained = reinitialised(given.net, keyed_seed(0, "random weights"))
    for name in ("ig", "lime", "gradcam", "null"):
        method, j = given.methods[name], given.names.index(name)
        net = Network(untrained if name == "null" else given.net)
        for i, image in enumerate(given.images):
            own = keyed_seed(0, name, given.ids[i])

            def maps(x: Any, method: Any = method, net: Network = net, own: int = own, i: int = i) -> Any:
                inner = x[0] if isinstance(x, tuple) else x
                made = []
                for one in inner:
                    with torch.enable_grad():
                        batch = Batch(one[None], torch.tensor([given.targets[i]]), [own])
                        found = next(method.explainer.explain(net, batch))[1]
                    made.append(torch.from_numpy(method.explainer.signed(found.raw, (64, 64)).copy()))
                stacked = torch.stack(made).contiguous()
                return (stacked,) if isinstance(x, tuple) else stacked

            if np.abs(given.signed(name, i)).sum() == 0:
                assert np.isnan(given.value("sensitivity")[i, j])
                continue
            torch.manual_seed(given.seeds[i])
            expected = sensitivity_max(maps, image[None], perturb_radius=0.02, n_perturb_samples=3)
            assert given.value("sensitivity")[i, j] == pytest.approx(expected.item(), rel=1e-3), (name, i)
    center = given.value("sensitivity")[:, given.names.index("center")]
    assert (center == 0).all()


def test_the_cascade_ends_at_a_network_drawn_anew(given: Given) -> None:
    found = given.scores.read("sanity/similarity")
    done_rows = np.isfinite(found).any(axis=(1, 2, 3))
    assert done_rows.tolist() == [True, False, True]  # two of three, spread
    np.testing.assert_allclose(found[done_rows, given.names.index("center"), :, 0], 1, atol=1e-6)  # ignores the weights
    assert np.isnan(found[:, given.names.index("null")]).all()
    fresh = Network(reinitialised(given.net, keyed_seed(0, "sanity")))
    for name in ("ig", "lime"):
        method, j = given.methods[name], given.names.index(name)

        def again(net: Network, seed: str, i: int, method: Any = method, name: str = name) -> np.ndarray:
            key = keyed_seed(0, name + seed, given.ids[i])
            batch = Batch(given.images[i : i + 1], torch.tensor([given.targets[i]]), [key])
            return method.explainer.relevance(next(method.explainer.explain(net, batch))[1].raw, (64, 64), "own")

        for i in np.flatnonzero(done_rows):
            first = again(Network(given.net), "", i)
            for k, net in ((0, Network(given.net)), (-1, fresh)):
                assert found[i, j, k].tolist() == pytest.approx(similarity(first, again(net, "again", i)), abs=1e-4)
            assert found[i, j, -1, 0] < 0.999
    assert (found[done_rows, given.names.index("ig"), 0, 0] > 0.9999).all()
    assert (found[done_rows, given.names.index("lime"), 0, 0] < 0.9999).all()  # another seed, another map


def test_what_json_and_people_see(mini: Mini, maps: Path, scored: tuple[Path, dict[str, Any]], given: Given) -> None:
    output, summary = scored
    jsonschema.validate(summary, json.loads((ROOT / "docs" / "score.schema.json").read_text()))
    rows = {(r["method"], r["class"], r["probe"]): r for r in summary["faithfulness"]["rows"]}
    assert rows["ig", "all", "deletion"]["mean"] == pytest.approx(given.value("deletion")[:, 0].mean(), abs=1e-6)
    assert rows["ig", "R1", "deletion"]["n"] == 1
    assert not rows["ig", "all", "deletion"]["higher_is_better"]
    curve = next(c for c in summary["faithfulness"]["curves"] if c["method"] == "ig" and c["probe"] == "deletion")
    assert curve["share"] == [0, 0.25, 0.5, 0.75, 1]
    text = done(*score(mini, maps, output))
    assert "deletion (lower)" in text
    lines = [line for line in text.splitlines() if "changes" in line]
    assert "hardly changes" in next(line for line in lines if "center (null)" in line)
    assert "hardly" not in next(line for line in lines if " ig " in line)
    assert json.loads(done(*score(mini, maps, maps.parent / "plain"), "--json"))["faithfulness"] is None


@pytest.mark.slow
def test_shards_workers_and_a_later_start_give_the_same_bytes(mini: Mini, maps: Path, tmp_path: Path) -> None:
    probes = ["--probes", "deletion,infidelity", "--steps", 3, "--squares", 10, "--sanity", 2, "--model", mini.cls]
    tested = ["--faithfulness", *probes]
    common = ["--shard-size", 1, "--threads", 2]  # of workers as many as of this process
    done(*score(mini, maps, tmp_path / "whole", *common, *tested))
    done(*score(mini, maps, tmp_path / "later", *common))  # scores first, probes when somebody has the time
    done("report", tmp_path / "later", "-o", tmp_path / "r")
    for shard in (2, 0, 1):
        done(*score(mini, maps, tmp_path / "later", *common, *tested, "--shard", shard))
        if shard == 2:
            outcome = run(*score(mini, maps, tmp_path / "later", *common))
            assert "'deletion' has 1 of 3 shards" in outcome.err
            assert "PARTIAL, deletion 1 of 3 shards, infidelity 1 of 3 shards" in " ".join(outcome.out.split())
            refused = run("report", tmp_path / "later", "-o", tmp_path / "r")  # which was made without the tests
            assert refused.code == 3
            assert "--force" in refused.err
            done("report", tmp_path / "later", "-o", tmp_path / "r", "--force")
            text = (tmp_path / "r/index.html").read_text()
            assert "deletion: 1 of 3 shards are done; run its command again." in text
            assert "sanity: 1 of 3 shards are done; run its command again." in text
    done(*score(mini, maps, tmp_path / "crew", *common, *tested, "--workers", 2))
    assert array_files(tmp_path / "whole") == array_files(tmp_path / "later") == array_files(tmp_path / "crew")
    record = json.loads((tmp_path / "whole/_done/deletion/0.json").read_text())
    assert record["micro_batch"] == 16


def test_probes_are_added_one_by_one_and_do_not_touch_each_other(
    mini: Mini, maps: Path, tmp_path: Path, given: Given
) -> None:
    model = ["--faithfulness", "--model", mini.cls]
    done(*score(mini, maps, tmp_path / "s", *model, "--probes", "sensitivity", "--perturbations", 3))
    done(
        *score(
            mini, maps, tmp_path / "s", *model, "--probes", "insertion,sensitivity", "--perturbations", 3, "--steps", 4
        )
    )
    done(*score(mini, maps, tmp_path / "s", *model, "--probes", "deletion", "--infill", "blur"))
    store = Store(tmp_path / "s")
    for probe in ("sensitivity", "insertion"):
        np.testing.assert_array_equal(store.read(f"faithfulness/{probe}"), given.value(probe))
    refused = run(*score(mini, maps, tmp_path / "s", *model, "--probes", "deletion"))
    assert refused.code == 3
    assert "infill = blur, asked for mean" in refused.err


@pytest.mark.parametrize("infill", ["blur", "background", "noisy_linear"])
def test_other_infills(mini: Mini, maps: Path, tmp_path: Path, infill: str) -> None:
    probes = ["--faithfulness", "--steps", 4, "--model", mini.cls, "--infill", infill]
    done(*score(mini, maps, tmp_path / "s", *probes))
    other = Given(mini, maps, tmp_path / "s")
    assert_curves(other, other.curves(), infill)


def test_what_is_refused(mini: Mini, maps: Path, tmp_path: Path) -> None:
    output = tmp_path / "s"
    other = tmp_path / "cls"
    done("train-cls", mini.balanced, "-o", other, "--epochs", 1, "--seed", 5)
    for more, code, words in (
        (["--faithfulness"], 2, "name its run folder with --model"),
        (["--sanity", 3], 2, "name its run folder with --model"),
        (["--model", mini.cls], 2, "ask for --faithfulness or --sanity"),
        (["--faithfulness", "--squares", 3, "--model", mini.cls], 2, "--squares: 3 must be at least 10"),
        (["--faithfulness", "--probes", "nonsense", "--model", mini.cls], 2, "expected some of deletion, insertion"),
        (["--faithfulness", "--model", other], 3, "is not the model that"),
        (["--faithfulness", "--model", mini.seg], 3, "expected a classifier"),
        (["--faithfulness", "--model", mini.cls, "--patches", mini.patches], 3, "is not the patches that"),
        (["--faithfulness", "--model", mini.cls, "--infill", "black"], 2, "'black' is not one of mean, blur"),
    ):
        outcome = run(*score(mini, maps, output, *more))
        assert outcome.code == code, outcome.err
        assert words in outcome.err
        assert not output.exists()
