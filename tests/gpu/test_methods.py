"""Attribution methods on a GPU: equal to their libraries and to the CPU by the contract, and repeatable to the byte."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from histoxai.core.errors import InputRefused
from histoxai.core.registry import names
from histoxai.explain.bases.method import Batch, Method, explain_all
from histoxai.explain.network import Network
from histoxai.explain.parity import OF_WEIGHTS, SHARE_OF_MAX, TIMES_LIBRARY_ERROR, compare
from histoxai.networks.backbones import resnet18, timm_model
from histoxai.networks.thesis_cnn import ThesisCNN
from tests.explain.test_methods import MICRO, batch, build, network

pytestmark = pytest.mark.gpu

STUDY = ("ig", "nt", "lime", "gradcam")
OTHERS = tuple(name for name in names("method") if name not in STUDY)


def small_vit(classes: int, size: tuple[int, int]) -> nn.Module:
    """timm's smallest vision transformer."""
    return timm_model("vit_tiny_patch16_224", classes, size)


NETWORKS = {"thesis-cnn": ThesisCNN, "resnet18": resnet18, "vit": small_vit}


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request: pytest.FixtureRequest, device: torch.device) -> tuple[Network, Network]:
    """The same network on the CPU and on the device."""
    module = network(NETWORKS[request.param])
    return Network(module, MICRO), Network(copy.deepcopy(module).to(device), MICRO)


@pytest.mark.parametrize("name", STUDY)
def test_study_methods(pair: tuple[Network, Network], name: str) -> None:
    _equal_by_the_contract(pair, build(name))


@pytest.mark.parametrize("name", OTHERS)
def test_other_methods(pair: tuple[Network, Network], name: str) -> None:
    _equal_by_the_contract(pair, build(name))


@pytest.mark.parametrize("name", STUDY)
def test_study_methods_repeat_to_the_byte(pair: tuple[Network, Network], name: str) -> None:
    _same_bytes_alone_and_in_any_order(pair[1], build(name))


@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_repeat_to_the_byte(pair: tuple[Network, Network], name: str) -> None:
    _same_bytes_alone_and_in_any_order(pair[1], build(name))


def _patches(net: Network) -> Batch:
    return batch(3 if net.device.type == "cuda" else 2)


def _equal_by_the_contract(pair: tuple[Network, Network], method: Method) -> None:
    cpu, gpu = pair
    b = _patches(gpu)
    _refused_on_both(pair, method)
    on_cpu, on_gpu = (explain_all(method, net, b) for net in (cpu, gpu))
    if "segments" in on_cpu:
        assert np.array_equal(on_cpu["segments"], on_gpu["segments"])
    parity = compare(method, gpu, b)
    assert parity is None or parity.holds, parity
    for i in range(len(b)):
        _equal_on_both(method, pair, b, i, {k: v[i] for k, v in on_cpu.items()}, {k: v[i] for k, v in on_gpu.items()})


def _refused_on_both(pair: tuple[Network, Network], method: Method) -> None:
    refusals = []
    for net in pair:
        try:
            method.raw_specs(net, (64, 64))
        except InputRefused as refusal:
            refusals.append(str(refusal))
    assert len(refusals) in (0, 2), refusals
    if refusals:
        pytest.skip(f"the method refuses the network on both devices: {refusals[0]}")


def _equal_on_both(
    method: Method,
    pair: tuple[Network, Network],
    b: Batch,
    i: int,
    on_cpu: dict[str, np.ndarray],
    on_gpu: dict[str, np.ndarray],
) -> None:
    """The GPU's map differs from the CPU's by 1e-5 of its maximum, or from float64 by 1.5 times the CPU's error."""
    one, two = (method.evidence(raw).astype(np.float64) for raw in (on_cpu, on_gpu))
    scale = 1.0 if "weights" in on_cpu else float(np.abs(one).max(initial=0.0)) or 1.0
    difference = float(np.abs(one - two).max(initial=0.0)) / scale
    if difference <= (OF_WEIGHTS if "weights" in on_cpu else SHARE_OF_MAX):
        return
    image, target, seed = b.patch(i)
    truth = method.library(copy.deepcopy(pair[0].exact).double(), image.double(), target, seed)
    assert truth is not None, f"{difference:.1e} of the maximum, and no library for float64"
    exact = method.evidence(truth).astype(np.float64)
    errors = [float(np.abs(values - exact).max()) / scale for values in (one, two)]
    assert errors[1] <= TIMES_LIBRARY_ERROR * errors[0], f"{difference:.1e} of the maximum; to float64 {errors}"


def _same_bytes_alone_and_in_any_order(net: Network, method: Method) -> None:
    b = _patches(net)
    try:
        method.raw_specs(net, (64, 64))
    except InputRefused as refusal:
        pytest.skip(f"the method refuses the network: {refusal}")
    whole = explain_all(method, net, b)
    back = explain_all(method, net, Batch(b.images.flip(0), b.targets.flip(0), b.seeds[::-1]))
    alone = explain_all(method, net, Batch(b.images[1:2], b.targets[1:2], b.seeds[1:2]))
    for part, values in whole.items():
        assert values.tobytes() == back[part][::-1].tobytes(), f"{part or 'map'}: another order gives other bytes"
        assert values[1].tobytes() == alone[part][0].tobytes(), f"{part or 'map'}: alone gives other bytes"
