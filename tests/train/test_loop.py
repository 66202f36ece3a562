"""The training loop: what a step is, what is kept, and that a stopped run ends as one that was not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from histoxai.core import signals
from histoxai.core.errors import HistoxaiError, Interrupted
from histoxai.core.progress import Silent
from histoxai.networks.inference import Source
from histoxai.settings import Training
from histoxai.store.patches import Patches
from histoxai.train.fabric import engine
from histoxai.train.loop import Fitted, Job, fit, train_batches
from histoxai.train.ranks import Placement
from tests.conftest import Mini


class Toy:
    """Training data in memory: which side is brighter."""

    augment = None
    size = (8, 8)

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.label = torch.from_numpy(rng.integers(0, 2, n))
        self.images = torch.from_numpy(rng.normal(size=(n, 3, 8, 8)).astype(np.float32) * 0.3)
        self.images[self.label == 1, :, :, :4] += 1
        self.ids = np.array([f"p{seed}/{i}" for i in range(n)])

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, at: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[at], self.label[at]

    def batches(self, cut: list[np.ndarray], device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return map(self.batch, cut)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(self))


def right(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == targets).float().mean()


def job(n: int = 41, norm: bool = True, dropout: float = 0.0, mixup: float = 0.0) -> Job:
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm2d(4)] if norm else []
    net = nn.Sequential(nn.Conv2d(3, 4, 3), *middle, nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(144, 2))
    return Job(net, functional.cross_entropy, right, "accuracy", Toy(n, 1), Toy(20, 2), mixup)  # type: ignore[arg-type]


def trained(work: Job, settings: Training, folder: Path, progress: Any = None) -> Fitted:
    with engine(settings, Placement(), lambda: None) as fabric:
        return fit(work, settings, fabric, folder, {}, progress or Silent())


def settings(**more: Any) -> Training:
    return Training(**{"epochs": 5, "batch_size": 8, "lr": 0.01, "patience": 9, "device": "cpu", **more})


def same(a: Job, b: Job) -> bool:
    other = b.model.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.model.state_dict().items())


def test_training_learns_and_keeps_the_best_weights(tmp_path: Path) -> None:
    work = job()
    found = trained(work, settings(epochs=6), tmp_path)
    losses = [row["validation_loss"] for row in found.history]
    assert found.best_epoch == int(np.argmin(losses)) + 1
    assert found.history[-1]["validation_accuracy"] > 0.9
    # the kept weights give the best epoch's loss again, in evaluation mode
    work.model.eval()
    with torch.no_grad():
        images, targets = work.validation.batch(np.arange(20))  # type: ignore[attr-defined]
        again = functional.cross_entropy(work.model(images), targets)
    assert float(again) == pytest.approx(min(losses), rel=1e-5)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,lr,train_loss,train_accuracy,validation_loss,validation_accuracy"
    assert [float(v) for v in lines[3].split(",")] == pytest.approx(list(found.history[2].values()))


def test_the_loop_is_the_plain_one(tmp_path: Path) -> None:
    work, plain = job(norm=False), job(norm=False)
    trained(work, settings(epochs=2, patience=2), tmp_path)
    optimizer, best = torch.optim.Adam(plain.model.parameters(), lr=0.01), (math.inf, {})
    for epoch in range(2):
        for at in train_batches(plain.train, settings(), epoch):
            images, targets = plain.train.batch(at)  # type: ignore[attr-defined]
            optimizer.zero_grad()
            functional.cross_entropy(plain.model(images), targets).backward()
            optimizer.step()
        with torch.no_grad():
            images, targets = plain.validation.batch(np.arange(20))  # type: ignore[attr-defined]
            loss = float(functional.cross_entropy(plain.model(images), targets))
        best = min(best, (loss, {k: v.clone() for k, v in plain.model.state_dict().items()}), key=lambda b: b[0])
    for name, value in work.model.state_dict().items():
        torch.testing.assert_close(value, best[1][name], rtol=1e-4, atol=1e-6)


def test_early_stopping(tmp_path: Path) -> None:
    found = trained(job(), settings(epochs=50, lr=0.5, patience=2), tmp_path)
    assert len(found.history) == found.best_epoch + 2 < 50


EVERYTHING = {"ema": 0.9, "schedule": "plateau", "warmup": 1.0, "clip": 0.5, "accumulate": 2, "weight_decay": 0.01}


@pytest.mark.parametrize("at", [0, 7, 14])
@pytest.mark.parametrize("more", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, at: int, more: dict[str, Any]) -> None:
    rough = {"dropout": 0.3, "mixup": 0.4} if more else {}
    chosen = settings(checkpoint_minutes=0, **more)
    whole, parts = job(**rough), job(**rough)
    one = trained(whole, chosen, tmp_path / "whole")

    class Stops(Silent):
        looks = 0

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.looks += 1
            if self.looks == at + 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(parts, chosen, tmp_path / "parts", Stops())
    fresh = job(**rough)
    other = trained(fresh, chosen, tmp_path / "parts")
    assert same(whole, fresh)
    assert one.history == other.history
    assert (tmp_path / "whole/history.csv").read_bytes() == (tmp_path / "parts/history.csv").read_bytes()


def test_a_signal_ends_the_step_and_writes_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, fresh = job(), job()
    one = trained(whole, settings(), tmp_path / "whole")

    class Signals(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            if "epoch 3" in note:
                signals._stop(15, None)  # held: nothing is raised here

    monkeypatch.setattr(signals, "_received", [])
    with pytest.raises(Interrupted, match="SIGTERM"):
        trained(job(), settings(checkpoint_minutes=1e9), tmp_path / "parts", Signals())
    assert [p.name for p in sorted((tmp_path / "parts/last").glob("at-*.json"))][-1] == "at-000002-00000002.json"
    signals._received.clear()
    other = trained(fresh, settings(), tmp_path / "parts")
    assert same(whole, fresh)
    assert one.history == other.history


def test_a_last_batch_of_one_is_left_out() -> None:
    sizes = [len(b) for b in train_batches(Toy(41, 1), settings(), 0)]  # type: ignore[arg-type]
    assert sizes == [8] * 5
    assert [len(b) for b in train_batches(Toy(43, 1), settings(), 0)] == [8] * 5 + [3]  # type: ignore[arg-type]
    assert [len(b) for b in train_batches(Toy(43, 1), settings(), 0, least=4)] == [8] * 5  # type: ignore[arg-type]
    assert [len(b) for b in train_batches(Toy(3, 1), settings(batch_size=1), 0)] == [1] * 3  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_names_its_patches(tmp_path: Path) -> None:
    work = job()
    work.train.images[7] = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(HistoxaiError, match=r"epoch 1, train batch of patches .*p1/7.*: the loss is nan \(the weights"):
        trained(work, settings(), tmp_path)
    work = job()
    work.validation.images[3] = float("inf")  # type: ignore[attr-defined]
    with pytest.raises(HistoxaiError, match=r"validation batch of patches p2/0, .*p2/3.*the weights are finite"):
        trained(work, settings(), tmp_path / "other")


@pytest.mark.parametrize("k", [2, 3])
def test_accumulated_passes_make_the_step_of_one_large_batch(tmp_path: Path, k: int) -> None:
    large, small = job(42, norm=False), job(42, norm=False)
    one = trained(large, settings(batch_size=6 * k), tmp_path / "large")
    other = trained(small, settings(batch_size=6, accumulate=k), tmp_path / "small")
    for a, b in zip(one.history, other.history, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    # Adam's steps hardly know the scale of a gradient, but its moments do
    trained(job(norm=False), settings(epochs=1, clip=1e-3), tmp_path)
    saved = json.loads(next((tmp_path / "last").glob("at-*.json")).read_text())
    tensors = load_file(tmp_path / "last" / saved["tensors"]["file"])
    moments = [v for k, v in tensors.items() if k.endswith("exp_avg")]
    assert 0 < math.sqrt(sum(float(m.square().sum()) for m in moments)) <= 1e-3


def test_balanced_sampling_takes_as_many_of_each_class(mini: Mini) -> None:
    patches = Patches(mini.patches)  # 24, 30 and 36 of three classes
    source = Source(patches, np.arange(len(patches)), masks=False, balanced=True)
    order = source.order(0, 0)
    drawn = patches.label[order]
    assert np.bincount(drawn).tolist() == [30, 30, 30]
    counts = np.bincount(order, minlength=len(patches))
    assert set(counts[patches.label == np.argmin(np.bincount(patches.label))]) == {1, 2}
    assert set(counts[patches.label == np.argmax(np.bincount(patches.label))]) == {0, 1}
    assert np.array_equal(order, source.order(0, 0))
    assert not np.array_equal(order, source.order(0, 1))
    # mixed: no class keeps to one end
    assert all(np.bincount(part, minlength=3).min() > 3 for part in np.split(drawn, 3))


def test_mixup_is_of_pairs_within_the_batch(tmp_path: Path) -> None:
    work, plain = job(norm=False, mixup=0.5), job(norm=False)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = work.model.forward

    def watched(images: torch.Tensor) -> torch.Tensor:
        if work.model.training:
            seen.append((images.detach().clone(), torch.empty(0)))
        return forward(images)

    work.model.forward = watched  # type: ignore[method-assign]
    trained(work, settings(epochs=1), tmp_path)
    at = train_batches(plain.train, settings(), 0)[0]
    images = plain.train.batch(at)[0]  # type: ignore[attr-defined]
    mixed = seen[0][0]
    fits = 0
    for k in range(8):
        for j in range(8):
            # mixed = s * a + (1 - s) * b on every pixel
            away, gap = (mixed[k] - images[j]).flatten(), (images[k] - images[j]).flatten()
            share = float(away @ gap / (gap @ gap)) if j != k else 1.0
            fits += torch.allclose(away, share * gap, atol=1e-5) and -1e-6 <= share <= 1 + 1e-6 and j != k
    same_as_before = sum(torch.allclose(mixed[k], images[k], atol=1e-6) for k in range(8))
    assert fits >= 8 - same_as_before > 0


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Bytes that later tests compare are of as many threads as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
