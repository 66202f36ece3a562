"""Training-time augmentation: what each transform does to values, and that only its key decides about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import hed2rgb, rgb2hed
from torchvision import tv_tensors
from torchvision.transforms import v2

from histoxai.core.errors import UsageError
from histoxai.core.provenance import keyed_seed
from histoxai.settings import Augmentation
from histoxai.settings.train import augmentation_text, parse_augmentation
from histoxai.train.augmentation import Augmenter, Crop, HedJitter, Noise, augmenter, from_stains, to_stains
from tests.conftest import Mini, done, patch, run

IDS = [f"scan/p#{i}" for i in range(12)]
STRONG = parse_augmentation("strong")
ALL = parse_augmentation("strong,crop,noise")
assert STRONG is not None
assert ALL is not None


def tissue(n: int = 12, width: int = 64) -> torch.Tensor:
    rng = np.random.default_rng(0)
    images = np.stack([patch(rng, 2)[0][:, :width] for _ in range(n)])
    return torch.from_numpy(images.astype(np.float32) / 255).permute(0, 3, 1, 2)


def labels(n: int = 12) -> torch.Tensor:
    return torch.arange(n)


def drawn(epoch: int, patch_id: str, seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(keyed_seed(seed, "augment", epoch, patch_id, bits=63))


def test_flips_are_those_that_the_key_draws() -> None:
    images = tissue()
    made, kept = Augmenter(Augmentation(flips=True), 0)(images, labels(), 3, IDS)
    seen = set()
    for image, out, name in zip(images, made, IDS, strict=True):
        choice = drawn(3, name)
        across, down = (bool(torch.rand(1, generator=choice) < 0.5) for _ in range(2))
        axes = [-1] * across + [-2] * down
        assert torch.equal(out, torch.flip(image, axes))
        seen.add((across, down))
    assert len(seen) == 4
    assert torch.equal(kept, labels())


def test_quarter_turns_are_exact_and_oblong_patches_are_turned_by_half() -> None:
    images = tissue()
    made, _ = Augmenter(Augmentation(rotations=True), 0)(images, labels(), 0, IDS)
    turns = [int(torch.randint(4, (), generator=drawn(0, name))) for name in IDS]
    assert set(turns) == {0, 1, 2, 3}
    for image, out, k in zip(images, made, turns, strict=True):
        assert torch.equal(out, torch.rot90(image, k, (1, 2)))
    oblong = tissue(width=40)
    made, _ = Augmenter(Augmentation(rotations=True), 0)(oblong, labels(), 0, IDS)
    for image, out, k in zip(oblong, made, turns, strict=True):
        assert torch.equal(out, torch.rot90(image, k // 2 * 2, (1, 2)))


def test_masks_move_with_their_images_and_keep_their_values() -> None:
    images = tissue()
    masks = torch.stack([(images[:, 0] < 0.5).float(), (images[:, 0] >= 0.5).float()], 1)
    made, moved = Augmenter(Augmentation(flips=True, rotations=True), 5)(images, masks, 1, IDS)
    assert torch.equal(moved[:, 0], (made[:, 0] < 0.5).float())
    assert torch.equal(moved[:, 1], (made[:, 0] >= 0.5).float())
    assert not torch.equal(moved, masks)
    looks = Augmentation(colour=0.3, hed=0.2, blur=2, erase=0.2)
    made, kept = Augmenter(looks, 5)(images, masks, 1, IDS)
    assert torch.equal(kept, masks)
    assert not torch.equal(made, images)


def test_stains_are_those_of_scikit_image() -> None:
    image = tissue(1)[0]
    last = image.permute(1, 2, 0).numpy().astype(np.float64)
    stains = to_stains(image)
    np.testing.assert_allclose(stains.clamp(min=0).permute(1, 2, 0), rgb2hed(last), atol=1e-6)
    some = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.1
    np.testing.assert_allclose(
        from_stains(some).permute(1, 2, 0), hed2rgb(some.permute(1, 2, 0).numpy().astype(np.float64)), atol=1e-6
    )


def test_stain_jitter_of_no_strength_changes_nothing_and_of_some_what_tellez_says() -> None:
    image = tissue(1)[0]
    np.testing.assert_allclose(HedJitter(0)(image), image, atol=1e-5)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        made = HedJitter(0.05)(image)
        torch.default_generator.manual_seed(7)
        a, b = torch.empty(2, 3, 1, 1).uniform_(-0.05, 0.05)
    assert a.abs().max() <= 0.05
    # b is an optical density, log10: scikit-image's amounts count the six decades down to 1e-6 as one
    expected = to_stains(image) * (1 + a) + b / 6
    np.testing.assert_allclose(made, from_stains(expected), atol=1e-5)
    assert (made - image).abs().max() > 0.01


def test_colour_blur_and_covers_are_torchvisions() -> None:
    images = tissue(6)
    for text, transform in (
        ("colour=0.3", v2.ColorJitter(0.3, 0.3, 0.3, 0.075)),
        ("blur=1.5", v2.RandomApply([v2.GaussianBlur(7, (0.1, 1.5))], 0.5)),
        ("erase=0.2", v2.RandomErasing(0.5, (0.02, 0.2), (0.5, 2.0), 0.5)),
    ):
        chosen = parse_augmentation(text)
        assert chosen is not None
        made, _ = Augmenter(chosen, 0)(images, labels(6), 0, IDS[:6])
        assert not torch.equal(made, images)
        for image, out, name in zip(images, made, IDS, strict=False):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(keyed_seed(0, "augment", 0, name, bits=63))
                np.testing.assert_allclose(out, transform(image).clamp(0, 1), atol=1e-6)


def test_a_crop_is_the_part_that_the_key_draws_scaled_up() -> None:
    images, made = tissue(), Augmenter(Augmentation(crop=0.5), 0)(tissue(), labels(), 2, IDS)[0]
    ramp = ((torch.arange(64) + 0.5) / 64).expand(12, 3, 64, 64)  # rises to the right
    slope = Augmenter(Augmentation(crop=0.5), 0)(ramp, labels(), 2, IDS)[0]
    sides = set()
    for image, out, line, name in zip(images, made, slope, IDS, strict=True):
        choice = drawn(2, name)
        k = round(64 * (1 - float(torch.empty(()).uniform_(0, 0.5, generator=choice))))
        top, left = (int(torch.randint(64 - k + 1, (), generator=choice)) for _ in range(2))
        part = image[:, top : top + k, left : left + k].numpy()
        np.testing.assert_allclose(out, enlarged(part, 64), atol=1e-5)
        # a straight line stays one: pixel x shows the place left + (x + 1/2) k / 64, but for half a pixel at the ends
        place = (left + ((torch.arange(64) + 0.5) * k / 64).clamp(0.5, k - 0.5)) / 64
        np.testing.assert_allclose(line[0], place.expand(64, 64), atol=1e-6)
        sides.add(k)
    assert len(sides) > 6
    assert min(sides) >= 32


def enlarged(part: np.ndarray, side: int) -> np.ndarray:
    """Bilinear interpolation written out: pixel centres at 1/2, the border repeated."""
    k = part.shape[-1]
    at = np.clip((np.arange(side) + 0.5) * k / side - 0.5, 0, k - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, k - 1), at - low
    rows = part[:, low] * (1 - share)[None, :, None] + part[:, high] * share[None, :, None]
    return rows[:, :, low] * (1 - share) + rows[:, :, high] * share


def test_crops_of_the_whole_change_nothing_and_of_half_repeat_pixels() -> None:
    image = tv_tensors.Image(tissue(1)[0])
    mask = tv_tensors.Mask((image[:2] < 0.5).float())
    for got, given in zip(Crop(0.0)(image, mask), (image, mask), strict=True):
        assert torch.equal(got, given)
    half = {"rows": slice(10, 42), "columns": slice(3, 35)}
    got = Crop(0.5).transform(mask, half)
    assert isinstance(got, tv_tensors.Mask)
    assert torch.equal(got, mask[:, 10:42, 3:35].repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_masks_are_cropped_with_their_images_and_keep_their_values() -> None:
    # a dark stripe: where the cropped image is dark, the cropped mask is 1
    dark = torch.zeros(12, 64, 64)
    for k in range(12):
        stripe = dark[k] if k % 2 else dark[k].T
        stripe[20 + k : 40 + k] = 1
    images, masks = (1 - dark[:, None]).repeat(1, 3, 1, 1), torch.stack([dark, 1 - dark], 1)
    made, moved = Augmenter(Augmentation(crop=0.4, flips=True), 0)(images, masks, 1, IDS)
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(moved[:, 0] + moved[:, 1], torch.ones(12, 64, 64))
    sure = (made[:, 0] - 0.5).abs() > 1e-5
    assert sure.float().mean() > 0.98
    assert torch.equal((made[:, 0] < 0.5)[sure], (moved[:, 0] == 1)[sure])
    assert not torch.equal(moved, masks)
    oblong = tissue(width=40)
    made, _ = Augmenter(Augmentation(crop=0.4), 0)(oblong, labels(), 0, IDS)
    assert made.shape == oblong.shape


def test_noise_has_its_deviation_and_is_that_of_the_key() -> None:
    grey = torch.full((12, 3, 64, 64), 0.5)
    made, kept = Augmenter(Augmentation(noise=0.05), 0)(grey, labels(), 3, IDS)
    for out, name in zip(made, IDS, strict=True):
        expected = 0.5 + 0.05 * torch.randn(3, 64, 64, generator=drawn(3, name))
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    added = (made - grey).double()
    n = added.numel()
    # within five standard errors of what was asked
    assert abs(float(added.std()) - 0.05) < 5 * 0.05 / (2 * n) ** 0.5
    assert abs(float(added.mean())) < 5 * 0.05 / n**0.5
    assert abs(float(np.corrcoef(added[0].flatten(), added[1].flatten())[0, 1])) < 5 / (n / 12) ** 0.5
    assert torch.equal(kept, labels())
    alone, _ = Augmenter(Augmentation(noise=0.05), 0)(grey[4:5], labels()[4:5], 3, IDS[4:5])
    assert torch.equal(alone[0], made[4])
    assert torch.equal(Noise(0.0)(grey[0]), grey[0])
    masks = (grey[:, :2] > 0.4).float()
    assert torch.equal(Augmenter(Augmentation(noise=0.5), 0)(grey, masks, 3, IDS)[1], masks)


def test_a_patch_becomes_the_same_whatever_its_batch_and_another_in_every_epoch() -> None:
    images, augment = tissue(), Augmenter(ALL, 0)
    whole, _ = augment(images, labels(), 4, IDS)
    for start in range(0, 12, 5):
        part, _ = augment(images[start : start + 5], labels()[start : start + 5], 4, IDS[start : start + 5])
        assert torch.equal(part, whole[start : start + 5])
    backwards, _ = augment(images.flip(0), labels(), 4, IDS[::-1])
    assert torch.equal(backwards.flip(0), whole)
    for other in (augment(images, labels(), 5, IDS), Augmenter(ALL, 1)(images, labels(), 4, IDS)):
        assert all(not torch.equal(a, b) for a, b in zip(other[0], whole, strict=True))
    assert whole.dtype == torch.float32
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1


def test_nobody_elses_random_numbers_change() -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before, others = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Augmenter(ALL, 0)(tissue(), labels(), 0, IDS)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], others)  # noqa: NPY002


def test_tiny_patches_can_be_blurred() -> None:
    images = tissue(12)[..., :9, :4]
    made, _ = Augmenter(Augmentation(blur=10), 0)(images, labels(), 0, IDS)
    assert bool(torch.isfinite(made).all())
    assert not torch.equal(made, images)


def test_words_of_the_flag() -> None:
    assert parse_augmentation("none") is None
    assert augmenter(None, 0) is None
    assert parse_augmentation("flips,rotations") == Augmentation(flips=True, rotations=True)
    assert parse_augmentation("light, hed=0.2 ,erase") == Augmentation(
        flips=True, rotations=True, colour=0.1, hed=0.2, erase=0.1
    )
    assert parse_augmentation("strong") == Augmentation(
        flips=True, rotations=True, colour=0.2, blur=1.5, hed=0.1, erase=0.1
    )
    assert parse_augmentation("strong,none,blur=2") == Augmentation(blur=2.0)
    assert parse_augmentation("crop,noise") == Augmentation(crop=0.2, noise=0.02)
    assert parse_augmentation("light,noise=0.1,none,crop=0.3") == Augmentation(crop=0.3)
    text = augmentation_text(Augmentation(flips=True, noise=0.1, crop=0.3))
    assert parse_augmentation(text) == Augmentation(flips=True, noise=0.1, crop=0.3)
    assert parse_augmentation("hed=0") is None
    for text, words in (
        ("mixup", "'mixup' is not one of none, light, strong, flips"),
        ("flips=2", "no strength"),
        ("hed=much", "expected a number, such as hed=0.05"),
        ("erase=0.9", "erase: 0.9 must be at most 0.5"),
        ("crop=0.6", "crop: 0.6 must be at most 0.5"),
        ("noise=-1", "noise: -1.0 must be at least 0"),
        ("hed=nan", "hed: nan must be finite"),
        ("", "'' is not one of"),
    ):
        with pytest.raises(UsageError, match=words):
            parse_augmentation(text)


@pytest.mark.parametrize("verb", ["train-cls", "train-seg"])
def test_training_with_it_repeats_itself_and_is_another_run_than_without(mini: Mini, tmp_path: Path, verb: str) -> None:
    source = mini.balanced if verb == "train-cls" else mini.nuclei
    small = ["--epochs", 2, "--batch-size", 8, *(["--width", 4] if verb == "train-seg" else [])]
    for name in ("a", "b"):
        done(verb, source, "-o", tmp_path / name, *small, "--augment", "strong,crop,noise")
    done(verb, source, "-o", tmp_path / "plain", *small)
    weights = [(tmp_path / n / "weights.safetensors").read_bytes() for n in ("a", "b", "plain")]
    assert weights[0] == weights[1] != weights[2]
    facts = json.loads((tmp_path / "a" / "run.json").read_text())
    assert facts["settings"]["augment"]["hed"] == 0.1
    again = run(verb, source, "-o", tmp_path / "a", *small, "--augment", "strong,crop,noise,hed=0.2")
    assert again.code == 3
    assert "settings.augment.hed = 0.1, asked for 0.2" in again.err.replace("\n", " ")
    assert run(verb, source, "-o", tmp_path / "a", *small, "--augment", "mixup").code == 2


def test_only_training_patches_are_augmented(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from histoxai.store.patches import Patches

    seen: list[tuple[int, str]] = []
    call = Augmenter.__call__

    def watched(self: Augmenter, images: torch.Tensor, targets: torch.Tensor, epoch: int, ids: np.ndarray) -> object:
        seen.extend((epoch, str(i)) for i in ids)
        return call(self, images, targets, epoch, ids)

    monkeypatch.setattr(Augmenter, "__call__", watched)
    done("train-cls", mini.balanced, "-o", tmp_path / "x", "--epochs", 2, "--batch-size", 8, "--augment", "light")
    patches = Patches(mini.balanced)
    ids = patches.patch_id[patches.rows("train")].tolist()
    assert {i for _, i in seen} <= set(ids)
    assert len(seen) >= 2 * (len(ids) - 1)
    assert {e for e, _ in seen} == {0, 1}


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(mini: Mini, tmp_path: Path) -> None:
    from histoxai.core.progress import Silent
    from histoxai.settings import TrainCls, Work
    from histoxai.stages.train_cls import train_cls

    settings = TrainCls(epochs=3, batch_size=8, augment=STRONG, checkpoint_minutes=0)

    class Stops(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            if note.startswith("epoch 2"):
                raise KeyboardInterrupt

    train_cls(mini.balanced, tmp_path / "whole", settings, Silent(), Work())
    with pytest.raises(KeyboardInterrupt):
        train_cls(mini.balanced, tmp_path / "parts", settings, Stops(), Work())
    train_cls(mini.balanced, tmp_path / "parts", settings, Silent(), Work())
    whole, parts = ((tmp_path / n / "weights.safetensors").read_bytes() for n in ("whole", "parts"))
    assert whole == parts


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_of_a_patch() -> None:
    images, augment = tissue(), Augmenter(ALL, 0)
    before = torch.cuda.get_rng_state()
    there, _ = augment(images.cuda(), labels().cuda(), 1, IDS)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    np.testing.assert_allclose(there.cpu(), augment(images, labels(), 1, IDS)[0], atol=1e-4)
