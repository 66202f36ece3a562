"""Averaged weights and normalisation statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from histoxai.core.progress import Silent
from histoxai.train.state import averaging, synchronise_norms
from tests.train.test_loop import job, settings, trained


def test_averaged_weights_are_those_of_the_formula(tmp_path: Path) -> None:
    work, seen = job(norm=False), []

    class Watches(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            if note:
                seen.append(work.model[0].weight.detach().clone())  # type: ignore[union-attr,index]

    found = trained(work, settings(epochs=1, ema=0.8), tmp_path, Watches())
    average = seen[0]
    for value in seen[1:]:
        average = 0.8 * average + 0.2 * value
    assert len(seen) == 5
    torch.testing.assert_close(work.model[0].weight, average)  # type: ignore[union-attr,index]
    images, targets = work.validation.batch(np.arange(20))  # type: ignore[attr-defined]
    loss = functional.cross_entropy(work.model(images), targets)
    assert float(loss.detach()) == pytest.approx(found.history[0]["validation_loss"], rel=1e-5)


def test_averages_copy_what_is_no_measure() -> None:
    kept, new = [torch.arange(169), torch.tensor(3)], [torch.arange(169), torch.tensor(4)]
    averaging(0.9999)(kept, new, 5)
    assert torch.equal(kept[0], torch.arange(169))  # as swin's places: 29 would be off by one
    assert kept[1] == 4
    floats = [torch.ones(2)]
    averaging(0.75)(floats, [torch.zeros(2)], 5)
    assert floats[0].tolist() == [0.75, 0.75]


def test_frozen_norms_keep_their_statistics_among_processes() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    net[1].requires_grad_(False)
    synchronise_norms(net)
    assert type(net[1]) is nn.BatchNorm2d
    assert type(net[2][0]) is nn.SyncBatchNorm  # type: ignore[index]
