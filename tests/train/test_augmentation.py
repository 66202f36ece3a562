"""Training-time augmentation: what each transform does to values, and that only its key decides about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import hed2rgb, rgb2hed
from torchvision.transforms import v2

from histoxai.core.errors import UsageError
from histoxai.core.provenance import keyed_seed
from histoxai.settings import Augmentation
from histoxai.settings.train import parse_augmentation
from histoxai.train.augmentation import Augmenter, HedJitter, augmenter, from_stains, to_stains
from tests.conftest import Mini, done, patch, run

IDS = [f"scan/p#{i}" for i in range(12)]
STRONG = parse_augmentation("strong")
assert STRONG is not None


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


def test_a_patch_becomes_the_same_whatever_its_batch_and_another_in_every_epoch() -> None:
    images, augment = tissue(), Augmenter(STRONG, 0)
    whole, _ = augment(images, labels(), 4, IDS)
    for start in range(0, 12, 5):
        part, _ = augment(images[start : start + 5], labels()[start : start + 5], 4, IDS[start : start + 5])
        assert torch.equal(part, whole[start : start + 5])
    backwards, _ = augment(images.flip(0), labels(), 4, IDS[::-1])
    assert torch.equal(backwards.flip(0), whole)
    for other in (augment(images, labels(), 5, IDS), Augmenter(STRONG, 1)(images, labels(), 4, IDS)):
        assert all(not torch.equal(a, b) for a, b in zip(other[0], whole, strict=True))
    assert whole.dtype == torch.float32
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1


def test_nobody_elses_random_numbers_change() -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before, others = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Augmenter(STRONG, 0)(tissue(), labels(), 0, IDS)
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
    assert parse_augmentation("hed=0") is None
    for text, words in (
        ("mixup", "'mixup' is not one of none, light, strong, flips"),
        ("flips=2", "no strength"),
        ("hed=much", "expected a number, such as hed=0.05"),
        ("erase=0.9", "erase: 0.9 must be at most 0.5"),
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
        done(verb, source, "-o", tmp_path / name, *small, "--augment", "strong")
    done(verb, source, "-o", tmp_path / "plain", *small)
    weights = [(tmp_path / n / "weights.safetensors").read_bytes() for n in ("a", "b", "plain")]
    assert weights[0] == weights[1] != weights[2]
    facts = json.loads((tmp_path / "a" / "run.json").read_text())
    assert facts["settings"]["augment"]["hed"] == 0.1
    again = run(verb, source, "-o", tmp_path / "a", *small, "--augment", "strong,hed=0.2")
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
    images, augment = tissue(), Augmenter(STRONG, 0)
    before = torch.cuda.get_rng_state()
    there, _ = augment(images.cuda(), labels().cuda(), 1, IDS)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    np.testing.assert_allclose(there.cpu(), augment(images, labels(), 1, IDS)[0], atol=1e-4)
