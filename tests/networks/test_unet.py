"""The study's U-Nets, as coded and as drawn in its text, and its loss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, max_pool2d, pad, relu

from histoxai.core.errors import InputRefused
from histoxai.core.registry import resolve
from histoxai.networks.run_folder import open_run
from histoxai.networks.unet import UNet, bce_dice, soft_iou
from tests.conftest import Mini, done, run


@pytest.mark.parametrize("size", [(64, 64), (70, 65)])
def test_unet_keeps_the_size_and_takes_skips_after_pooling(size: tuple[int, int]) -> None:
    model = UNet(8).eval()
    assert model(torch.rand(1, 3, *size)).shape == (1, 2, *size)
    assert model.expand2[0].in_channels == 4 * 8
    assert model.expand1[0].in_channels == 2 * 8
    assert model.contract1[0].kernel_size == (7, 7)
    assert isinstance(model.contract1[-1], nn.MaxPool2d)


def textbook(x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    """The textbook U-Net, from its drawing: weights and biases in the order in which the picture uses them."""
    queue = iter(weights)

    def conv(x: torch.Tensor, padding: int = 1) -> torch.Tensor:
        return conv2d(x, next(queue), next(queue), padding=padding)

    def pair(x: torch.Tensor) -> torch.Tensor:
        return relu(conv(relu(conv(x))))

    one = pair(x)
    two = pair(max_pool2d(one, 2, 2))
    three = pair(max_pool2d(two, 2, 2))
    four = pair(max_pool2d(three, 2, 2))
    x = pair(max_pool2d(four, 2, 2))
    for skip in (four, three, two, one):
        x = conv_transpose2d(x, next(queue), next(queue), stride=2)
        x = pair(torch.cat([skip, x], dim=1))
    return conv(x, padding=0)


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (70, 65)])
def test_the_text_unet_is_the_textbooks(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = resolve("segmenter", "thesis-unet-text")(width=4).eval()
    state = {k: torch.randn_like(v) * 0.2 for k, v in model.state_dict().items()}  # biases that count, too
    model.load_state_dict(state)
    down = [state[f"contract.{i}.{j}.{k}"] for i in range(5) for j in (0, 2) for k in ("weight", "bias")]
    up = [
        state[f"{part}.{k}"]
        for i in range(4)
        for part in (f"up.{i}", f"expand.{i}.0", f"expand.{i}.2")
        for k in ("weight", "bias")
    ]
    used = [*down, *up, state["head.weight"], state["head.bias"]]
    assert len(used) == len(state)
    assert [w.shape[0] for w in down[::4]] == [4, 8, 16, 32, 64]
    assert all(w.shape[2:] == (2, 2) for w in up[::6])
    assert state["head.weight"].shape == (2, 4, 1, 1)
    x = torch.rand(2, 3, *size)
    height, width = size
    want = textbook(pad(x, (0, -width % 16, 0, -height % 16), mode="reflect"), used)[..., :height, :width]
    with torch.no_grad():
        got = model(x)
    assert got.shape == (2, 2, *size)
    assert float(want.std()) > 0.1
    np.testing.assert_allclose(got, want, atol=1e-6 * float(want.abs().max()))


def test_the_text_unet_refuses_patches_that_cannot_be_mirrored() -> None:
    with pytest.raises(InputRefused, match="takes patches of 16 px or more, not 64 x 8; --arch unet takes them"):
        resolve("segmenter", "thesis-unet-text")(width=1)(torch.rand(1, 3, 8, 64))


def test_train_seg_and_masks_take_the_text_unet(mini: Mini, tmp_path: Path) -> None:
    arch, seg = ["--arch", "thesis-unet-text", "--width", 4], tmp_path / "seg"
    done("train-seg", mini.nuclei, "-o", seg, *arch, "--epochs", 1)
    facts = open_run(seg, "segmenter").facts
    assert (facts["arch"], facts["recipe"], facts["epochs"]) == ("thesis-unet-text", {"width": 4}, 1)
    made = json.loads(done("masks", mini.balanced, "--model", seg, "-o", tmp_path / "masks", "--json"))
    assert made["done"] == {"masks": 1}
    other = run("train-seg", mini.nuclei, "-o", seg, "--width", 4, "--epochs", 1)
    assert other.code == 3
    assert "thesis-unet-text, asked for unet" in other.err


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
