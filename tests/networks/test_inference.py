"""Micro-batches, predictions and devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from histoxai.core.errors import InputRefused, UsageError
from histoxai.networks.inference import forward, padded, pick_device, predict_patches, to_tensor


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
