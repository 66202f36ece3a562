"""Every explainer against its library as its authors call it, closed forms, and the contract that all must keep."""

from __future__ import annotations

import itertools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum import attr
from lime.lime_image import LimeImageExplainer
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from histoxai.core.errors import HistoxaiError, InputRefused, UsageError
from histoxai.core.registry import names, resolve
from histoxai.explain.arguments import make_explainers, parse_options
from histoxai.explain.bases import superpixels
from histoxai.explain.bases.captum_hooks import unrolled
from histoxai.explain.bases.method import (
    Batch,
    Map,
    Method,
    channels_to_plane,
    explain_all,
    level,
    min_max,
)
from histoxai.explain.bases.noise import draw_noise
from histoxai.explain.bases.sampling import is_same_output
from histoxai.explain.bases.single_pass import SinglePass, run_single_pass
from histoxai.explain.bases.superpixels import compute_ahead, mean_colours, with_nuclei
from histoxai.explain.catalogue import FAMILIES, method_rows
from histoxai.explain.layers import find_layer
from histoxai.explain.methods.lime import sample_weights, strongest
from histoxai.explain.methods.random import Random
from histoxai.explain.network import Network, largest_that_fits, reinitialised
from histoxai.explain.parity import compare
from histoxai.networks.backbones import resnet18
from histoxai.networks.inference import predict_patches, to_tensor
from histoxai.networks.thesis_cnn import ThesisCNN
from histoxai.settings.base import recorded_options
from tests.conftest import patch

QUICK: dict[str, dict[str, str]] = {
    "ig": {"steps": "20"},
    "nt": {"steps": "6", "samples": "3"},
    "lime": {"samples": "60", "max_dist": "10"},
    "kernelshap": {"samples": "40", "max_dist": "10"},
    "smoothgrad": {"samples": "7"},
    "gradshap": {"samples": "9", "level": "0.1"},
    "occlusion": {"window": "16", "stride": "12"},
    "rise": {"masks": "50"},
}
NULLS = ("random", "center", "edges", "hematoxylin")
MICRO = 16
FLOAT32 = float(np.finfo(np.float32).eps)
CAMS = {
    "gradcam": GradCAM,
    "gradcampp": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "eigencam": EigenCAM,
    "scorecam": ScoreCAM,
}


def build(name: str, **options: str) -> Method:
    kind = resolve("method", name)
    return kind(parse_options(kind, {**QUICK.get(name, {}), **options}, name))


def batch(n: int = 3) -> Batch:
    rng = np.random.default_rng(5)
    images = np.stack([patch(rng, 1 + i % 2)[0] for i in range(n)])
    return Batch(to_tensor(images), torch.arange(n) % 3, [11 * i + 1 for i in range(n)])


def network(kind: Callable[..., nn.Module] = ThesisCNN) -> nn.Module:
    torch.manual_seed(0)
    model = kind(3, (64, 64))
    model.train()
    with torch.no_grad():
        for part in model.modules() if kind is ThesisCNN else ():
            if isinstance(part, nn.Linear):  # as He et al. draw them: seven layers of torch's own leave no signal
                part.weight.mul_(6**0.5)
        for _ in range(20):  # running statistics of real inputs, so that activations are of ordinary size
            model(batch(6).images)
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def net() -> Network:
    return Network(network(), MICRO)


@pytest.fixture(scope="module")
def resnet() -> Network:
    return Network(network(resnet18), MICRO)


def linear(size: int = 8) -> tuple[Network, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 3))
    return Network(model, 4), model[1].weight.detach().view(3, 3, size, size)


def in_double(model: nn.Module, make: Callable[[nn.Module], torch.Tensor]) -> np.ndarray:
    """The library's result in float64, with the model given back as it was."""
    try:
        return make(model.double()).detach().numpy()
    finally:
        model.float()


def within_contract(ours: np.ndarray, library: np.ndarray, exact: Callable[[], np.ndarray]) -> None:
    """Rule 3: 1e-5 of max|A| to the library, else at most 1.5 times its own error to float64."""
    scale = np.abs(library).max()
    assert scale > 0
    if np.abs(ours - library).max() <= 1e-5 * scale:
        return
    truth = exact()
    assert np.abs(ours - truth).max() <= 1.5 * np.abs(library - truth).max()


# ---- the libraries as their authors call them


def test_ig_equals_captum(net: Network) -> None:
    b = batch()
    ours = explain_all(build("ig", steps="100"), net, b)[""]

    def library(model: nn.Module) -> torch.Tensor:
        x = b.images.to(next(model.parameters()).dtype)
        return attr.IntegratedGradients(model).attribute(x, baselines=0.0, target=b.targets, n_steps=100)

    within_contract(ours, library(net.exact).detach().numpy(), lambda: in_double(net.exact, library))


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_nt_equals_captum_called_on_each_patch_with_its_seed(net: Network, kind: str) -> None:
    b = batch()
    ours = explain_all(build("nt", kind=kind), net, b)[""]
    for i in range(len(b)):

        def library(model: nn.Module, i: int = i) -> torch.Tensor:
            dtype = next(model.parameters()).dtype
            torch.manual_seed(b.seeds[i])
            noise = torch.normal(0.0, 1.0, (3, *b.images.shape[1:]))  # as captum draws it, in float32
            noisy = (b.images[i].expand(3, -1, -1, -1) + noise).to(dtype)
            maps = attr.IntegratedGradients(model).attribute(noisy, baselines=0.0, target=int(b.targets[i]), n_steps=6)
            square = (maps**2).mean(dim=0)
            mean = maps.mean(dim=0)
            return {"smoothgrad": mean, "smoothgrad_sq": square, "vargrad": square - mean**2}[kind]

        torch.manual_seed(b.seeds[i])
        called = attr.NoiseTunnel(attr.IntegratedGradients(net.exact)).attribute(
            b.images[i : i + 1],
            nt_type=kind,
            nt_samples=3,
            stdevs=1.0,
            baselines=0.0,
            target=int(b.targets[i]),
            n_steps=6,
        )
        within_contract(ours[i], called[0].detach().numpy(), lambda call=library: in_double(net.exact, call))


def test_smoothgrad_level_is_a_share_of_the_range_of_the_patch(net: Network) -> None:
    b = batch(2)
    explainer = build("smoothgrad", level="0.2")
    ours = explain_all(explainer, net, b)[""]
    for i in range(2):
        stdev = 0.2 * float(b.images[i].max() - b.images[i].min())
        assert stdev == pytest.approx(draw_noise(b.images[i], explainer.options, 0)[0])
        torch.manual_seed(b.seeds[i])
        called = (
            attr.NoiseTunnel(attr.Saliency(net.exact))
            .attribute(
                b.images[i : i + 1],
                nt_type="smoothgrad",
                nt_samples=7,
                stdevs=stdev,
                target=int(b.targets[i]),
                abs=False,
            )[0]
            .numpy()
        )
        assert np.abs(ours[i] - called).max() <= 1e-5 * np.abs(called).max()


@pytest.mark.parametrize("kind", ["net", "resnet"])
@pytest.mark.parametrize("name", list(CAMS))
def test_cams_equal_the_library(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    net, b = request.getfixturevalue(kind), batch(5 if name != "scorecam" else 2)
    explainer = build(name)
    raw = explain_all(explainer, net, b)[""]
    assert raw.shape == (len(b), *explainer.raw_specs(net, (64, 64))[""].shape)
    net.exact.requires_grad_(True)
    largest = 0.0
    try:
        with CAMS[name](model=net.exact, target_layers=[find_layer(net.exact, "")]) as cam:
            for i in range(len(b)):
                want = cam(b.images[i : i + 1], [ClassifierOutputTarget(int(b.targets[i]))])[0]
                got = explainer.render({"": raw[i]}, (64, 64), 0.0)
                np.testing.assert_allclose(got, want, atol=2e-5)
                largest = max(largest, float(want.max()))
    finally:
        net.exact.requires_grad_(False)
        net.exact.zero_grad(set_to_none=True)
    assert largest > 0.5  # not all maps are zero: the comparison says something
    if name in ("gradcam", "hirescam"):
        assert (raw < 0).any()  # the sign is kept


@pytest.mark.parametrize("kind", ["net", "resnet"])
@pytest.mark.parametrize("name", [n for n in names("method") if n not in (*NULLS, "rise")])
def test_parity_with_the_library_on_both_networks(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    net = request.getfixturevalue(kind)
    found = compare(build(name), net, batch(2))
    assert found is not None
    if not found.holds:
        # Attributions that are small differences of outputs: whose last bits are nearer is a matter of the CPU's
        # kernels below what float32 can tell of such outputs.
        outputs = float(net.logits(batch(2).images).abs().max())
        largest = float(np.abs(explain_all(build(name), net, batch(2))[""]).max())
        assert found.our_error is not None, found
        assert found.our_error <= 4 * FLOAT32 * outputs / largest, found
    assert found.patches == 2


def test_parity_is_not_blind(net: Network) -> None:
    """A map that is off by a thousandth of its largest value does not pass."""

    class Off(resolve("method", "ig")):  # type: ignore[misc]
        def explain(self, net: Network, batch: Batch) -> Any:
            for i, found in super().explain(net, batch):
                found.raw[""].flat[7] += 1e-3 * np.abs(found.raw[""]).max()
                yield i, found

    explainer = Off(build("ig").options)
    found = compare(explainer, net, batch(2))
    assert found is not None
    assert not found.holds
    assert found.difference > 5e-4
    assert compare(Random(Random.Options()), net, batch(1)) is None


def test_lime_equals_the_library(net: Network) -> None:
    b = batch()
    raw = explain_all(build("lime", samples="200"), net, b)

    @torch.no_grad()
    def classify(images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
        return torch.softmax(net.exact(x), dim=1).double().numpy()

    r2 = [found.checks["r2"] for _, found in build("lime", samples="200").explain(net, b)]
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
                segmentation_fn=segmenter,
            )
        assert np.array_equal(raw["segments"][i], theirs.segments)
        assert theirs.segments.max() >= 3
        pairs = dict(theirs.local_exp[int(b.targets[i])])
        ours = raw["weights"][i]
        np.testing.assert_allclose(ours[: len(pairs)], [pairs[k] for k in range(len(pairs))], atol=1e-6)
        assert np.isnan(ours[len(pairs) :]).all()
        assert r2[i] == pytest.approx(theirs.score, abs=1e-4)
        _, mask = theirs.get_image_and_mask(int(b.targets[i]), positive_only=False, num_features=3, hide_rest=False)
        plane = build("lime").render({k: v[i] for k, v in raw.items()}, (64, 64), 0.0)
        assert np.array_equal(plane, np.abs(mask))


@pytest.mark.parametrize("width", [0.0, 1.5])
def test_lime_with_the_studys_equation_6_equals_the_library_called_with_it(width: float) -> None:
    """Equation 6: exp(-d^2 / width^2) of the L2 distance, where the library has a root, and cosine distance."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3)).eval()
    model[3].weight.data *= 40  # probabilities that change with the patch, so that weights are far above rounding
    net, b = Network(model, MICRO), batch(2)
    explainer = build("lime", kernel="l2", width=str(width))
    found = dict(explainer.explain(net, b))
    usual = explain_all(build("lime"), net, b)["weights"]

    @torch.no_grad()
    def classify(images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
        return torch.softmax(model(x), dim=1).double().numpy()

    def equation6(d: np.ndarray, kernel_width: float) -> np.ndarray:
        return np.exp(-(d**2) / kernel_width**2)

    for i in range(len(b)):
        segments, target = found[i].raw["segments"], int(b.targets[i])
        count = int(segments.max()) + 1
        lime = LimeImageExplainer(width or 0.75 * count**0.5, equation6, random_state=int(b.seeds[i]))
        theirs = lime.explain_instance(
            b.images[i].permute(1, 2, 0).double().numpy(),
            classify,
            labels=(target,),
            top_labels=None,
            num_samples=int(QUICK["lime"]["samples"]),
            segmentation_fn=lambda pixels, segments=segments: segments,
            distance_metric="euclidean",
        )
        want = np.array([value for _, value in sorted(theirs.local_exp[target])])
        ours = found[i].raw["weights"]
        assert (len(want), int(np.isfinite(ours).sum())) == (count, count)
        assert np.abs(want).max() > 1e-2
        np.testing.assert_allclose(ours[:count], want, atol=1e-6)
        assert found[i].checks["r2"] == pytest.approx(theirs.score, abs=1e-4)
        assert np.abs(want - usual[i][:count]).max() > 1e-4  # the kernel matters
    compared = compare(explainer, net, b)
    assert compared is not None
    assert compared.holds


def test_lime_sample_weights_in_closed_form() -> None:
    on = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_allclose(sample_weights(on, "l2", 2.0), np.exp([0, -2 / 4, -4 / 4]))
    np.testing.assert_allclose(sample_weights(on, "l2", 0.0), np.exp([0, -2 / 2.25, -4 / 2.25]))
    distance = np.array([0, 1 - 2 / (2 * 2**0.5), 1])
    np.testing.assert_allclose(sample_weights(on, "cosine", 0.0), np.exp(-(distance**2) / 0.0625 / 2))
    # the width of the cosine kernel leaves nothing but the unperturbed image to a Euclidean distance
    assert sample_weights(on, "l2", 0.25)[1] < 1e-13
    with pytest.raises(UsageError, match=r"0\.001 must be at least 0\.01, or 0"):
        build("lime", width="0.001")


def test_lime_positive_shows_the_highest_positive_weights() -> None:
    segments = np.arange(6, dtype=np.uint16).reshape(2, 3)
    weights = np.array([0.1, -0.9, 0.3, -0.2, 0.2, 0.0, np.nan, np.nan], np.float32)
    raw = {"segments": segments, "weights": weights}
    either, positive = build("lime"), build("lime", positive="true")
    # -0.2 and 0.2 are as strong: they share the third place
    assert either.render(raw, (2, 3), 0.0).tolist() == [[0, 1, 1], [0.5, 0.5, 0]]
    assert positive.render(raw, (2, 3), 0.0).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert build("lime", positive="true", top="2").render(raw, (2, 3), 0.0).tolist() == [[0, 0, 1], [0, 1, 0]]
    # no more than there are, and none of a patch without evidence for the class
    assert build("lime", positive="true", top="5").render(raw, (2, 3), 0.0).tolist() == [[1, 0, 1], [0, 1, 0]]
    against = raw | {"weights": -np.abs(weights)}
    assert positive.render(against, (2, 3), 0.0).sum() == 0
    np.testing.assert_allclose(positive.relevance(raw, (2, 3), "own"), [[0.1, 0, 0.3], [0, 0.2, 0]])
    np.testing.assert_allclose(either.relevance(raw, (2, 3), "own"), [[0.1, 0.9, 0.3], [0.2, 0.2, 0]])


def test_ties_share_the_places_that_are_left() -> None:
    cases = {
        (3, (0.1, 0.9, 0.3, 0.2)): (0, 1, 1, 1),
        (3, (0.5, 0.9, 0.5, 0.5)): (2 / 3, 1, 2 / 3, 2 / 3),
        (3, (0.2,) * 12): (0.25,) * 12,  # no contrast: a constant plane
        (3, (0.2, 0.2)): (1, 1),
        (1, (0.9, 0.9, 0.1)): (0.5, 0.5, 0),
        (3, (0.0, 0.4, 0.0, 0.0)): (0, 1, 0, 0),  # nothing is no evidence
        (3, (0.0,) * 5): (0,) * 5,
        (2, (-0.1, 0.4, -0.3)): (0, 1, 0),
    }
    for (top, strength), shares in cases.items():
        np.testing.assert_allclose(strongest(np.array(strength), top), shares, err_msg=str(strength))


@pytest.mark.parametrize("engine", ["explain", "explain_with_library"])
def test_lime_of_a_patch_of_one_colour_is_no_evidence(net: Network, engine: str) -> None:
    for grey in (0.0, 0.3, 200 / 255, 1.0):
        one_colour = Batch(torch.full((1, 3, 64, 64), grey), torch.tensor([1]), [3])
        lime = build("lime", max_dist="4")
        made = next(getattr(lime, engine)(net, one_colour))[1]
        count = int(made.raw["segments"].max()) + 1
        assert count > 3, grey
        assert (made.raw["weights"][:count] == 0).all()
        checks = lime.all_checks(made)
        assert (checks["constant"], checks["zero"]) == (1, 1)
        assert np.isnan(checks["r2"])
        assert not lime.render(made.raw, (64, 64), 0.0).any()
        assert not lime.relevance(made.raw, (64, 64), "own").any()
        assert not lime.signed(made.raw, (64, 64)).any()


def test_outputs_that_never_change_make_a_map_without_contrast(net: Network) -> None:
    black = Batch(torch.zeros(1, 3, 64, 64), torch.tensor([1]), [3])
    probability = float(torch.softmax(net.logits(black.images), dim=1)[0, 1])
    for name in ("occlusion", "kernelshap", "rise"):
        method = build(name)
        made = next(method.explain(net, black))[1]
        np.testing.assert_allclose(made.raw[""], probability if name == "rise" else 0, rtol=1e-6)
        assert method.all_checks(made)["constant"] == 1, name
        assert not method.render(made.raw, (64, 64), 0.0).any()
    rng = np.random.default_rng(0)
    outputs = 0.7 + 1e-7 * rng.random(50)
    assert is_same_output(outputs)
    assert is_same_output(np.zeros(3))
    assert not is_same_output(1e-20 * rng.random(50))  # an unlikely class is explained as any other
    assert not is_same_output(np.array([0.7, np.nan]))


@pytest.mark.parametrize("name", [n for n in names("method") if n != "lime"])
def test_maps_that_are_constant_below_rounding_are_constant(name: str) -> None:
    method, rng = build(name), np.random.default_rng(0)
    channels = getattr(method, "channels", 1)
    noise = (1 + 1e-6 * rng.random((channels, 64, 64))).astype(np.float32)
    for size in (1e-9, 1.0, 1e6):
        raw = {"": noise * np.float32(size)}
        assert np.ptp(raw[""]) > 0
        assert not method.render(raw, (64, 64), 0.0).any()
        assert np.ptp(method.relevance(raw, (64, 64), "own")) == 0
        assert np.ptp(method.signed(raw, (64, 64)), axis=(1, 2)).max() == 0
        assert method.all_checks(Map(raw))["constant"] == 1
        ordinary = {"": raw[""] + np.float32(size) * rng.random(noise.shape, np.float32)}
        assert level(ordinary[""]) is ordinary[""]
        assert method.render(ordinary, (64, 64), 0.0).max() > 0.99


def test_eigencam_of_activations_without_contrast_is_zero() -> None:
    rng = np.random.default_rng(0)
    flat = rng.random((1, 8, 1, 1)) * (1 + 1e-6 * rng.random((1, 8, 5, 5)))
    read = build("eigencam").read  # type: ignore[attr-defined]
    assert (read(torch.from_numpy(flat.astype(np.float32)), None) == np.zeros((1, 1, 5, 5))).all()
    flat[0, 3, 2, 2] += 1
    assert np.unravel_index(np.abs(read(torch.from_numpy(flat.astype(np.float32)), None)).argmax(), (5, 5)) == (2, 2)


def test_options_that_came_later_are_on_record_only_where_they_differ() -> None:
    first = {
        "samples": 500,
        "top": 3,
        "kernel_size": 4.0,
        "max_dist": 200.0,
        "ratio": 0.2,
        "segments": "quickshift",
        "stability": False,
    }
    options = resolve("method", "lime").Options
    assert recorded_options(options()) == first
    changed = options(kernel="l2", positive=True)
    assert recorded_options(changed) == {**first, "kernel": "l2", "positive": True}
    assert options(**first) == options()


def test_lime_quickshift_defaults_are_the_librarys() -> None:
    # the default segmentation of lime_image.explain_instance: quickshift(4, 200, 0.2)
    o = resolve("method", "lime").Options()
    assert (o.kernel_size, o.max_dist, o.ratio, o.samples, o.top) == (4, 200, 0.2, 500, 3)


def test_mean_colours_are_limes_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    image, segments = rng.random((40, 30, 3)), rng.integers(0, 9, (40, 30))
    want = image.copy()
    for k in np.unique(segments):
        want[segments == k] = [np.mean(image[segments == k][:, c]) for c in range(3)]
    assert np.array_equal(mean_colours(image, segments), want)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_threads_make_ahead_comes_in_order_and_no_more_of_it_than_is_needed(threads: int) -> None:
    made: list[int] = []

    def make(i: int) -> int:
        made.append(i)
        return i * i

    assert list(compute_ahead(make, [(i,) for i in range(7)], threads)) == [i * i for i in range(7)]
    assert sorted(made) == list(range(7))
    made.clear()
    some = compute_ahead(make, ((i,) for i in range(100)), threads)
    next(some)
    some.close()  # type: ignore[attr-defined]
    assert len(made) <= threads + 1
    with pytest.raises(ZeroDivisionError):
        list(compute_ahead(lambda i: 1 // (3 - i), [(i,) for i in range(7)], threads))


def test_worker_processes_segment_as_threads_do(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lime", "kernelshap"):
        want = explain_all(build(name), net, batch())
        module = sys.modules[type(build(name)).__module__]
        with monkeypatch.context() as patched:
            patched.setattr(module, "segmenting", lambda net: (2, True))
            found = explain_all(build(name), net, batch())
        for part, values in want.items():
            assert values.tobytes() == found[part].tobytes()


def test_a_killed_worker_process_is_said() -> None:
    with pytest.raises(HistoxaiError, match="a process that segments patches was killed"):
        list(compute_ahead(os._exit, [(9,)], 1, processes=True))
    superpixels._worker_processes.cache_clear()


def test_nuclei_are_segments_of_their_own() -> None:
    superpixels = np.zeros((8, 8), int)
    superpixels[:, 4:] = 1
    nuclei = np.zeros((2, 8, 8), np.float32)
    nuclei[0, 1:3, 1:3] = nuclei[0, 5:7, 3:6] = 0.9  # two tumor nuclei, the second across both superpixels
    nuclei[1, 1:3, 6:8] = 0.8
    found = with_nuclei(superpixels, nuclei)
    want = np.zeros((8, 8), int)
    want[:, 4:] = 1
    want[1:3, 1:3], want[5:7, 3:6], want[1:3, 6:8] = 2, 3, 4
    assert np.array_equal(found, want)


def test_lime_with_nuclei_and_a_second_seed(net: Network) -> None:
    b = batch(2)
    nuclei = np.zeros((2, 2, 64, 64), np.float32)
    nuclei[:, 0, 10:20, 10:20] = 1
    b = Batch(b.images, b.targets, b.seeds, nuclei)
    explainer = build("lime", segments="nuclei", stability="true", samples="300")
    maps = dict(explainer.explain(net, b))
    for i in range(2):
        inside = np.unique(maps[i].raw["segments"][10:20, 10:20])
        assert len(inside) == 1
        assert (maps[i].raw["segments"] == inside[0]).sum() == 100
        assert 0.3 < maps[i].checks["stability"] <= 1
    with pytest.raises(InputRefused, match="name it with --masks"):
        explain_all(build("lime", segments="nuclei"), net, batch(1))


# ---- closed forms


def test_a_linear_network_gives_weight_times_input() -> None:
    net, weight = linear()
    x = torch.rand(2, 3, 8, 8)
    b = Batch(x, torch.tensor([0, 2]), [0, 0])
    w = weight[[0, 2]]
    for name in ("ig", "ixg", "deeplift", "gradshap", "lrp"):
        options = {"level": "0"} if name == "gradshap" else {}
        np.testing.assert_allclose(explain_all(build(name, **options), net, b)[""], (w * x).numpy(), atol=2e-6)
    np.testing.assert_allclose(explain_all(build("saliency"), net, b)[""], w.numpy(), atol=1e-7)
    np.testing.assert_allclose(explain_all(build("guided"), net, b)[""], w.numpy(), atol=1e-7)
    noiseless = explain_all(build("smoothgrad", level="0", stdev="0"), net, b)[""]
    np.testing.assert_allclose(noiseless, w.numpy(), atol=1e-6)
    for name in ("ig", "deeplift", "gradshap"):
        grey = explain_all(build(name, baseline="0.5", **({"level": "0"} if name == "gradshap" else {})), net, b)[""]
        np.testing.assert_allclose(grey, (w * (x - 0.5)).numpy(), atol=2e-6)


def test_occlusion_of_a_linear_network_is_what_the_square_held() -> None:
    net, weight = linear()
    x = torch.rand(1, 3, 8, 8)
    got = explain_all(build("occlusion", window="4", stride="4"), net, Batch(x, torch.tensor([1]), [0]))[""][0, 0]
    held = (weight[1] * x[0]).sum(dim=0)
    want = held.view(2, 4, 2, 4).sum(dim=(1, 3)).repeat_interleave(4, 0).repeat_interleave(4, 1)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


def test_shapley_values_of_a_linear_network_are_what_each_superpixel_holds() -> None:
    net, weight = linear(16)
    x = torch.zeros(1, 3, 16, 16)
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])
    for k, (row, column) in enumerate(itertools.product((0, 8), (0, 8))):
        x[0, :, row : row + 8, column : column + 8] = colours[k][:, None, None]
    b = Batch(x, torch.tensor([1]), [3])
    explainer = build("kernelshap", samples="200", max_dist="5", kernel_size="1")
    segments = explainer.segment(x[0].permute(1, 2, 0).numpy())  # type: ignore[attr-defined]
    got = explain_all(explainer, net, b)[""][0, 0]
    assert 3 < segments.max() + 1 <= 40
    held = (weight[1] * x[0]).sum(dim=0).numpy()
    for k in range(segments.max() + 1):
        assert np.ptp(got[segments == k]) == 0
        assert got[segments == k][0] == pytest.approx(held[segments == k].sum(), abs=2e-3)


def test_rise_finds_the_only_pixel_that_counts() -> None:
    class Spot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(4.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            spot = x[:, 0, 20, 44] * self.scale
            return torch.stack([spot, -spot], dim=1)

    b = Batch(torch.ones(1, 3, 64, 64), torch.tensor([0]), [1])
    got = explain_all(build("rise", masks="2000"), Network(Spot(), MICRO), b)[""][0, 0]
    peak = np.unravel_index(got.argmax(), got.shape)
    assert abs(int(peak[0]) - 20) <= 4
    assert abs(int(peak[1]) - 44) <= 4
    # far away a mask says nothing: the mean probability, whatever is seen there
    assert got[60, 4] < 0.95 * got.max()


def test_rise_masks_leave_pixels_visible_as_often_as_asked() -> None:
    from histoxai.explain.methods.rise import Options, RandomMasks

    for share in (0.3, 0.5):
        drawn = RandomMasks(np.random.default_rng(0), Options(masks=3000, share=share), torch.zeros(3, 64, 48))
        masks = torch.stack([drawn.mask(i) for i in range(3000)])
        assert masks.shape == (3000, 1, 64, 48)
        assert float(masks.min()) >= 0
        assert float(masks.max()) <= 1
        np.testing.assert_allclose(masks.mean(dim=0)[0].numpy(), share, atol=0.05)


def test_null_models() -> None:
    b, nothing = batch(2), Network(nn.Linear(1, 1), MICRO)
    x = b.images.permute(0, 2, 3, 1).numpy().astype(np.float64)
    pixels = explain_all(build("random"), nothing, b)[""]
    assert np.corrcoef(pixels[0, 0, :, :-1].ravel(), pixels[0, 0, :, 1:].ravel())[0, 1] < 0.1
    assert not np.array_equal(pixels[0], pixels[1])
    assert abs(pixels.mean() - 0.5) < 0.02
    smooth = explain_all(build("random", sigma="6"), nothing, b)[""]
    assert np.corrcoef(smooth[0, 0, :, :-1].ravel(), smooth[0, 0, :, 1:].ravel())[0, 1] > 0.95
    center = explain_all(build("center"), nothing, b)[""][0, 0]
    y, x_ = np.mgrid[:64, :64] + 0.5
    want = np.exp(-(((y / 64 - 0.5) ** 2 + (x_ / 64 - 0.5) ** 2) / (2 * 0.25**2)))
    np.testing.assert_allclose(center, want, atol=1e-6)
    edges = explain_all(build("edges"), nothing, b)[""][:, 0]
    step = np.zeros((8, 8, 3))
    step[:, 4:] = 1
    of_step = build("edges").plane(step, 0)  # type: ignore[attr-defined]
    assert of_step[4, 4] == pytest.approx(1 / np.sqrt(2), abs=1e-6)
    assert of_step[4, 1] == 0
    assert edges.min() >= 0
    stain = explain_all(build("hematoxylin"), nothing, b)[""][:, 0]
    dark = x.mean(axis=3) < 0.5
    assert stain[dark].mean() > 2 * stain[~dark].mean()


# ---- the contract


@pytest.mark.parametrize("name", names("method"))
def test_contract(name: str, net: Network) -> None:
    explainer, b = build(name), batch(5)
    assert explainer.name == name
    assert explainer.label
    assert explainer.family in FAMILIES
    weights = {k: v.clone() for k, v in net.exact.state_dict().items()}
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    specs = explainer.raw_specs(net, (64, 64))
    first, again = explain_all(explainer, net, b), explain_all(explainer, net, b)
    assert first.keys() == specs.keys()
    for part, spec in specs.items():
        assert first[part].shape == (5, *spec.shape)
        assert first[part].dtype == np.dtype(spec.dtype)
        assert np.array_equal(first[part], again[part], equal_nan=True)
        values = first[part] if not np.isnan(spec.fill) else first[part][~np.isnan(first[part])]
        assert np.isfinite(values).all()
        assert np.ptp(values) > 0
    # the same bytes for a patch wherever it stands in a batch, and whoever stands beside it
    turned = Batch(b.images[[4, 1]], b.targets[[4, 1]], [b.seeds[4], b.seeds[1]])
    moved = explain_all(explainer, net, turned)
    for part in specs:
        assert moved[part][0].tobytes() == first[part][4].tobytes()
        assert moved[part][1].tobytes() == first[part][1].tobytes()
    plane = explainer.render({k: v[0] for k, v in first.items()}, (64, 64), 0.0)
    assert plane.shape == (64, 64)
    assert plane.min() >= 0
    assert 0 < plane.max() <= 1
    for i, found in explainer.explain(net, b):
        checks = explainer.all_checks(found)
        assert set(checks) <= {*explainer.COMMON_CHECKS, *explainer.checks}
        assert (checks["constant"], checks["zero"]) == (0, 0), i
        assert 0 <= checks["negative_share"] <= 1
    for module in net.exact.modules():
        assert not any((module._forward_hooks, module._backward_hooks, module._forward_pre_hooks))
    assert all(p.grad is None for p in net.exact.parameters())
    assert all(torch.equal(v, weights[k]) for k, v in net.exact.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("name", ["nt", "lime", "smoothgrad", "gradshap", "kernelshap", "rise", "random"])
def test_seeds_change_what_is_random(name: str, net: Network) -> None:
    b = batch(1)
    one, two = (explain_all(build(name), net, Batch(b.images, b.targets, [seed])) for seed in (1, 99))
    part = "weights" if name == "lime" else ""
    assert not np.array_equal(one[part], two[part], equal_nan=True)


class _Breaks(nn.Module):
    """A network that fails behind its convolution, once `left` passes have gone well."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4 * 62 * 62, 3)
        self.left = left

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.conv(x))
        if self.left == 0:
            raise RuntimeError("in mid-run")
        self.left -= 1
        return self.head(x.flatten(1))


@pytest.mark.parametrize("name", [n for n in names("method") if n not in (*NULLS, "guided", "deeplift", "lrp")])
@pytest.mark.parametrize("left", [0, 1])
def test_hooks_are_gone_after_a_failure(name: str, left: int) -> None:
    broken = Network(_Breaks(left if name not in CAMS or name == "scorecam" else 0), 4)
    with pytest.raises(RuntimeError, match="in mid-run"):
        explain_all(build(name), broken, batch(9))
    for module in broken.exact.modules():
        assert not any((module._forward_hooks, module._backward_hooks, module._forward_pre_hooks))


class _Decides(nn.Module):
    """A network whose path depends on its inputs, which no tracing can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4 * 62 * 62, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.head((self.relu(x) if x.sum() > 0 else x).flatten(1))


@pytest.mark.parametrize("name", ["guided", "deeplift", "lrp"])
def test_networks_that_cannot_be_unrolled_are_refused_and_left_alone(name: str) -> None:
    network, explainer = Network(_Decides(), 4), build(name)
    with pytest.raises(InputRefused, match=f"{name}: the network cannot be unrolled"):
        explainer.raw_specs(network, (64, 64))
    for module in network.exact.modules():
        assert not any((module._forward_hooks, module._backward_hooks, module._forward_pre_hooks))


@pytest.mark.parametrize("name", ["guided", "deeplift", "lrp"])
@pytest.mark.parametrize("engine", ["explain", "explain_with_library"])
def test_methods_that_take_a_network_apart_only_touch_a_copy(name: str, engine: str, net: Network) -> None:
    wrong = Batch(batch(1).images, torch.tensor([99]), [0])  # in mid-run: there is no such class
    with pytest.raises((IndexError, AssertionError, RuntimeError)):
        list(getattr(build(name), engine)(net, wrong))
    for module in net.exact.modules():
        assert not any((module._forward_hooks, module._backward_hooks, module._forward_pre_hooks))
        assert not hasattr(module, "rule")


def test_the_unrolled_network_computes_the_same(net: Network, resnet: Network) -> None:
    x = batch(4).images
    for one in (net, resnet):
        copied = unrolled(one.exact, "lrp")
        with torch.no_grad():
            assert torch.equal(copied(x), one.exact(x))
        used = [n.target for n in copied.graph.nodes if n.op == "call_module"]
        assert len(used) == len(set(used))
        assert not any(getattr(m, "inplace", False) for m in copied.modules())


def test_methods_share_one_pass_without_a_bit_of_difference(net: Network) -> None:
    b = batch(20)
    methods = {n: build(n) for n in names("method") if isinstance(build(n), SinglePass)}
    assert len(methods) >= 7
    parts = list(run_single_pass(net, methods, b.images, b.targets))  # type: ignore[arg-type]
    for name, method in methods.items():
        shared = np.concatenate([p.raw[name] for p in parts])
        assert shared.tobytes() == explain_all(method, net, b)[""].tobytes()
    logits = np.concatenate([p.logits for p in parts])
    images = np.round(b.images.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    assert logits.tobytes() == predict_patches(net.exact, images, MICRO, net.device)["logits"].tobytes()
    alone = np.concatenate([p.logits for p in run_single_pass(net, {}, b.images, None)])
    assert logits.tobytes() == alone.tobytes()
    predicted = np.concatenate([p.targets for p in run_single_pass(net, {}, b.images, None)])
    assert np.array_equal(predicted, logits.argmax(axis=1))


def test_a_layer_that_is_overwritten_in_place_is_read_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    plain = nn.Sequential(model[0], nn.ReLU(), *model[2:])
    b = batch(2)
    one, two = (explain_all(build("gradcam"), Network(m, 4), b)[""] for m in (model, plain))
    assert np.array_equal(one, two)
    assert (one < 0).any()


# ---- steps that suffice


def test_ig_steps_auto_stops_at_the_completeness_error_asked_for(net: Network) -> None:
    b = batch(2)
    for tolerance in ("0.5", "0.001"):
        maps = dict(build("ig", steps="auto", tolerance=tolerance).explain(net, b))
        assert sorted(maps) == [0, 1]
        for i in range(2):
            checks, alone = maps[i].checks, Batch(b.images[i : i + 1], b.targets[i : i + 1], b.seeds[i : i + 1])
            assert checks["completeness_error"] <= float(tolerance) or checks["steps"] == 512
            if checks["steps"] > 16:  # half as many did not do
                half = dict(build("ig", steps=str(int(checks["steps"]) // 2)).explain(net, alone))[0]
                assert half.checks["completeness_error"] > float(tolerance)
            same = dict(build("ig", steps=str(int(checks["steps"]))).explain(net, alone))[0]
            assert np.array_equal(same.raw[""], maps[i].raw[""])
    with torch.no_grad():
        rise = net.exact(b.images) - net.exact(torch.zeros_like(b.images))
    total = maps[0].raw[""].sum(dtype="f8")
    want = abs(total - float(rise[0, 0])) / abs(float(rise[0, 0]))
    assert maps[0].checks["completeness_error"] == pytest.approx(want, abs=1e-4)


# ---- bounded memory


def test_out_of_memory_halves_the_micro_batch_and_goes_on(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    small = Network(net.exact, MICRO, on_halving=told.append)
    whole, call = (
        {n: explain_all(build(n), net, batch(5)) for n in ("ig", "lime", "gradcam", "kernelshap")},
        small.module,
    )

    def tight(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(x)

    monkeypatch.setattr(small, "_forward", tight)
    monkeypatch.setattr(small, "module", tight)
    for name, want in whole.items():
        got = explain_all(build(name), small, batch(5))
        for part, values in want.items():
            # other batches, other last bits, of outputs up to 1
            np.testing.assert_allclose(got[part], values, atol=max(1e-5 * np.nanmax(np.abs(values)), FLOAT32))
    assert told == [8, 4]
    assert (small.full_micro_batch, small.micro_batch) == (MICRO, 4)


def test_out_of_memory_with_a_single_patch_is_said(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    none = Network(net.exact, 2)

    def full(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(none, "module", full)
    monkeypatch.setattr(none, "_forward", full)
    with pytest.raises(HistoxaiError, match="out of memory on cpu with a single patch in a pass"):
        explain_all(build("ig"), none, batch(1))


def test_the_largest_micro_batch_that_fits() -> None:
    tried: list[int] = []

    def fits(n: int) -> bool:
        tried.append(n)
        return n <= 100

    assert largest_that_fits(fits) == 64
    assert tried == [256, 128, 64]
    assert largest_that_fits(lambda n: False) == 16


# ---- precision, untrained networks


def test_bfloat16_is_close_and_keeps_its_statistics(resnet: Network) -> None:
    from scipy.stats import spearmanr

    low, b = Network(resnet.exact, MICRO, "bf16"), batch(3)
    kinds = {type(m).__name__: {p.dtype for p in m.parameters(recurse=False)} for m in low.body.modules()}
    assert kinds["Conv2d"] == kinds["Linear"] == {torch.bfloat16}
    assert kinds["BatchNorm2d"] == {torch.float32}
    assert next(resnet.exact.parameters()).dtype == torch.float32
    for name in ("ig", "gradcam", "occlusion"):
        one, two = (explain_all(build(name), n, b)[""] for n in (resnet, low))
        assert one.dtype == two.dtype == np.float32
        assert not np.array_equal(one, two)
        for i in range(3):
            assert spearmanr(one[i].ravel(), two[i].ravel()).statistic > 0.9, name
    with low.in_fp32() as exact:
        assert np.array_equal(explain_all(build("ig"), exact, b)[""], explain_all(build("ig"), resnet, b)[""])


def test_a_layer_that_is_used_several_times_is_read_at_its_first_use(net: Network) -> None:
    for name in ("gradcam", "layercam", "scorecam"):
        found = compare(build(name, layer="pool"), net, batch(2))
        assert found is not None
        assert found.holds


def test_gradcam_reads_conv3_after_its_relu(net: Network) -> None:
    """The study's CNN has one ReLU for all; its third use is that of conv3."""
    b, calls = batch(2), []

    def keep(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        output.retain_grad()
        calls.append((inputs[0], output))

    handle = net.exact.relu.register_forward_hook(keep)  # type: ignore[union-attr, operator]
    conv = []
    other = net.exact.conv3.register_forward_hook(lambda *a: conv.append(a[2]))  # type: ignore[union-attr, operator]
    try:
        net.exact(b.images.clone().requires_grad_()).gather(1, b.targets[:, None]).sum().backward()
    finally:
        handle.remove()
        other.remove()
    before, after = calls[2]
    assert torch.equal(before, conv[0])
    assert torch.equal(after, conv[0].clamp(min=0))
    want = (after.grad.mean(dim=(2, 3), keepdim=True) * after).sum(dim=1, keepdim=True).detach().numpy()
    explainer = build("gradcam", layer="relu:3")
    got = explain_all(explainer, net, b)[""]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    plain = explain_all(build("gradcam"), net, b)[""]
    assert plain.shape == got.shape
    assert np.abs(plain - got).max() > 0.01 * np.abs(got).max()
    assert explainer.raw_specs(net, (64, 64))[""].shape == got.shape[1:]
    for name in ("gradcam", "layercam", "scorecam"):
        found = compare(build(name, layer="relu:3"), net, b)
        assert found is not None
        assert found.holds, name
    # with methods that read other layers, in one pass
    shared = {"a": explainer, "b": build("gradcam"), "c": build("gradcam", layer="relu"), "d": build("saliency")}
    part = next(run_single_pass(net, shared, b.images, b.targets))
    np.testing.assert_allclose(part.raw["a"], got, atol=1e-5 * np.abs(got).max())
    np.testing.assert_allclose(part.raw["b"], plain, atol=1e-5 * np.abs(plain).max())
    assert part.raw["c"].shape[2:] == (62, 62)


def test_unrolling_keeps_sums_that_are_no_plain_sums_and_turns_functions_into_layers() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.add(x, self.conv(x).relu(), alpha=2)
            return (y.add(x) + torch.relu(y)).mean(dim=(2, 3))

    odd, x = Odd().eval(), batch(2).images
    copied = unrolled(odd, "guided")
    with torch.no_grad():
        assert torch.equal(copied(x), odd(x))
    assert sum(isinstance(m, nn.ReLU) for m in copied.modules()) == 2


def test_random_weights_are_those_of_the_seed(net: Network) -> None:
    one, again, other = (reinitialised(net.exact, s) for s in (1, 1, 2))
    for (name, a), b, c, old in zip(
        one.named_parameters(), again.parameters(), other.parameters(), net.exact.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        if a.ndim > 1:
            assert not torch.equal(a, c), name
            assert not torch.equal(a, old), name
    assert torch.equal(one.norm1.running_mean, torch.zeros(16))  # type: ignore[union-attr, arg-type]


# ---- what is refused


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
    assert (min_max(np.array([1.0, 1.0 + 1e-6]), 0.0) == 0).all()  # below rounding
    assert min_max(np.array([1.0, 1.0 + 1e-4]), 0.0).tolist() == [0, 1]
    assert min_max(np.array([0.0, 1e-30]), 0.0).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        (("ig",), ("ig.stepz=3",), "no such option; ig has steps, baseline"),
        (("ig",), ("ig.steps=many",), "many must be at least 1, or auto"),
        (("ig",), ("ig.steps=-3",), "-3 must be at least 1, or auto"),
        (("ig",), ("nt.steps=3",), "'nt' is not among the methods ig"),
        (("ig",), ("steps=3",), "expected NAME.OPTION=VALUE"),
        (("nt",), ("nt.steps=0",), "must be at least 1"),
        (("nt",), ("nt.samples=some",), "expected a value of type int"),
        (("nt",), ("nt.kind=other",), "not one of smoothgrad"),
        (("lime",), ("lime.stability=maybe",), "expected a value of type bool"),
        (("saliency2",), (), "unknown method 'saliency2'; known: ig"),
        (("predictions=ig",), (), "cannot be a name"),
        (("a/b=ig",), (), "cannot be a name"),
    ],
)
def test_bad_methods_and_options(methods: tuple[str, ...], options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_explainers(methods, options)


def test_one_method_under_two_names() -> None:
    made = make_explainers(("ig", "ig300=ig"), ("ig300.steps=300",))
    assert {n: (m, e.options.steps) for n, (m, e) in made.items()} == {"ig": ("ig", 100), "ig300": ("ig", 300)}


def test_every_method_is_listed_with_paper_and_cost() -> None:
    rows = {row["method"]: row for row in method_rows()}
    assert list(rows) == names("method")
    assert all(row["what"] and row["source"] and row["passes"] for row in rows.values())
    assert rows["nt"]["passes"] == "250 forward + backward"
    assert rows["ig"]["options"]["steps"] == 100
    assert rows["occlusion"]["passes"] == "226 forward at 256 px"


def test_gradcam_layer_of_the_study_is_conv3_before_its_relu(net: Network) -> None:
    assert find_layer(net.exact, "") is net.exact.conv3
    assert isinstance(find_layer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), ""), nn.Conv2d)


def test_unsuitable_networks_and_layers(net: Network) -> None:
    with pytest.raises(UsageError, match="its convolutions: conv1, conv2, conv3"):
        build("gradcam", layer="conv9").raw_specs(net, (64, 64))
    with pytest.raises(UsageError, match=r"-O gradcam.layer=relu:99: gives no \(n, channels, h, w\) activation"):
        build("gradcam", layer="relu:99").raw_specs(net, (64, 64))
    with pytest.raises(UsageError, match=r"-O gradcam\.layer=relu:third: no such layer"):
        build("gradcam", layer="relu:third").raw_specs(net, (64, 64))
    with pytest.raises(UsageError, match=r"-O layercam.layer=head: gives no \(n, channels, h, w\) activation"):
        build("layercam", layer="head").raw_specs(net, (64, 64))
    flat = linear(64)[0]
    for name in CAMS:
        with pytest.raises(InputRefused, match=f"{name}: the network has no convolution"):
            build(name).raw_specs(flat, (64, 64))
    odd = Network(nn.Sequential(nn.Conv2d(3, 2, 3), nn.LayerNorm(62), nn.Flatten(), nn.Linear(2 * 62 * 62, 3)), 4)
    for name in ("lrp", "deeplift"):
        with pytest.raises(InputRefused, match=rf"{name}: this network has a step that it has no rule for \(LayerNorm"):
            build(name).raw_specs(odd, (64, 64))
    with pytest.raises(UsageError, match="20 must be at most the window, 16"):
        build("occlusion", window="16", stride="20")
    with pytest.raises(InputRefused, match="squares of 80 px do not fit patches of 64 x 64"):
        build("occlusion", window="80", stride="16").raw_specs(net, (64, 64))


def test_kernelshap_of_a_blank_patch_is_all_of_the_difference(net: Network) -> None:
    grey = Batch(torch.full((1, 3, 64, 64), 0.5), torch.tensor([1]), [0])
    made = explain_all(build("kernelshap", max_dist="200", kernel_size="30"), net, grey)[""]
    rise = net.logits(grey.images)[0, 1] - net.logits(torch.zeros_like(grey.images))[0, 1]
    assert made.shape == (1, 1, 64, 64)
    # a small difference of two outputs, each known to its last bit
    largest = float(net.logits(grey.images).abs().max())
    np.testing.assert_allclose(made, float(rise), rtol=1e-5, atol=2 * FLOAT32 * largest)
