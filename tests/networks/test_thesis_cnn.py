"""The study's CNN."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from histoxai.core.errors import InputRefused
from histoxai.explain.bases.captum_hooks import unrolled
from histoxai.networks.run_folder import open_run
from histoxai.networks.thesis_cnn import ThesisCNN
from histoxai.networks.weights import build, load_model
from histoxai.store.patches import Patches
from histoxai.store.shards import Store
from tests.conftest import Mini, run, without_seal
from tests.networks.older_run import make_older


def test_the_studys_cnn_at_256_px() -> None:
    with torch.device("meta"):
        model = ThesisCNN(7, (256, 256))
        shapes: list[tuple[int, ...]] = []
        model.pool.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape)))
        assert model(torch.empty(2, 3, 256, 256)).shape == (2, 7)
    assert shapes[-1] == (2, 64, 27, 27)
    assert model.linear[0].in_features == 64 * 27 * 27
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(98e6, rel=0.01)
    assert [m.out_features for m in model.linear] == [2048, 1024, 512, 256, 128, 64]


def settled(size: tuple[int, int], version: int = 2) -> ThesisCNN:
    """A network whose BatchNorms have statistics and weights of their own."""
    torch.manual_seed(0)
    model = ThesisCNN(7, size, version)
    for norm in (model.norm1, model.norm_linear):
        for values, low, high in (
            (norm.running_mean, -0.05, 0.05),
            (norm.running_var, 0.01, 0.05),
            (norm.weight.data, 0.5, 1.5),
            (norm.bias.data, -0.5, 0.5),
        ):
            assert values is not None
            values.uniform_(low, high)
    return model.eval()


def as_printed(w: dict[str, torch.Tensor], x: torch.Tensor, again: bool = True) -> torch.Tensor:
    """The layers of PROTOCOL.md, Models, written out; again: whether the ReLU stands behind the BatchNorm too."""
    f = functional

    def norm(h: torch.Tensor, name: str) -> torch.Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        return f.batch_norm(h, *(w[f"{name}.{p}"] for p in parts))

    h = f.conv2d(x, w["conv1.weight"], w["conv1.bias"])  # conv 3->16 3x3
    h = f.max_pool2d(f.relu(norm(h, "norm1")), 3, 2)  # BatchNorm, ReLU, max-pool 3x3 stride 2
    h = f.conv2d(h, w["conv2.weight"], w["conv2.bias"])  # conv 16->32 5x5
    h = f.max_pool2d(f.relu(h), 3, 2)
    h = f.conv2d(h, w["conv3.weight"], w["conv3.bias"])  # conv 32->64 5x5
    h = torch.flatten(f.max_pool2d(f.relu(h), 3, 2), 1)
    h = f.relu(f.linear(h, w["linear.0.weight"], w["linear.0.bias"]))  # linear 1, ReLU
    h = norm(h, "norm_linear")  # BatchNorm1d(2048)
    h = f.relu(h) if again else h  # ReLU again
    h = f.relu(f.linear(h, w["linear.1.weight"], w["linear.1.bias"]))  # linear 2, ReLU
    h = f.relu(f.linear(h, w["linear.2.weight"], w["linear.2.bias"]))  # linear 3, ReLU
    h = f.relu(f.linear(h, w["linear.3.weight"], w["linear.3.bias"]))  # linear 4, ReLU
    h = f.relu(f.linear(h, w["linear.4.weight"], w["linear.4.bias"]))  # linear 5, ReLU
    h = f.relu(f.linear(h, w["linear.5.weight"], w["linear.5.bias"]))  # linear 6, ReLU
    return f.linear(h, w["head.weight"], w["head.bias"])  # last linear; no activation


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (256, 256), (70, 64)], ids=lambda size: "x".join(map(str, size)))
@torch.no_grad()
def test_logits_are_those_of_the_studys_layers(size: tuple[int, int]) -> None:
    model = settled(size)
    assert [model.conv1.kernel_size, model.conv2.kernel_size, model.conv3.kernel_size] == [(3, 3), (5, 5), (5, 5)]
    x = torch.rand(2, 3, *size)
    logits, weights = model(x), dict(model.state_dict())
    torch.testing.assert_close(logits, as_printed(weights, x), rtol=0, atol=1e-6)
    # the ReLU behind the BatchNorm matters: without it the logits are others, those of version 1
    older = as_printed(weights, x, again=False)
    assert (logits - older).abs().max() > 1e-3
    model.version = 1
    torch.testing.assert_close(model(x), older, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("version", "uses"), [(1, 9), (2, 10)])
@torch.no_grad()
def test_unrolled_every_use_of_the_relu_is_a_layer(version: int, uses: int) -> None:
    model = settled((64, 64), version)
    single = unrolled(model, "deeplift")
    relus = [m for m in single.modules() if isinstance(m, nn.ReLU)]
    assert len({id(m) for m in relus}) == uses
    called = [n.target for n in single.graph.nodes if n.op == "call_module"]  # type: ignore[union-attr]
    assert len(set(called)) == len(called)
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(single(x), model(x))


def test_a_recipe_without_a_version_is_of_the_first() -> None:
    facts = {"kind": "classifier", "arch": "thesis-cnn", "recipe": {"classes": 3, "size": [64, 64]}}
    assert build(facts).version == 1
    facts["recipe"]["version"] = 2  # type: ignore[index]
    assert build(facts).version == 2
    assert ThesisCNN(3, (64, 64)).version == 2


def test_an_older_run_folder_is_used_as_it_was_trained_and_says_so(mini: Mini, tmp_path: Path) -> None:
    assert open_run(mini.cls).facts["recipe"]["version"] == 2
    assert open_run(mini.cls).notice is None
    older = make_older(mini.cls, tmp_path / "cls")
    weights = dict(load_model(open_run(mini.cls), torch.device("cpu")).state_dict())
    patches = Patches(mini.balanced)
    x = torch.from_numpy(patches.read(patches.rows("test")).astype(np.float32) / 255).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted, now = as_printed(weights, x, again=False), as_printed(weights, x)
        got = load_model(open_run(older), torch.device("cpu"))(x)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    assert (wanted - now).abs().max() > 1e-3
    words = "holds the thesis-cnn of an earlier histoxai, without the study's ReLU between BatchNorm and the second"
    for verb, more, path in (
        ("predict", ["--split", "test"], "logits"),
        ("explain", ["--method", "saliency"], "predictions/logits"),
    ):
        outcome = run(verb, mini.balanced, "--model", older, "-o", tmp_path / verb, *more)
        assert outcome.code == 0, outcome.err
        told = " ".join(outcome.err.split())
        assert told.count(words) == 1
        assert "train again: `histoxai train-cls" in told
        np.testing.assert_allclose(Store(tmp_path / verb).read(path), wanted, rtol=1e-5, atol=1e-5)
    assert "earlier histoxai" not in run("predict", mini.balanced, "--model", mini.cls, "-o", tmp_path / "now").err


def test_an_older_run_is_neither_finished_nor_gone_on_with_by_todays_network(mini: Mini, tmp_path: Path) -> None:
    make_older(mini.cls, tmp_path / "finished")
    identity = make_older(mini.cls, tmp_path / "cls") / "last" / "identity.json"
    identity.parent.mkdir()
    facts = without_seal(tmp_path / "cls" / "run.json")
    identity.write_text(json.dumps(facts["identity"]))
    (tmp_path / "cls" / "run.json").rename(tmp_path / "unfinished.json")
    for name in ("finished", "cls"):
        refused = run("train-cls", mini.balanced, "-o", tmp_path / name, "--epochs", 3, "--batch-size", 8)
        assert refused.code == 3
        assert "exists with network_version = 1, asked for 2" in " ".join(refused.err.split())
    now = run("train-cls", mini.balanced, "-o", mini.cls, "--epochs", 3, "--batch-size", 8, "--dry-run", "--json")
    assert json.loads(now.out)["state"] == "finished"


def test_patches_under_64_px_and_unknown_versions_are_refused() -> None:
    assert ThesisCNN(3, (64, 64))(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    with pytest.raises(InputRefused, match="64 px or more"):
        ThesisCNN(3, (63, 64))
    with pytest.raises(ValueError, match="version 3 is not known here"):
        ThesisCNN(3, (64, 64), 3)


def test_a_run_folder_of_a_later_version_is_refused(mini: Mini, tmp_path: Path) -> None:
    later = make_older(mini.cls, tmp_path / "cls", version=3)
    refused = run("predict", mini.balanced, "--model", later, "-o", tmp_path / "p")
    assert refused.code == 3
    assert "thesis-cnn of version 3 is not known here; upgrade histoxai" in " ".join(refused.err.split())
