"""The study's CNN."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from histoxai.core.errors import InputRefused
from histoxai.networks.thesis_cnn import ThesisCNN


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
