"""Backbones: what they are, what they say of themselves, and every method of `explain` on each of them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from captum.attr import IntegratedGradients
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from histoxai.core.errors import InputRefused, UsageError
from histoxai.core.registry import ENTRIES, names, resolve
from histoxai.explain.bases.method import Batch, explain_all
from histoxai.explain.network import Network, in_bfloat16, reinitialised
from histoxai.networks.normalisation import STATISTICS, Normalised
from histoxai.networks.weights import build as rebuild
from histoxai.score.faithfulness_runs import _layers
from tests.explain.test_methods import batch, build

BACKBONES = [name for name in ENTRIES["classifier"] if name != "thesis-cnn"]
TIMM = ("timm:test_resnet", "timm:test_vit", "timm:convnext_atto", "timm:swin_tiny_patch4_window7_224")
TOKENS, CHANNELS_LAST = ("vit-s-16", "vit-b-16"), ("swin-t",)
# Parameters with 1,000 classes as their papers and torchvision's pages give them, in millions.
MILLIONS = {
    "resnet18": 11.69,
    "resnet34": 21.80,
    "resnet50": 25.56,
    "densenet121": 7.98,
    "efficientnet-b0": 5.29,
    "efficientnet-v2-s": 21.46,
    "convnext-tiny": 28.59,
    "vit-s-16": 22.05,
    "vit-b-16": 86.57,
    "swin-t": 28.29,
}
REFUSED = {  # methods with a rule for each layer, where there is a layer without one
    name: {"guided"} if name[:3] == "eff" else {"guided", "deeplift", "lrp"}
    for name in BACKBONES
    if name[:3] in ("eff", "con", "vit", "swi")
}


def network(name: str, normalise: str | None = None) -> nn.Module:
    """A network with statistics of real inputs and logits of ordinary size, in evaluation mode."""
    torch.manual_seed(0)
    model = resolve("classifier", name)(3, (64, 64))
    model = Normalised(model, normalise) if normalise else model
    head = model.get_submodule(model.head_layer)
    nn.init.normal_(head.weight, std=0.1)
    for module in model.modules():  # statistics of the last pass: what torch begins with mutes a deep network
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    images = batch(12).images
    hidden = torch.rand(12, 1, 8, 8).round().repeat_interleave(8, -2).repeat_interleave(8, -1)
    model.train()
    with torch.no_grad():
        model(torch.cat([images, images * hidden, images * (1 - hidden)]))
        head.weight /= model.eval()(batch(6).images).std()  # or probabilities are 0 and 1, and LIME sees nothing
    return model


@pytest.mark.parametrize("name", BACKBONES)
def test_networks_are_those_of_their_papers_and_know_their_parts(name: str) -> None:
    assert set(MILLIONS) == set(BACKBONES)
    with torch.device("meta"):
        model = resolve("classifier", name)(1000, (224, 224)).eval()
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(MILLIONS[name] * 1e6, abs=6e3)
        head = model.get_submodule(model.head_layer)
        assert isinstance(head, nn.Linear)
        seen: list[tuple[int, ...]] = []
        model.get_submodule(model.gradcam_layer).register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape)))
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    grid = {"vit": (2, 197, head.in_features), "swi": (2, 7, 7, 768)}
    assert seen == [grid.get(name[:3], (2, seen[0][1], 7, 7))]
    assert resolve("classifier", name).source


@pytest.mark.parametrize("name", ["densenet121", "vit-b-16"])
def test_networks_compute_what_torchvision_does(name: str) -> None:
    ours = network(name)
    theirs = {
        "densenet121": lambda: torchvision.models.densenet121(weights=None, num_classes=3),
        "vit-b-16": lambda: torchvision.models.VisionTransformer(64, 16, 12, 12, 768, 3072, num_classes=3),
    }[name]().eval()
    theirs.load_state_dict(ours.state_dict())
    x = batch(2).images
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_sizes_that_a_backbone_cannot_take_are_refused() -> None:
    for name, size in (("resnet50", (16, 64)), ("vit-s-16", (72, 72)), ("vit-b-16", (64, 96))):
        with pytest.raises(InputRefused, match=f"{name} takes"):
            resolve("classifier", name)(3, size)


@pytest.mark.parametrize("name", ["timm:hf-hub:x/y", "timm:local-dir:/tmp/x", "timm:resnet26.bt_in1k", "timm:nope"])
def test_timm_builds_its_own_bare_names_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    monkeypatch.setattr(timm, "create_model", lambda *a, **k: pytest.fail("something was built"))
    with pytest.raises(UsageError, match="not in timm's registry"):
        resolve("classifier", name)(3, (64, 64))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coat_tiny", "its last stage, parallel_blocks, gives no activation that maps can weigh"),
        ("pit_ti_224", "its last stage, .*, gives no activation that maps can weigh"),
        ("levit_128s", "its head is no linear layer"),
    ],
)
def test_timm_networks_that_do_not_describe_themselves_are_refused(name: str, words: str) -> None:
    with torch.device("meta"), pytest.raises(InputRefused, match=rf"timm:{name}: {words}.*; choose another --arch$"):
        resolve("classifier", f"timm:{name}")(3, (224, 224))


def test_a_timm_network_without_a_list_of_stages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    listed = timm.create_model("test_resnet", num_classes=3)
    listed.feature_info = []
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: listed)
    with pytest.raises(InputRefused, match=r"timm does not say which layers are its stages.*; choose another --arch"):
        resolve("classifier", "timm:test_resnet")(3, (64, 64))


def test_unknown_names_and_empty_ones_list_the_known() -> None:
    for name in ("resnet99", "timm:", "smp:Unet/resnet18", "other:resnet18"):
        with pytest.raises(UsageError, match=r"unknown classifier .* vit-s-16.*timm:NAME"):
            resolve("classifier", name)


@pytest.mark.parametrize("name", TIMM)
def test_timm_networks_know_their_parts(name: str) -> None:
    model = network(name)
    shape = Network(model, 2)
    assert build("gradcam").raw_specs(shape, (64, 64))[""].shape == ((1, 4, 4) if "vit" in name else (1, 2, 2))
    assert model.get_submodule(model.head_layer).out_features == 3


# ---- normalisation


def test_normalisation_is_the_first_layer_and_no_weight() -> None:
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in STATISTICS["imagenet"])
    model = network("resnet18", "imagenet")
    x = batch(2).images
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.net((x - mean) / deviation))
    assert all(name.startswith("net.") for name in model.state_dict())
    assert (model.gradcam_layer, model.head_layer) == ("net.layer4", "net.fc")
    facts = {"kind": "classifier", "arch": "resnet18", "recipe": {"classes": 3, "size": [64, 64]}}
    plain = rebuild(facts)
    facts["recipe"]["normalise"] = "imagenet"  # type: ignore[index]
    assert isinstance(rebuild(facts), Normalised)
    assert not isinstance(plain, Normalised)
    assert _layers(model) == [f"net.{n}" for n in ("fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1")]


def test_attributions_stay_in_the_space_of_the_input() -> None:
    """IG starts from a black patch, whatever that is to the inner network, and gradients have the chain's factor."""
    model, b = network("timm:test_resnet", "imagenet"), batch(2)
    ours = explain_all(build("ig"), Network(model, 2), b)[""]
    theirs = IntegratedGradients(model).attribute(b.images, target=b.targets, n_steps=20).detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    exact, x = copy.deepcopy(model).double(), b.images.double()
    black, normed = exact.normalise(torch.zeros_like(x)), exact.normalise(x)
    inside = IntegratedGradients(exact.net).attribute(normed, baselines=black, target=b.targets, n_steps=20)
    whole = IntegratedGradients(exact).attribute(x, target=b.targets, n_steps=20)
    np.testing.assert_allclose(whole.detach().numpy(), inside.detach().numpy(), atol=1e-9 * float(inside.abs().max()))
    deviation = np.array(STATISTICS["imagenet"][1], np.float32)[:, None, None]
    slope = explain_all(build("saliency"), Network(model, 2), b)[""]
    inner = Batch(model.normalise(b.images), b.targets, b.seeds)
    np.testing.assert_allclose(
        slope, explain_all(build("saliency"), Network(model.net, 2), inner)[""] / deviation, rtol=1e-3, atol=1e-6
    )


def test_lrp_takes_normalisation_as_a_layer() -> None:
    model, b = network("timm:test_resnet", "imagenet"), batch(1)
    outer = explain_all(build("lrp"), Network(model, 1), b)[""][0]
    normed = model.normalise(b.images)
    inner = explain_all(build("lrp"), Network(model.net, 1), Batch(normed, b.targets, b.seeds))[""][0]
    # epsilon rule of z = x / s - m / s: the input's share of the relevance of z is (x / s) / z
    deviation = np.array(STATISTICS["imagenet"][1], np.float32)[:, None, None]
    share = (b.images[0].numpy() / deviation) / normed[0].numpy()
    np.testing.assert_allclose(outer, inner * share, rtol=1e-3, atol=1e-5 * np.abs(outer).max())


# ---- every method


def each_method(name: str, normalise: str | None = None) -> None:
    model, b = network(name, normalise), batch(1)
    net = Network(model, 8)
    for method in names("method"):
        explainer = build(method)
        if method in REFUSED.get(name, set()):
            with pytest.raises(InputRefused, match=rf"{method}: this network has .*--method"):
                explainer.raw_specs(net, (64, 64))
            continue
        specs = explainer.raw_specs(net, (64, 64))
        found = explain_all(explainer, net, b)
        assert {k: v.shape[1:] for k, v in found.items()} == {k: s.shape for k, s in specs.items()}, method
        raw = {k: v[0] for k, v in found.items()}
        evidence = explainer.evidence(raw)
        assert np.isfinite(evidence).all(), method
        assert np.ptp(evidence) > 0, method
        plane = explainer.render(raw, (64, 64), 0.0)
        assert plane.shape == (64, 64)
        assert plane.min() >= 0
        assert plane.max() <= 1
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["timm:test_resnet"])
def test_every_method_explains_a_small_backbone(name: str) -> None:
    each_method(name, "imagenet")


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_method_explains_every_backbone(name: str) -> None:
    each_method(name, "imagenet" if name in ("resnet34", "vit-s-16") else None)


def _reshape_vit(tensor: torch.Tensor, height: int = 4, width: int = 4) -> torch.Tensor:
    # pytorch-grad-cam's tutorial for vision transformers, word for word
    result = tensor[:, 1:, :].reshape(tensor.size(0), height, width, tensor.size(2))
    return result.transpose(2, 3).transpose(1, 2)


def _reshape_swin(tensor: torch.Tensor) -> torch.Tensor:
    # the same for Swin, whose tokens torchvision keeps at their places
    return tensor.transpose(2, 3).transpose(1, 2)


@pytest.mark.parametrize("name", ["densenet121", "efficientnet-b0", "convnext-tiny", "vit-s-16", "swin-t"])
def test_gradcam_equals_pytorch_grad_cam_called_as_its_authors_do(name: str) -> None:
    model = network(name).double()
    x = batch(1).images.double().expand(3, -1, -1, -1)
    b = Batch(x, torch.arange(3), [0, 1, 2])  # every class: the map of one may have no positive place
    ours = explain_all(build("gradcam"), Network(model, 3), b)[""]
    layers: dict[str, Any] = {
        "densenet121": lambda m: m.features[-1],
        "efficientnet-b0": lambda m: m.features[-1],
        "convnext-tiny": lambda m: m.features[-1],
        "vit-s-16": lambda m: m.encoder.layers[-1].ln_1,
        "swin-t": lambda m: m.features[-1][-1].norm2,
    }
    reshape = _reshape_vit if name in TOKENS else _reshape_swin if name in CHANNELS_LAST else None
    model.requires_grad_(True)
    with GradCAM(model=model, target_layers=[layers[name](model)], reshape_transform=reshape) as cam:
        theirs = cam(x, [ClassifierOutputTarget(int(t)) for t in b.targets])
    planes = [build("gradcam").render({"": one}, (64, 64), 0.0) for one in ours]
    np.testing.assert_allclose(planes, theirs, atol=2e-5)
    assert max(np.ptp(plane) for plane in planes) > 0.5


def test_a_layer_without_places_is_refused() -> None:
    net = Network(network("vit-s-16"), 2)
    with pytest.raises(UsageError, match=r"gives no \(n, channels, h, w\)"):
        build("gradcam", layer="heads.head").raw_specs(net, (64, 64))


@pytest.mark.parametrize("name", ["timm:test_vit", "vit-s-16", "convnext-tiny", "swin-t"])
def test_bfloat16_and_weights_drawn_anew_reach_all_parts(name: str) -> None:
    model, b = network(name), batch(2)
    low = Network(model, 2, "bf16")
    assert {p.dtype for p in in_bfloat16(model).parameters()} == {torch.bfloat16}
    with torch.no_grad():
        scale = model(b.images).abs().max()
        torch.testing.assert_close(low.logits(b.images), model(b.images), atol=0.1 * float(scale), rtol=0.1)
    fresh = dict(reinitialised(model, 1).named_parameters())
    same = [k for k, v in model.named_parameters() if v.ndim > 1 and torch.equal(v, fresh[k])]
    assert same == []
