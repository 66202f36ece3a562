"""Training on a GPU: each precision, resuming, and the parts that several GPUs need, with one process."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from histoxai.core.progress import Silent
from histoxai.train.loop import TrainingInputs
from histoxai.train.state import synchronise_norms
from tests.train.test_loop import Toy, job, same, settings, trained

pytestmark = pytest.mark.gpu


class ToyOnDevice(Toy):
    """Its batches lie on the device that trains."""

    def batches(self, cut: list[np.ndarray], device: torch.device) -> Any:
        return ((x.to(device), y.to(device)) for x, y in map(self.batch, cut))


def on_device(**more: Any) -> TrainingInputs:
    """The toy network and its data."""
    inputs = job(**more)
    inputs.train, inputs.validation = ToyOnDevice(41, 1), ToyOnDevice(20, 2)  # type: ignore[assignment]
    return inputs


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_each_precision_learns_as_the_cpu_does(
    tmp_path: Path, device: torch.device, is_gpu: bool, precision: str
) -> None:
    if precision in ("tf32", "fp16") and not is_gpu:
        pytest.skip("only GPUs train in it")
    on_cpu = trained(on_device(), settings(), tmp_path / "cpu").history
    history = trained(on_device(), settings(device=device.type, precision=precision), tmp_path / "gpu").history
    tolerance = 1e-4 if precision == "fp32" else 0.05
    for key in ("train_loss", "validation_loss"):
        np.testing.assert_allclose([row[key] for row in history], [row[key] for row in on_cpu], atol=tolerance)
    assert history[-1]["validation_accuracy"] > 0.9


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_stopped_run_goes_on_to_the_same_weights(
    tmp_path: Path, device: torch.device, is_gpu: bool, precision: str
) -> None:
    if precision == "fp16" and not is_gpu:
        pytest.skip("only GPUs train in it")
    chosen = settings(device=device.type, precision=precision, deterministic=True, ema=0.9, checkpoint_minutes=0)
    whole, again = on_device(dropout=0.3), on_device(dropout=0.3)
    trained(whole, chosen, tmp_path / "whole")

    class Stops(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            if "epoch 3" in note:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(on_device(dropout=0.3), chosen, tmp_path / "parts", Stops())
    trained(again, chosen, tmp_path / "parts")
    assert same(whole, again)


def test_synchronised_norms_in_one_process_are_ordinary_ones(device: torch.device, is_gpu: bool) -> None:
    """A step through NCCL, DistributedDataParallel and SyncBatchNorm equals a step without them."""
    if not is_gpu:
        pytest.skip("SyncBatchNorm takes tensors on GPUs alone; tests/train/test_launcher.py joins processes on a CPU")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    torch.distributed.init_process_group("nccl", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 196, 2))
        plain = plain.to(device)
        joined = copy.deepcopy(plain)
        synchronise_norms(joined)
        assert any(isinstance(part, nn.SyncBatchNorm) for part in joined.modules())
        parallel = nn.parallel.DistributedDataParallel(joined, device_ids=[0])
        images, targets = torch.rand(8, 3, 16, 16, device=device), torch.arange(8, device=device) % 2
        for net in (plain, parallel):
            functional.cross_entropy(net(images), targets).backward()
        for one, two in zip(plain.parameters(), joined.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)
    finally:
        torch.distributed.destroy_process_group()
