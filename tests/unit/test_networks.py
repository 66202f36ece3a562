"""Networks as the study describes them, the training loop, and run folders that are refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from histoxai.core.errors import InputRefused, UsageError
from histoxai.networks.inference import forward, padded, pick_device, predict_patches, to_tensor
from histoxai.networks.run_folder import open_run
from histoxai.networks.thesis_cnn import ThesisCNN
from histoxai.networks.unet import UNet, bce_dice, soft_iou
from histoxai.networks.weights import load_model
from tests.conftest import Mini, run, without_seal


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


def test_the_cnn_computes_what_the_study_describes() -> None:
    torch.manual_seed(0)
    model = ThesisCNN(4, (70, 64)).eval()
    x = torch.rand(2, 3, 70, 64)
    f = functional
    h = f.max_pool2d(f.relu(model.norm1(model.conv1(x))), 3, 2)
    h = f.max_pool2d(f.relu(f.conv2d(h, model.conv2.weight, model.conv2.bias)), 3, 2)
    h = f.max_pool2d(f.relu(f.conv2d(h, model.conv3.weight, model.conv3.bias)), 3, 2).flatten(1)
    h = model.norm_linear(f.relu(model.linear[0](h)))  # linear, ReLU, BatchNorm: in this order
    for layer in model.linear[1:]:
        h = f.relu(layer(h))
    torch.testing.assert_close(model(x), model.head(h))
    assert [model.conv1.kernel_size, model.conv2.kernel_size, model.conv3.kernel_size] == [(3, 3), (5, 5), (5, 5)]


def test_patches_under_64_px_are_refused() -> None:
    assert ThesisCNN(3, (64, 64))(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    with pytest.raises(InputRefused, match="64 px or more"):
        ThesisCNN(3, (63, 64))


@pytest.mark.parametrize("size", [(64, 64), (70, 65)])
def test_unet_keeps_the_size_and_takes_skips_after_pooling(size: tuple[int, int]) -> None:
    model = UNet(8).eval()
    assert model(torch.rand(1, 3, *size)).shape == (1, 2, *size)
    assert model.expand2[0].in_channels == 4 * 8
    assert model.expand1[0].in_channels == 2 * 8
    assert model.contract1[0].kernel_size == (7, 7)
    assert isinstance(model.contract1[-1], nn.MaxPool2d)


@pytest.mark.parametrize("form", ["plain", "squared"])
def test_bce_dice_and_soft_iou_in_closed_form(form: str) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 2, 5, 5)), (rng.random((2, 2, 5, 5)) > 0.6) * 1.0
    p = 1 / (1 + np.exp(-logits))
    bce = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    below = (p**2).sum() + (targets**2).sum() if form == "squared" else p.sum() + targets.sum()
    dice = 1 - (2 * (p * targets).sum() + 1) / (below + 1)
    got = bce_dice(torch.tensor(logits), torch.tensor(targets), form)
    assert float(got) == pytest.approx(bce + dice, abs=1e-9)
    both = (p * targets).sum()
    iou = (both + 1) / (p.sum() + targets.sum() - both + 1)
    assert float(soft_iou(torch.tensor(logits), torch.tensor(targets))) == pytest.approx(iou, abs=1e-9)


def test_micro_batches_are_padded_and_cut() -> None:
    images = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)
    parts = list(padded(images, 4))
    assert [(tuple(x.shape), real) for x, real in parts] == [((4, 3, 4, 4), 4), ((4, 3, 4, 4), 1)]
    torch.testing.assert_close(parts[1][0], to_tensor(images[[4, 4, 4, 4]]))
    flat = nn.Flatten()
    assert np.array_equal(forward(flat, images, 4, torch.device("cpu")), to_tensor(images).flatten(1).numpy())


def test_predictions_are_softmax_and_argmax() -> None:
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 255, (6, 4, 4, 3), np.uint8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    got = predict_patches(model, images, 4, torch.device("cpu"))
    logits = model(to_tensor(images)).detach()
    np.testing.assert_allclose(got["logits"], logits.numpy(), atol=1e-6)
    np.testing.assert_allclose(got["probability"], torch.softmax(logits, 1).max(1).values.numpy(), atol=1e-6)
    assert np.array_equal(got["prediction"], logits.argmax(1).numpy())


def test_devices() -> None:
    assert pick_device("cpu", 0).type == "cpu"
    with pytest.raises(UsageError):
        pick_device("abacus", 0)
    if not torch.cuda.is_available():
        with pytest.raises(InputRefused, match="0 CUDA devices"):
            pick_device("cuda", 0)


@pytest.fixture
def cls(mini: Mini, tmp_path: Path) -> Path:
    """A copy of the tiny classifier's run folder, to be spoiled."""
    return Path(shutil.copytree(mini.cls, tmp_path / "cls"))


def test_a_run_folder_loads_as_it_was_saved(mini: Mini) -> None:
    run_folder = open_run(mini.cls, "classifier")
    model = load_model(run_folder, torch.device("cpu"))
    assert not model.training
    saved = safetensors.torch.load_file(mini.cls / "weights.safetensors")
    assert all(torch.equal(v, saved[k]) for k, v in model.state_dict().items())


def refused(path: Path) -> str:
    with pytest.raises(InputRefused) as error:
        load_model(open_run(path, "classifier"), torch.device("cpu"))
    assert str(path) in str(error.value)
    return str(error.value)


def test_spoiled_run_folders_are_refused(cls: Path, mini: Mini) -> None:
    assert "expected a classifier" in refused(mini.seg)
    weights = cls / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    assert "checksum differs" in refused(cls)
    weights.unlink()
    assert "missing; train again" in refused(cls)
    (cls / "run.json").write_text("{")
    assert "not a run folder" in refused(cls)
    (cls / "last").mkdir()
    assert "has not finished" in refused(cls)


def test_weights_that_do_not_fit_or_would_run_code_are_refused(cls: Path) -> None:
    from histoxai.core import provenance

    facts = without_seal(cls / "run.json")
    weights = cls / "weights.safetensors"

    def put(data: bytes) -> None:
        weights.write_bytes(data)
        facts["weights"]["checksum"] = provenance.checksum(data)
        (cls / "run.json").write_text(json.dumps(facts))

    tensors = safetensors.torch.load_file(weights)
    tensors.pop("head.bias")
    put(safetensors.torch.save(tensors))
    assert "does not fit" in refused(cls)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (cls / "ran",))  # type: ignore[return-value]

    put(pickle.dumps(Evil()))
    assert "does not fit" in refused(cls)
    assert not (cls / "ran").exists()
    facts["arch"] = "os:system"
    (cls / "run.json").write_text(json.dumps(facts))
    assert "unknown classifier" in refused(cls)


def test_settings_that_cannot_be_trained(mini: Mini, tmp_path: Path) -> None:
    assert (
        "with 1 in a pass of each process"
        in run("train-cls", mini.balanced, "-o", tmp_path / "x", "--batch-size", 1).err
    )
    assert run("train-cls", mini.balanced, "-o", tmp_path / "x", "--arch", "vgg").code == 2
    assert run("train-cls", mini.patches, "-o", tmp_path / "x").code == 3
    assert run("train-cls", mini.nuclei, "-o", tmp_path / "x").code == 3
    assert run("train-seg", mini.balanced, "-o", tmp_path / "x").code == 3
    assert not (tmp_path / "x").exists()
