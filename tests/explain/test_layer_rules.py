"""Rules for each step of a network, LRP's and DeepLIFT's: closed forms, sums that hold, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from captum.attr import DeepLift as CaptumDeepLift
from captum.attr import InputXGradient
from torch import nn
from torch.nn import functional

from histoxai.core.errors import InputRefused
from histoxai.core.registry import resolve
from histoxai.explain.bases import epsilon_rule, rescale_rule
from histoxai.explain.bases.captum_hooks import unrolled
from histoxai.explain.bases.method import Batch, Map, explain_all
from histoxai.explain.bases.propagation import LINEAR
from histoxai.explain.bases.tracing import traced
from histoxai.explain.network import Network
from histoxai.explain.parity import compare
from histoxai.networks.normalisation import Normalised
from tests.explain.test_methods import batch, build

SIZE = (16, 16)
Forward = Callable[["Small", torch.Tensor], torch.Tensor]


class Small(nn.Module):
    """Two convolutions, a normalisation and a head, in a pass that a test writes."""

    def __init__(self, forward: Forward, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = (nn.Conv2d(n, 8, 3, padding=1, bias=bias) for n in (3, 8))
        self.squeeze, self.head = nn.Linear(8, 8, bias=bias), nn.Linear(8, 3, bias=bias)
        self.norm, self.same = nn.BatchNorm2d(8), nn.Identity()
        self.norm.weight.data.uniform_(0.5, 2)
        self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        if bias:
            self.norm.bias.data.normal_()
            self.norm.running_mean.normal_()  # type: ignore[union-attr]
        self.of_test = forward
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 3)."""
        return self.of_test(self, x)

    def end(self, x: torch.Tensor) -> torch.Tensor:
        """Average over places by a method, and the head."""
        return self.head(x.mean((2, 3)))

    def normed(self, x: torch.Tensor, training: bool = False) -> torch.Tensor:
        """Batch normalisation by a function."""
        n = self.norm
        return functional.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, training)


def patches(n: int = 2) -> Batch:
    x = torch.rand(n, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    return Batch(x, torch.arange(n) % 3, [0] * n)


def maps_of(name: str, model: nn.Module, b: Batch) -> list[Map]:
    explainer, net = build(name), Network(model, 4)
    explainer.raw_specs(net, tuple(b.images.shape[2:]))  # type: ignore[arg-type]
    made = dict(explainer.explain(net, b))
    return [made[i] for i in range(len(b))]


def input_x_gradient(model: nn.Module, b: Batch) -> np.ndarray:
    double = copy.deepcopy(model).double()
    return InputXGradient(double).attribute(b.images.double(), target=b.targets).detach().numpy()


def logits_of(model: nn.Module, b: Batch) -> np.ndarray:
    with torch.no_grad():
        return copy.deepcopy(model).double()(b.images.double()).gather(1, b.targets[:, None])[:, 0].numpy()


# Steps through which captum's relevance passed as if it were a gradient, in networks of ReLUs.
RELU_NETWORKS: dict[str, Forward] = {
    "identity behind an activation": lambda s, x: s.end(s.b(s.same(functional.relu(s.a(x))))),
    "functional average pooling": lambda s, x: s.end(functional.avg_pool2d(functional.relu(s.a(x)), 3, 2, 1)),
    "functional batch norm": lambda s, x: s.end(functional.relu(s.normed(s.a(x)))),
    "layer of batch norm": lambda s, x: s.end(functional.relu(s.norm(s.a(x)))),
    "subtraction": lambda s, x: s.end(functional.relu(s.a(x) - s.b(functional.relu(s.a(x))))),
    "scaling": lambda s, x: s.end(0.1 * s.b(functional.relu(s.a(x)) / 3)),
    "leaky": lambda s, x: s.end(functional.leaky_relu(s.a(x), 0.2)),
    "functional max pooling": lambda s, x: s.end(s.b(functional.max_pool2d(functional.relu(s.a(x)), 3, 2, 1))),
    "in place": lambda s, x: s.end((2 * functional.relu(s.a(x), inplace=True)).add_(s.b(torch.relu_(s.a(x))))),
    "split and join": lambda s, x: s.end(torch.cat(s.a(x).relu().chunk(2, 1)[::-1], 1)),
}


@pytest.mark.parametrize("step", RELU_NETWORKS)
def test_lrp_of_a_relu_network_without_biases_is_input_x_gradient_and_adds_up_to_the_logit(step: str) -> None:
    model, b = Small(RELU_NETWORKS[step]), patches()
    made, want = maps_of("lrp", model, b), input_x_gradient(model, b)
    for one, expected, logit in zip(made, want, logits_of(model, b), strict=True):
        np.testing.assert_allclose(one.raw[""], expected, atol=2e-6 * np.abs(expected).max())
        assert one.raw[""].sum(dtype="f8") == pytest.approx(logit, rel=1e-4)
        assert one.checks["conservation_error"] < 1e-4
        assert one.checks["bias_share"] == pytest.approx(0, abs=1e-6)


def test_lrp_counts_what_biases_take() -> None:
    model, b = Small(lambda s, x: s.end(functional.relu(s.normed(s.a(x)) - 0.3)), bias=True), patches()
    for one, logit in zip(maps_of("lrp", model, b), logits_of(model, b), strict=True):
        assert one.checks["conservation_error"] < 1e-5
        pixels = one.raw[""].sum(dtype="f8") / logit
        assert abs(pixels - 1) > 0.1
        assert one.checks["bias_share"] == pytest.approx(1 - pixels, abs=1e-4)


def test_lrp_of_a_layer_with_a_bias_is_the_papers_formula() -> None:
    """z_i / z of the relevance of z, where z has its bias in it (Bach et al. 2015, eq. 58, without epsilon)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    x = torch.rand(1, 3, 2, 2).double()
    first, last = model[1], model[3]
    z = x.flatten() * first.weight  # contributions (5, 12)
    hidden = z.sum(dim=1) + first.bias
    relevance = hidden.relu() * last.weight[1]
    want = (z / hidden[:, None] * relevance[:, None]).sum(dim=0)
    found = epsilon_rule.EpsilonRule(traced(model, "lrp")).attribute(x, torch.tensor([1]))
    np.testing.assert_allclose(found.values.flatten(), want.detach(), atol=1e-15)
    biases = (first.bias / hidden * relevance).sum() + last.bias[1]
    assert float(found.total) == pytest.approx(float(found.logits[0, 1] - biases))


@pytest.mark.parametrize("kind", ["gelu", "silu", "by hand", "tanh", "relu6"])
def test_lrp_hands_relevance_through_a_smooth_activation_whole(kind: str) -> None:
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "gelu": functional.gelu,
        "silu": functional.silu,
        "by hand": lambda h: h * torch.sigmoid(h),
        "tanh": torch.tanh,
        "relu6": functional.relu6,
    }
    of = functions[kind]
    model, b = Small(lambda s, x: s.end(of(20 * s.a(x)))), patches()
    double, x = copy.deepcopy(model).double(), b.images.double().requires_grad_()
    h = 20 * double.a(x)
    constant = (of(h) / h).detach()  # output over input
    logit = double.end(constant * h).gather(1, b.targets[:, None]).sum()
    want = (x * torch.autograd.grad(logit, x)[0]).detach().numpy()
    for one, expected in zip(maps_of("lrp", model, b), want, strict=True):
        np.testing.assert_allclose(one.raw[""], expected, atol=1e-5 * np.abs(expected).max())
        assert one.checks["conservation_error"] < 1e-4


def _gated(s: Small, x: torch.Tensor) -> torch.Tensor:
    h = functional.relu(s.a(x))
    return s.end(h * (2 * torch.sigmoid(s.squeeze(h.mean((2, 3))))).view(x.size(0), -1, 1, 1))


def test_lrp_takes_a_sigmoid_gate_as_constant() -> None:
    """The signal takes all (Arras et al. 2017, arXiv 1706.07206)."""
    model, b = Small(_gated), patches()
    double, x = copy.deepcopy(model).double(), b.images.double().requires_grad_()
    h = double.a(x).relu()
    gate = 2 * torch.sigmoid(double.squeeze(h.mean((2, 3)))).detach()[:, :, None, None]
    logit = double.end(h * gate).gather(1, b.targets[:, None]).sum()
    want = (x * torch.autograd.grad(logit, x)[0]).detach().numpy()
    for one, expected in zip(maps_of("lrp", model, b), want, strict=True):
        np.testing.assert_allclose(one.raw[""], expected, atol=1e-5 * np.abs(expected).max())
        assert one.checks["conservation_error"] < 1e-4


def _overwritten(s: Small, x: torch.Tensor) -> torch.Tensor:
    h = 1.0 * s.a(x)
    return s.end(functional.relu(h, inplace=True) + h)


REFUSED: dict[str, tuple[Forward, dict[str, str]]] = {
    "sigmoid": (lambda s, x: s.end(torch.sigmoid(s.a(x))), {"lrp": r"sigmoid, which is not 0 at 0"}),
    "scaled sigmoid": (lambda s, x: s.end(2 * torch.sigmoid(s.a(x))), {"lrp": r"sigmoid, which is not 0 at 0"}),
    "square": (lambda s, x: s.end(s.a(x) * s.a(x)), {"lrp": "mul of two values, neither of them a gate"}),
    "power": (lambda s, x: s.end(s.a(x) ** 2), dict.fromkeys(("lrp", "deeplift"), r"for \(pow\)")),
    "ratio": (
        lambda s, x: s.end(s.a(x) / (1 + s.b(s.a(x)).relu())),
        dict.fromkeys(("lrp", "deeplift"), r"for \(truediv\)"),
    ),
    "layer norm": (
        lambda s, x: s.end(functional.layer_norm(s.a(x), SIZE)),
        dict.fromkeys(("lrp", "deeplift"), r"for \(layer_norm\)"),
    ),
    "softmax": (
        lambda s, x: s.end(functional.softmax(s.a(x), 1)),
        dict.fromkeys(("lrp", "deeplift"), r"for \(softmax\)"),
    ),
    "constant part": (lambda s, x: s.end(s.a(x).detach()), dict.fromkeys(("lrp", "deeplift"), r"for \(detach\)")),
    "statistics of the batch": (
        lambda s, x: s.end(s.normed(s.a(x), training=True)),
        {"lrp": "add up to .* in place of .* on a probe patch", "deeplift": "belong to other logits"},
    ),
    "mean of patches": (
        lambda s, x: s.end(functional.relu(s.a(x)) - s.a(x).mean(0, keepdim=True)),
        {"lrp": "add up to .* in place of .* on a probe patch", "deeplift": "belong to other logits"},
    ),
    "overwritten": (_overwritten, {"deeplift": "belong to other logits"}),
}


@pytest.mark.parametrize("step", REFUSED)
def test_networks_that_the_rules_do_not_suit_are_refused_before_work_starts(step: str) -> None:
    forward, messages = REFUSED[step]
    for name, words in messages.items():
        with pytest.raises(InputRefused, match=rf"{name}: this network has .*{words}.*use ig, saliency or gradcam"):
            build(name).raw_specs(Network(Small(forward), 4), SIZE)


def test_values_that_another_step_overwrites_are_read_by_lrp_as_the_network_reads_them() -> None:
    model, b = Small(_overwritten), patches()
    want = input_x_gradient(model, b)
    for one, expected in zip(maps_of("lrp", model, b), want, strict=True):
        np.testing.assert_allclose(one.raw[""], expected, atol=2e-6 * np.abs(expected).max())
    assert build("lrp").library(model, b.images[0], 0, 0) is None  # captum's copy would compute another network


def test_a_wrong_rule_is_seen_by_the_probe_the_stored_check_and_the_comparison_with_captum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, b = Small(lambda s, x: s.end(functional.gelu(5 * s.a(x)))), patches()
    net, explainer = Network(model, 4), build("lrp")
    parity = compare(explainer, net, b)
    assert parity is not None
    assert parity.holds
    monkeypatch.setattr(epsilon_rule.EpsilonRule, "activation", lambda self, step: step())  # the gradient
    parity = compare(explainer, net, b)
    assert parity is not None
    assert not parity.holds
    assert parity.difference > 0.05
    assert all(one.checks["conservation_error"] > 0.05 for _, one in explainer.explain(net, b))
    with pytest.raises(InputRefused, match="add up to"):
        explainer.raw_specs(net, SIZE)
    monkeypatch.undo()
    monkeypatch.setattr("histoxai.explain.bases.propagation.LINEAR", LINEAR | {"pow"})  # a step called linear
    with pytest.raises(InputRefused, match="add up to"):
        explainer.raw_specs(Network(Small(REFUSED["power"][0]), 4), SIZE)


# ---- DeepLIFT


def rescaled(model: nn.Module, x: torch.Tensor, target: int = 0, baseline: float = 0.0) -> Any:
    rules = rescale_rule.RescaleRule(traced(model, "deeplift"), baseline)
    return rules.attribute(x, torch.full((len(x),), target))


class _Largest(nn.Module):
    """The sum of the largest values in overlapping windows of three, of one row of five pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 1)."""
        return functional.max_pool2d(x[:, :1], (1, 3), (1, 1)).flatten(1).sum(1, keepdim=True)


def test_deeplift_of_overlapping_windows_drawn_by_hand() -> None:
    x = torch.zeros(2, 3, 1, 5).double()
    x[0, 0, 0] = torch.tensor([0.0, 0.2, 0.9, 0.1, 0.0])  # one maximum of all three windows
    x[1, 0, 0] = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.3])  # below the baseline, which is even
    found = rescaled(_Largest(), x, baseline=0.5)
    np.testing.assert_allclose(found.values[0, 0, 0], [0, 0, 3 * 0.4, 0, 0], atol=1e-15)
    np.testing.assert_allclose(found.values[1, 0, 0], [0, 0, -0.2, -0.2, 0], atol=1e-15)
    np.testing.assert_allclose(found.total, [1.2, -0.4])
    ground = torch.tensor([0.5, 0.2, 0.7, 0.1, 0.3]).expand(1, 3, 1, 5).double()
    uneven = rescaled(nn.Sequential(_Plus(ground), _Largest()), x[1:] - ground)
    # 0.7 is the largest of the baseline in all windows, and falls by 0.4; the windows by 0.4, 0.3 and 0.3
    np.testing.assert_allclose(uneven.values[0, 0, 0], [0, 0, -1.0, 0, 0], atol=1e-15)


def test_deeplift_of_a_product_shares_its_change() -> None:
    class Product(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, :1] * x[:, 1:2]).flatten(1)

    x = torch.tensor([0.8, 0.6, 0.3]).view(1, 3, 1, 1).double()
    found = rescaled(Product(), x, baseline=0.2)
    # (0.8 - 0.2) (0.6 + 0.2) / 2, (0.6 - 0.2) (0.8 + 0.2) / 2: the two orders' mean
    np.testing.assert_allclose(found.values.flatten(), [0.24, 0.2, 0], atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deeplift_of_smooth_activations_is_the_ratio_of_changes_even_where_they_are_tiny(dtype: torch.dtype) -> None:
    class Smooth(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.gelu(x).flatten(1).sum(1, keepdim=True)

    change = torch.tensor([0.0, 1e-7, 1e-3, 0.3])
    x = (0.5 + change).view(1, 1, 1, 4).expand(1, 3, 1, 4).to(dtype)
    found = rescaled(Smooth(), x, baseline=0.5)
    inputs = x[0, 0, 0].double()
    step, start = (inputs - 0.5).numpy(), torch.full_like(inputs, 0.5)
    slope = torch.autograd.functional.jacobian(lambda v: functional.gelu(v).sum(), start).numpy()
    exact = (functional.gelu(inputs) - functional.gelu(start)).numpy()
    exact[1] = slope[1] * step[1]
    np.testing.assert_allclose(found.values[0, 0, 0], exact, rtol=1e-5)


def drawn(name: str, size: int = 64) -> nn.Module:
    """A randomly drawn network as `train-cls --normalise imagenet` builds it, logits of ordinary size."""
    torch.manual_seed(0)
    model = Normalised(resolve("classifier", name)(3, (size, size)), "imagenet")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(batch(6).images)
    return model.eval()


def completeness(model: nn.Module, values: torch.Tensor, x: torch.Tensor, targets: torch.Tensor) -> float:
    with torch.no_grad():
        rise = (model(x) - model(torch.zeros_like(x))).gather(1, targets[:, None])[:, 0]
    return float(((values.sum((1, 2, 3)) - rise) / rise).abs().max())


def test_deeplift_is_complete_on_a_drawn_resnet_with_normalisation() -> None:
    model, b = drawn("resnet18"), batch(2)
    assert all(one.checks["completeness_error"] < 1e-3 for one in maps_of("deeplift", model, b))
    double, x = copy.deepcopy(model).double(), b.images.double()
    rules = rescale_rule.RescaleRule(traced(double, "deeplift"), 0.0)
    assert completeness(double, rules.attribute(x, b.targets).values, x, b.targets) < 1e-9
    # as captum computes it, and on the copy in which none of its layers share a tensor
    theirs = CaptumDeepLift(unrolled(double, "deeplift")).attribute(x, torch.zeros_like(x), target=b.targets)
    assert completeness(double, theirs, x, b.targets) > 0.01
    for i in range(2):
        library = build("deeplift").library(double, x[i], int(b.targets[i]), 0)
        assert library is not None
        ours = rules.attribute(x[i : i + 1], b.targets[i : i + 1]).values[0]
        np.testing.assert_allclose(ours, library[""], atol=1e-6 * np.abs(library[""]).max())


class _Apart(nn.Module):
    """Nothing but a tensor of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Copy."""
        return x.clone()


@pytest.mark.parametrize(("pool", "neighbours", "is_right"), [(2, True, False), (2, False, True), (3, False, False)])
def test_captum_loses_contributions_where_layers_are_neighbours_or_windows_overlap(
    pool: int, neighbours: bool, is_right: bool
) -> None:
    """The two causes of an incomplete DeepLIFT, each alone; in ours neither."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Identity() if neighbours else _Apart(), nn.MaxPool2d(pool, 2)),
        *(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    ).double()
    x = torch.rand(2, 3, 16, 16).double()
    targets, ground = torch.tensor([0, 1]), torch.rand(1, 3, 16, 16).double()
    shifted = nn.Sequential(_Plus(ground), *model)  # the baseline is an image with contrast
    x = x - ground
    theirs = CaptumDeepLift(shifted).attribute(x, torch.zeros_like(x), target=targets)
    assert (completeness(shifted, theirs, x, targets) < 1e-9) == is_right
    rules = rescale_rule.RescaleRule(traced(shifted, "deeplift"), 0.0)
    assert completeness(shifted, rules.attribute(x, targets).values, x, targets) < 1e-9


class _Plus(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add a constant image."""
        return x + self.value


# ---- real networks

TIMM_RELU = ("regnetx_002", "densenet121", "repvgg_a0", "res2net50_26w_4s")


def check_network(name: str, is_relu: bool) -> None:
    model, b = drawn(name), batch(2)
    assert all(one.checks["conservation_error"] < 1e-3 for one in maps_of("lrp", model, b))
    contributions = maps_of("deeplift", model, b)
    # far from black, smooth networks have contributions of 1e9 for a difference of 1e2: float32 does not hold that
    assert not is_relu or all(one.checks["completeness_error"] < 1e-3 for one in contributions)
    double, x = copy.deepcopy(model).double(), b.images.double()
    exact = build("deeplift").rules(traced(double, "deeplift")).attribute(x, b.targets)  # type: ignore[attr-defined]
    assert completeness(double, exact.values, x, b.targets) < 1e-3
    found = build("lrp").rules(traced(double, "lrp")).attribute(x, b.targets)  # type: ignore[attr-defined]
    if is_relu:
        want = input_x_gradient(model, b)
        np.testing.assert_allclose(found.values, want, atol=1e-9 * np.abs(want).max())
    logits = found.logits.gather(1, b.targets[:, None])[:, 0]
    np.testing.assert_allclose(found.logits, double(x).detach())
    captum = build("lrp").library(double, x[1], 1, 0)
    assert captum is not None
    np.testing.assert_allclose(captum[""], found.values[1], atol=1e-4 * np.abs(captum[""]).max())
    assert logits.abs().min() > 0


@pytest.mark.parametrize(("name", "is_relu"), [("timm:regnetx_002", True), ("timm:seresnet18", False)])
def test_networks_that_captum_explained_wrongly(name: str, is_relu: bool) -> None:
    check_network(name, is_relu)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [*(f"timm:{n}" for n in TIMM_RELU if n != "regnetx_002"), "resnet18", "resnet50", "densenet121", "thesis-cnn"],
)
def test_relu_networks(name: str) -> None:
    check_network(name, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet-b0", "timm:mobilenetv3_small_050"])
def test_gated_and_smooth_networks(name: str) -> None:
    check_network(name, False)


@pytest.mark.slow
def test_networks_of_timm_are_explained_rightly_or_refused() -> None:
    """One of each family that the registry of timm names and that takes small patches."""
    explained, refused = [], []
    for name in timm.list_models(["resnet18", "resnest14d", "skresnet18", "ecaresnet50t", "vgg11"]):
        b = batch(1)
        try:
            model = drawn(f"timm:{name}")
            made = {method: maps_of(method, model, b)[0] for method in ("lrp", "deeplift")}
        except InputRefused as error:
            refused.append((name, str(error)))
            continue
        explained.append(name)
        assert made["lrp"].checks["conservation_error"] < 1e-2, name
        assert made["deeplift"].checks["completeness_error"] < 1e-2, name
    assert {"resnet18", "ecaresnet50t"} <= set(explained)
    words = "a step that it has no rule for", "cannot be unrolled"
    assert all(any(word in message for word in words) for _, message in refused), refused


def test_maps_of_both_methods_agree_for_each_patch_whatever_is_beside_it() -> None:
    model, b = Small(_gated, bias=True), patches(4)
    for name in ("lrp", "deeplift"):
        together = explain_all(build(name), Network(model, 4), b)[""]
        alone = explain_all(build(name), Network(model, 4), Batch(b.images[2:3], b.targets[2:3], [0]))[""]
        assert together[2].tobytes() == alone[0].tobytes()
