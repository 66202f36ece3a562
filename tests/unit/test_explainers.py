"""Every explainer against its library as its authors call it, and the contract that all must keep."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIG
from captum.attr import NoiseTunnel as CaptumNT
from lime.lime_image import LimeImageExplainer
from pytorch_grad_cam import GradCAM as LibraryGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from histoxai.errors import InputRefused, UsageError
from histoxai.explainers.base import Batch, Explainer, channels_to_plane, min_max, parse_options
from histoxai.explainers.gradcam import find_layer
from histoxai.models.batches import to_tensor
from histoxai.models.classifiers import ThesisCNN, resnet18
from histoxai.registry import names, resolve
from histoxai.settings import Explain
from histoxai.stages.explain import make_explainers
from tests.conftest import patch

QUICK = {"ig": {"steps": "20"}, "nt": {"steps": "6", "samples": "3"}, "lime": {"samples": "60", "max_dist": "10"}}
MICRO = 16


def build(name: str, **options: str) -> Explainer:
    kind = resolve("explainer", name)
    return kind(parse_options(kind, {**QUICK.get(name, {}), **options}, name), MICRO)


def batch(n: int = 3) -> Batch:
    rng = np.random.default_rng(5)
    images = np.stack([patch(rng, 1 + i % 2)[0] for i in range(n)])
    return Batch(to_tensor(images), torch.arange(n) % 3, [11 * i + 1 for i in range(n)])


def network(kind: Callable[..., nn.Module] = ThesisCNN) -> nn.Module:
    torch.manual_seed(0)
    model = kind(3, (64, 64))
    model.train()
    with torch.no_grad():
        for _ in range(20):  # running statistics of real inputs, so that activations are of ordinary size
            model(batch(6).images)
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return network()


def in_double(model: nn.Module, make: Callable[[nn.Module], torch.Tensor]) -> np.ndarray:
    """The library's result in float64, with the model given back as it was."""
    try:
        return make(model.double()).detach().numpy()
    finally:
        model.float()


def within_contract(ours: np.ndarray, library: np.ndarray, exact: Callable[[], np.ndarray]) -> None:
    """FORMAT's rule 3: 1e-5 of max|A| to the library, else at most 1.5 times its own error to float64."""
    scale = np.abs(library).max()
    assert scale > 0
    if np.abs(ours - library).max() <= 1e-5 * scale:
        return
    truth = exact()
    assert np.abs(ours - truth).max() <= 1.5 * np.abs(library - truth).max()


def test_ig_equals_captum(model: nn.Module) -> None:
    b = batch()
    ours = build("ig", steps="100").attribute(model, b)[""]

    def library(net: nn.Module) -> torch.Tensor:
        x = b.images.to(next(net.parameters()).dtype)
        return CaptumIG(net).attribute(x, baselines=0.0, target=b.targets, n_steps=100)

    within_contract(ours, library(model).detach().numpy(), lambda: in_double(model, library))


def test_nt_equals_captum_given_the_same_noise(model: nn.Module) -> None:
    b = batch()
    ours = build("nt").attribute(model, b)[""]
    for i in range(len(b)):
        noise_seed = b.seeds[i]

        def library(net: nn.Module, i: int = i, seed: int = noise_seed) -> torch.Tensor:
            kind = next(net.parameters()).dtype
            torch.manual_seed(seed)
            noise = torch.normal(0.0, 1.0, (3, *b.images.shape[1:]))  # as captum draws it, in float32
            noisy = (b.images[i].expand(3, -1, -1, -1) + noise).to(kind)
            maps = CaptumIG(net).attribute(noisy, baselines=0.0, target=int(b.targets[i]), n_steps=6)
            return (maps**2).mean(dim=0)

        within_contract(ours[i], library(model).detach().numpy(), lambda call=library: in_double(model, call))
        torch.manual_seed(noise_seed)
        called = CaptumNT(CaptumIG(model)).attribute(
            b.images[i : i + 1],
            nt_type="smoothgrad_sq",
            nt_samples=3,
            stdevs=1.0,
            baselines=0.0,
            target=int(b.targets[i]),
            n_steps=6,
        )
        within_contract(ours[i], called[0].detach().numpy(), lambda call=library: in_double(model, call))


@pytest.mark.parametrize("kind", [ThesisCNN, resnet18])
def test_gradcam_equals_the_library(kind: Callable[..., nn.Module]) -> None:
    model, b = network(kind), batch(5)
    layer = find_layer(model, "")
    explainer = build("gradcam")
    raw = explainer.attribute(model, b)[""]
    assert raw.shape == (5, *explainer.raw_specs(model, (64, 64))[""].shape)
    with LibraryGradCAM(model=model, target_layers=[layer]) as cam:
        largest = 0.0
        for i in range(5):
            want = cam(b.images[i : i + 1], [ClassifierOutputTarget(int(b.targets[i]))])[0]
            got = explainer.render({"": raw[i]}, (64, 64), 0.0)
            np.testing.assert_allclose(got, want, atol=1e-5)
            largest = max(largest, float(want.max()))
    assert largest > 0.5  # not all maps are zero: the comparison says something
    assert (raw < 0).any()  # the sign is kept


def test_gradcam_layer_of_the_study_is_conv3_before_its_relu(model: nn.Module) -> None:
    assert find_layer(model, "") is model.conv3
    assert isinstance(find_layer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), ""), nn.Conv2d)


def test_lime_equals_the_library(model: nn.Module) -> None:
    b = batch()
    raw = build("lime", samples="200").attribute(model, b)

    @torch.no_grad()
    def classify(images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
        return torch.softmax(model(x), dim=1).double().numpy()

    for i in range(len(b)):
        image = b.images[i].permute(1, 2, 0).double().numpy()
        from lime.wrappers.scikit_image import SegmentationAlgorithm

        segmenter = SegmentationAlgorithm("quickshift", kernel_size=4, max_dist=10, ratio=0.2, random_seed=42)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = LimeImageExplainer(random_state=int(b.seeds[i])).explain_instance(
                image,
                classify,
                labels=(int(b.targets[i]),),
                top_labels=None,
                num_samples=200,
                batch_size=MICRO,
                segmentation_fn=segmenter,
            )
        assert np.array_equal(raw["segments"][i], theirs.segments)
        assert theirs.segments.max() >= 3
        pairs = dict(theirs.local_exp[int(b.targets[i])])
        ours = raw["weights"][i]
        np.testing.assert_allclose(ours[: len(pairs)], [pairs[k] for k in range(len(pairs))], atol=1e-6)
        assert np.isnan(ours[len(pairs) :]).all()
        _, mask = theirs.get_image_and_mask(int(b.targets[i]), positive_only=False, num_features=3, hide_rest=False)
        plane = build("lime").render({k: v[i] for k, v in raw.items()}, (64, 64), 0.0)
        assert np.array_equal(plane, np.abs(mask))


def test_lime_quickshift_defaults_are_the_librarys() -> None:
    # the default segmentation of lime_image.explain_instance: quickshift(4, 200, 0.2)
    o = resolve("explainer", "lime").Options()
    assert (o.kernel_size, o.max_dist, o.ratio, o.samples, o.top) == (4, 200, 0.2, 500, 3)


def test_ig_of_a_linear_network_is_weight_times_input() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    x = torch.rand(2, 3, 8, 8)
    got = build("ig").attribute(linear, Batch(x, torch.tensor([0, 2]), [0, 0]))[""]
    weight = linear[1].weight.detach().view(3, 3, 8, 8)
    np.testing.assert_allclose(got, (weight[[0, 2]] * x).numpy(), atol=1e-6)
    grey = build("ig", baseline="0.5").attribute(linear, Batch(x, torch.tensor([0, 2]), [0, 0]))[""]
    np.testing.assert_allclose(grey, (weight[[0, 2]] * (x - 0.5)).numpy(), atol=1e-6)


@pytest.mark.parametrize("name", names("explainer"))
def test_contract(name: str, model: nn.Module) -> None:
    explainer, b = build(name), batch(5)
    assert "Source: " in (type(explainer).__doc__ or "")
    flags = [p.requires_grad for p in model.parameters()]
    state = torch.random.get_rng_state()
    specs = explainer.raw_specs(model, (64, 64))
    first, again = explainer.attribute(model, b), explainer.attribute(model, b)
    assert first.keys() == specs.keys()
    for part, spec in specs.items():
        assert first[part].shape == (5, *spec.shape)
        assert first[part].dtype == np.dtype(spec.dtype)
        assert np.array_equal(first[part], again[part], equal_nan=True)
        values = first[part] if not np.isnan(spec.fill) else first[part][~np.isnan(first[part])]
        assert np.isfinite(values).all()
        assert np.ptp(values) > 0
    # the same bytes for a patch wherever it stands in a batch
    turned = Batch(b.images[[4, 1]], b.targets[[4, 1]], [b.seeds[4], b.seeds[1]])
    moved = explainer.attribute(model, turned)
    for part in specs:
        assert moved[part][0].tobytes() == first[part][4].tobytes()
        assert moved[part][1].tobytes() == first[part][1].tobytes()
    plane = explainer.render({k: v[0] for k, v in first.items()}, (64, 64), 0.0)
    assert plane.shape == (64, 64)
    assert plane.min() >= 0
    assert 0 < plane.max() <= 1
    for module in model.modules():
        assert not any((module._forward_hooks, module._backward_hooks, module._forward_pre_hooks))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_seeds_change_what_is_random(model: nn.Module) -> None:
    b = batch(1)
    other = Batch(b.images, b.targets, [99])
    for name, part in (("nt", ""), ("lime", "weights")):
        one, two = build(name).attribute(model, b)[part], build(name).attribute(model, other)[part]
        assert not np.array_equal(one, two, equal_nan=True)
    assert np.array_equal(build("ig").attribute(model, b)[""], build("ig").attribute(model, other)[""])


class _Breaks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.conv(x)
        raise RuntimeError("in mid-run")


@pytest.mark.parametrize("name", names("explainer"))
def test_hooks_are_gone_after_a_failure(name: str) -> None:
    broken = _Breaks()
    with pytest.raises(RuntimeError, match="in mid-run"):
        build(name).attribute(broken, batch(1))
    for module in broken.modules():
        assert not any((module._forward_hooks, module._backward_hooks))
    assert all(p.requires_grad for p in broken.parameters())


def test_constant_channels_count_as_zero_or_as_the_study_has_them() -> None:
    attribution = np.zeros((3, 4, 4))
    attribution[0] = np.arange(16).reshape(4, 4) - 8
    plane = channels_to_plane(attribution, 0.0)
    assert plane.min() == 0
    assert plane.max() == 1
    assert np.array_equal(plane, np.abs(attribution[0]) / 8)
    assert np.isnan(channels_to_plane(attribution, np.nan)).all()
    assert (min_max(np.ones(4), 0.0) == 0).all()
    assert np.isnan(min_max(np.array([1.0, np.nan]), 0.0)).all()


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        (("ig",), ("ig.stepz=3",), "no such option; ig has steps, baseline"),
        (("ig",), ("ig.steps=many",), "expected a value of type int"),
        (("ig",), ("nt.steps=3",), "'nt' is not among the methods ig"),
        (("ig",), ("steps=3",), "expected NAME.OPTION=VALUE"),
        (("ig",), ("ig.steps=0",), "must be at least 1"),
        (("nt",), ("nt.kind=other",), "not one of smoothgrad"),
        (("saliency2",), (), "unknown explainer 'saliency2'; known: ig"),
        (("predictions=ig",), (), "cannot be a name"),
        (("a/b=ig",), (), "cannot be a name"),
    ],
)
def test_bad_methods_and_options(methods: tuple[str, ...], options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_explainers(Explain(methods=methods, options=options))


def test_one_method_under_two_names() -> None:
    made = make_explainers(Explain(methods=("ig", "ig300=ig"), options=("ig300.steps=300",)))
    assert {n: e.options.steps for n, e in made.items()} == {"ig": 100, "ig300": 300}


def test_unsuitable_layers(tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(UsageError, match="its convolutions: conv1, conv2, conv3"):
        build("gradcam", layer="conv9").raw_specs(model, (64, 64))
    with pytest.raises(InputRefused, match="no convolution"):
        find_layer(nn.Linear(3, 3), "")
    with pytest.raises(InputRefused, match="gives no"):
        build("gradcam", layer="head").raw_specs(model, (64, 64))
