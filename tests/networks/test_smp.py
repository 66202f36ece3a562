"""Segmenters of segmentation-models-pytorch, and losses in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from histoxai.core.errors import InputRefused, UsageError
from histoxai.core.registry import resolve
from histoxai.networks.run_folder import open_run
from histoxai.networks.unet import UNet, bce_dice, dice_loss
from histoxai.settings import TrainSeg
from histoxai.store.shards import Store
from histoxai.train.losses import focal, segmentation_loss
from tests.conftest import Mini, done, run


def planes() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 7, 7, generator=generator, dtype=torch.float64)
    return logits, (torch.rand(2, 2, 7, 7, generator=generator, dtype=torch.float64) > 0.6).double()


def test_focal_is_torchvisions_and_cross_entropy_at_gamma_0() -> None:
    logits, targets = planes()
    for gamma in (0.0, 1.5, 2.0):
        wanted = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma, reduction="mean")
        torch.testing.assert_close(focal(logits, targets, gamma), wanted)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(focal(logits, targets, 0.0), bce)


@pytest.mark.parametrize("form", ["plain", "squared"])
def test_losses_by_name_are_sums_of_their_parts(form: str) -> None:
    logits, targets = planes()
    found = {n: segmentation_loss(n, form)(logits, targets) for n in ("bce-dice", "focal-dice", "dice", "focal", "bce")}
    torch.testing.assert_close(found["bce-dice"], found["bce"] + found["dice"])
    torch.testing.assert_close(found["focal-dice"], found["focal"] + found["dice"])
    torch.testing.assert_close(found["bce-dice"], bce_dice(logits, targets, form))
    torch.testing.assert_close(found["dice"], dice_loss(logits, targets, form))
    torch.testing.assert_close(segmentation_loss("focal", form, 1.0)(logits, targets), focal(logits, targets, 1.0))
    perfect = (targets * 2 - 1) * 50
    for name in found:
        assert float(segmentation_loss(name, form)(perfect, targets)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
def test_any_size_is_padded_and_cut(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = resolve("segmenter", "smp:Unet/resnet18")().eval()
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        found = model(x)
        assert found.shape == (2, 2, *size)
        if size == (64, 64):
            torch.testing.assert_close(found, model.net(x))
    assert (found < 0).any()  # logits, not probabilities


@pytest.mark.parametrize("arch", ["FPN", "UnetPlusPlus/resnet18", "DeepLabV3Plus/mobilenet_v2", "Linknet"])
def test_other_architectures_give_two_planes(arch: str) -> None:
    with torch.no_grad():
        assert resolve("segmenter", f"smp:{arch}")().eval()(torch.rand(1, 3, 64, 64)).shape == (1, 2, 64, 64)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smp:Magic/resnet18", "unknown architecture 'Magic'; known: Unet"),
        ("smp:Unet/tu-resnet18", "unknown encoder 'tu-resnet18'"),
        ("smp:Unet/../x", "unknown encoder"),
        ("smp:DPT/resnet18", "do not go together"),
        ("smp:", "unknown segmenter"),
        ("timm:resnet18", "unknown segmenter"),
    ],
)
def test_only_what_the_library_registers_is_built(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve("segmenter", name)()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="--width"):
        TrainSeg(arch="smp:Unet/resnet18", width=24)
    with pytest.raises(UsageError, match="--gamma"):
        TrainSeg(gamma=1.0)
    with pytest.raises(UsageError, match="not one of bce-dice"):
        TrainSeg(loss="magic")
    with pytest.raises(InputRefused, match="32 px or more"):
        resolve("segmenter", "smp:Unet/resnet18")().eval()(torch.rand(1, 3, 16, 64))


@pytest.mark.parametrize("width", [24, 32])
def test_the_study_has_two_widths(width: int) -> None:
    model = resolve("segmenter", "unet")(width)
    assert isinstance(model, UNet)
    assert model.contract1[0].out_channels == width


def test_train_seg_and_masks_take_one(mini: Mini, tmp_path: Path) -> None:
    seg, masks = tmp_path / "seg", tmp_path / "masks"
    arch = ["--arch", "smp:Unet/resnet18", "--loss", "focal-dice", "--gamma", 1, "--dice", "squared"]
    done("train-seg", mini.nuclei, "-o", seg, *arch, "--epochs", 1, "--batch-size", 2)
    facts = open_run(seg, "segmenter").facts
    assert (facts["arch"], facts["recipe"]) == ("smp:Unet/resnet18", {})
    assert facts["settings"]["loss"] == "focal-dice"
    done("masks", mini.balanced, "--model", seg, "-o", masks)
    found = Store(masks).read("probability")
    assert found.shape[1:] == (2, 64, 64)
    assert 0 <= found.min() < found.max() <= 1
    assert np.isfinite(found).all()
    other = run("train-seg", mini.nuclei, "-o", seg, *arch[:2], "--epochs", 1, "--batch-size", 2)
    assert other.code == 3
    refused = run("train-seg", mini.nuclei, "-o", tmp_path / "s", "--arch", "smp:DeepLabV3Plus/resnet18")
    assert refused.code == 3
    assert "--batch-size" in refused.err
