"""Compare the training loop with a plain one that has the same batches in memory."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benches.common import inputs, row

BATCH, SIZE = 32, 256


def bench_train(work: Path) -> list[dict[str, Any]]:
    """Compare ResNet-18 at 256 px with patches kept in memory, and with patches read from the store."""
    return compare(work, *((4096, 5) if torch.cuda.is_available() else (192, 3)))


def compare(work: Path, n: int, rounds: int) -> list[dict[str, Any]]:
    """Compare over n patches; rows are medians of the rounds."""
    gpu = torch.cuda.is_available()
    precision = "bf16" if gpu else "fp32"
    store, _ = inputs(work, n, "train", SIZE, "resnet18", 5)
    found: dict[str, list[float]] = {"plain": [], "kept": [], "read": []}
    for k in range(rounds):
        found["plain"].append(_plain(store, precision))
        found["kept"].append(_ours(store, work / f"kept{k}", precision, 1 << 40))
        found["read"].append(_ours(store, work / f"read{k}", precision, 0))
    middle = {name: statistics.median(v) for name, v in found.items()}
    where = "GPU, bf16" if gpu else "CPU"
    # at most 5 % of the time a GPU waits for data
    goal = ">= 0.95" if gpu else ">= 0.9"
    return [
        row(f"training, {where}, patches {word}", middle[name], middle["plain"], middle["plain"] / middle[name], goal)
        for name, word in (("kept", "kept in memory"), ("read", "read from the store"))
    ]


def _source(store: Path) -> Any:
    from histoxai.store.patches import Patches
    from histoxai.train.dataset import PatchDataset

    patches = Patches(store)
    return PatchDataset(patches, np.arange(len(patches)), masks=False)


def _network() -> torch.nn.Module:
    from histoxai.core import registry

    torch.manual_seed(0)
    return registry.resolve("classifier", "resnet18")(5, (SIZE, SIZE))


def _settings(precision: str) -> Any:
    from histoxai.settings import TrainCls

    return TrainCls(epochs=1, batch_size=BATCH, precision=precision)


def _plain(store: Path, precision: str) -> float:
    """Measure a plain loop that has every batch on the device already: seconds of an epoch's steps."""
    from histoxai.networks.inference import pick_device
    from histoxai.train.batches import train_batches

    settings, source = _settings(precision), _source(store)
    device = pick_device("auto", 0)
    cut = train_batches(source, settings, 0)
    batches = [(x.to(device), y.to(device)) for x, y in source.batches(cut, device)]
    net = _network().to(device, memory_format=torch.channels_last).train()
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    times = []
    for warm in (True, False):
        started = time.perf_counter()
        for images, targets in batches[:2] if warm else batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs = net(images)
            loss = torch.nn.functional.cross_entropy(outputs.float(), targets)
            adam.zero_grad()
            loss.backward()
            adam.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return times[1]


def _ours(store: Path, folder: Path, precision: str, keep: int) -> float:
    """Measure the same steps by `fit`, with reading, loss checks and progress: seconds."""
    from torch.nn import functional

    from histoxai.core.progress import Silent
    from histoxai.train import dataset
    from histoxai.train.fabric import start_fabric
    from histoxai.train.loop import TrainingInputs, fit
    from histoxai.train.ranks import Ranks

    with mock.patch.object(dataset, "KEEP_BYTES", keep):
        source = _source(store)
        few = source.first(0, BATCH)
    settings = _settings(precision)
    job = TrainingInputs(_network(), functional.cross_entropy, _right, "accuracy", source, few)
    with start_fabric(settings, Ranks(), lambda: None) as fabric:
        if keep:
            next(source.batches([np.arange(2)], fabric.device))  # what is read once is no part of an epoch
        found = fit(job, settings, fabric, folder, {}, Silent())
    assert found.patches_per_second is not None
    return len(source) / found.patches_per_second


def _right(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == targets).float().mean()
