"""The training loop: what a step is, what is kept, and that a stopped run ends as one that was not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, ReduceLROnPlateau

from histoxai.core import provenance, signals
from histoxai.core.errors import HistoxaiError, InputRefused, Interrupted, UsageError
from histoxai.core.progress import Silent
from histoxai.networks.weights import save_tensors
from histoxai.settings import Training
from histoxai.statistics.calibration import best_temperature
from histoxai.store.patches import Patches
from histoxai.train.batches import train_batches
from histoxai.train.cross_validation import check_folds
from histoxai.train.dataset import PatchDataset
from histoxai.train.fabric import start_fabric
from histoxai.train.loop import TrainingInputs, TrainingResult, fit
from histoxai.train.losses import balanced_weights, classification_loss
from histoxai.train.lr_finder import find_learning_rate, steepest_rate
from histoxai.train.ranks import Ranks, environment, find_ranks
from histoxai.train.schedules import LearningRates
from histoxai.train.state import averaging, synchronise_norms
from tests.conftest import Mini, done, run, without_seal


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


def inputs(n: int = 41, norm: bool = True, dropout: float = 0.0, mixup: float = 0.0) -> TrainingInputs:
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm2d(4)] if norm else []
    net = nn.Sequential(nn.Conv2d(3, 4, 3), *middle, nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(144, 2))
    return TrainingInputs(net, functional.cross_entropy, right, "accuracy", Toy(n, 1), Toy(20, 2), mixup)  # type: ignore[arg-type]


def trained(work: TrainingInputs, settings: Training, folder: Path, progress: Any = None) -> TrainingResult:
    with start_fabric(settings, Ranks(), lambda: None) as fabric:
        return fit(work, settings, fabric, folder, {}, progress or Silent())


def settings(**more: Any) -> Training:
    return Training(**{"epochs": 5, "batch_size": 8, "lr": 0.01, "patience": 9, "device": "cpu", **more})


def same(a: TrainingInputs, b: TrainingInputs) -> bool:
    other = b.model.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.model.state_dict().items())


def test_training_learns_and_keeps_the_best_weights(tmp_path: Path) -> None:
    work = inputs()
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
    work, plain = inputs(norm=False), inputs(norm=False)
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
    found = trained(inputs(), settings(epochs=50, lr=0.5, patience=2), tmp_path)
    assert len(found.history) == found.best_epoch + 2 < 50


EVERYTHING = {"ema": 0.9, "schedule": "plateau", "warmup": 1.0, "clip": 0.5, "accumulate": 2, "weight_decay": 0.01}


@pytest.mark.parametrize("at", [0, 7, 14])
@pytest.mark.parametrize("more", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, at: int, more: dict[str, Any]) -> None:
    rough = {"dropout": 0.3, "mixup": 0.4} if more else {}
    chosen = settings(checkpoint_minutes=0, **more)
    whole, parts = inputs(**rough), inputs(**rough)
    one = trained(whole, chosen, tmp_path / "whole")

    class Stops(Silent):
        looks = 0

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.looks += 1
            if self.looks == at + 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(parts, chosen, tmp_path / "parts", Stops())
    fresh = inputs(**rough)
    other = trained(fresh, chosen, tmp_path / "parts")
    assert same(whole, fresh)
    assert one.history == other.history
    assert (tmp_path / "whole/history.csv").read_bytes() == (tmp_path / "parts/history.csv").read_bytes()


def test_a_signal_ends_the_step_and_writes_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, fresh = inputs(), inputs()
    one = trained(whole, settings(), tmp_path / "whole")

    class Signals(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            if "epoch 3" in note:
                signals._stop(15, None)  # held: nothing is raised here

    monkeypatch.setattr(signals, "_received", [])
    with pytest.raises(Interrupted, match="SIGTERM"):
        trained(inputs(), settings(checkpoint_minutes=1e9), tmp_path / "parts", Signals())
    assert [p.name for p in sorted((tmp_path / "parts/last").glob("at-*.json"))][-1] == "at-000002-00000002.json"
    signals._received.clear()
    other = trained(fresh, settings(), tmp_path / "parts")
    assert same(whole, fresh)
    assert one.history == other.history


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every epoch, however short."""
    monkeypatch.setattr("histoxai.train.checkpoints.SHARE", 1e9)


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("how", ["cut", "flipped", "no record", "torn record", "no tensors"])
def test_a_torn_checkpoint_is_not_loaded_and_the_one_before_is(tmp_path: Path, how: str) -> None:
    whole, fresh = inputs(), inputs()
    trained(whole, settings(), tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        trained(inputs(), settings(), tmp_path / "parts", StopsIn("epoch 4"))
    records = sorted((tmp_path / "parts/last").glob("at-*.json"))
    assert [p.name for p in records] == ["at-000002-00000000.json", "at-000003-00000000.json"]
    tensors = records[1].with_suffix(".safetensors")
    data = bytearray(tensors.read_bytes())
    if how == "cut":
        tensors.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        data[-5] ^= 1
        tensors.write_bytes(data)
    elif how == "no tensors":
        tensors.unlink()
    elif how == "torn record":
        records[1].write_bytes(records[1].read_bytes()[:100])
    else:
        records[1].unlink()
    listener = Silent()
    trained(fresh, settings(), tmp_path / "parts", listener)
    assert same(whole, fresh)
    if how != "no record":
        assert "torn and not loaded" in listener.warnings[0]
        assert "at-000003" in listener.warnings[0]


class StopsIn(Silent):
    """Killed in an epoch."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def advance(self, steps: int = 1, note: str = "") -> None:
        if self.where in note:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("every_epoch")
def test_a_run_whose_checkpoints_are_all_torn_starts_anew(tmp_path: Path) -> None:
    whole, fresh = inputs(), inputs()
    trained(whole, settings(), tmp_path / "whole")
    trained(inputs(), settings(epochs=3), tmp_path / "parts")
    for path in (tmp_path / "parts/last").glob("*.safetensors"):
        path.write_bytes(b"torn")
    listener = Silent()
    trained(fresh, settings(), tmp_path / "parts", listener)
    assert "training starts anew" in listener.warnings[-1]
    assert same(whole, fresh)
    # and what it writes is kept, although the torn ones came later
    names = sorted(p.name for p in (tmp_path / "parts/last").glob("at-*.json"))
    assert names[-1] == "at-000005-00000000.json"
    trained(inputs(), settings(epochs=4), tmp_path / "more")
    for path in (tmp_path / "more/last").glob("*.safetensors"):
        path.write_bytes(b"torn")
    with pytest.raises(KeyboardInterrupt):
        trained(inputs(), settings(), tmp_path / "more", StopsIn("epoch 3"))
    assert [p.name for p in sorted((tmp_path / "more/last").glob("at-*.json"))][-1] == "at-000002-00000000.json"
    with pytest.raises(InputRefused, match="holds no checkpoint"):
        trained(inputs(), settings(resume="required"), tmp_path / "nothing")


@pytest.mark.parametrize("how", ["shape", "missing", "moments"])
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, how: str) -> None:
    trained(inputs(), settings(epochs=2), tmp_path)
    for record in (tmp_path / "last").glob("at-*.json"):
        saved = without_seal(record)
        path = tmp_path / "last" / saved["tensors"]["file"]
        tensors = load_file(path)
        if how == "shape":
            tensors["model.5.weight"] = torch.zeros(3, 144)
        elif how == "missing":
            del tensors["model.5.weight"]
        else:
            tensors["adam.77.exp_avg"] = torch.zeros(3)
        save_tensors(path, tensors)
        saved["tensors"]["checksum"] = provenance.file_checksum(path)
        record.write_text(json.dumps(saved))
    with pytest.raises(InputRefused, match=r"does not fit this network .*--force starts over"):
        trained(inputs(), settings(), tmp_path)


@pytest.mark.usefixtures("every_epoch")
def test_two_checkpoints_are_kept_and_the_best_weights(tmp_path: Path) -> None:
    found = trained(inputs(), settings(), tmp_path)
    names = sorted(p.name for p in (tmp_path / "last").iterdir())
    assert [n for n in names if n.startswith("at")] == [
        f"at-{e:06d}-00000000.{ending}" for e in (4, 5) for ending in ("json", "safetensors")
    ]
    assert f"best-{found.best_epoch:06d}.safetensors" in names


def test_large_checkpoints_do_not_follow_every_short_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from histoxai.train.checkpoints import Checkpoints

    place = Checkpoints(tmp_path, {})
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    place._saved, place._took = 100.0, 5.0
    now[0] = 140.0
    assert not place.due(10, epoch_ended=True)
    assert not place.due(10, epoch_ended=False)
    now[0] = 151.0  # writing took 5 s, a tenth of this
    assert place.due(10, epoch_ended=True)
    assert not place.due(10, epoch_ended=False)
    assert place.due(0.5, epoch_ended=False)


def test_a_last_batch_of_one_is_left_out() -> None:
    sizes = [len(b) for b in train_batches(Toy(41, 1), settings(), 0)]  # type: ignore[arg-type]
    assert sizes == [8] * 5
    assert [len(b) for b in train_batches(Toy(43, 1), settings(), 0)] == [8] * 5 + [3]  # type: ignore[arg-type]
    assert [len(b) for b in train_batches(Toy(43, 1), settings(), 0, least=4)] == [8] * 5  # type: ignore[arg-type]
    assert [len(b) for b in train_batches(Toy(3, 1), settings(batch_size=1), 0)] == [1] * 3  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_names_its_patches(tmp_path: Path) -> None:
    work = inputs()
    work.train.images[7] = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(HistoxaiError, match=r"epoch 1, train batch of patches .*p1/7.*: the loss is nan \(the weights"):
        trained(work, settings(), tmp_path)
    work = inputs()
    work.validation.images[3] = float("inf")  # type: ignore[attr-defined]
    with pytest.raises(HistoxaiError, match=r"validation batch of patches p2/0, .*p2/3.*the weights are finite"):
        trained(work, settings(), tmp_path / "other")


@pytest.mark.parametrize("k", [2, 3])
def test_accumulated_passes_make_the_step_of_one_large_batch(tmp_path: Path, k: int) -> None:
    large, small = inputs(42, norm=False), inputs(42, norm=False)
    one = trained(large, settings(batch_size=6 * k), tmp_path / "large")
    other = trained(small, settings(batch_size=6, accumulate=k), tmp_path / "small")
    for a, b in zip(one.history, other.history, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def test_averaged_weights_are_those_of_the_formula(tmp_path: Path) -> None:
    work, seen = inputs(norm=False), []

    class Watches(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            if note:
                seen.append(work.model[0].weight.detach().clone())  # type: ignore[union-attr,index]

    found = trained(work, settings(epochs=1, ema=0.8), tmp_path, Watches())
    average = seen[0]
    for value in seen[1:]:
        average = 0.8 * average + 0.2 * value
    assert len(seen) == 5
    torch.testing.assert_close(work.model[0].weight, average)  # type: ignore[union-attr,index]
    images, targets = work.validation.batch(np.arange(20))  # type: ignore[attr-defined]
    loss = functional.cross_entropy(work.model(images), targets)
    assert float(loss.detach()) == pytest.approx(found.history[0]["validation_loss"], rel=1e-5)


def test_averages_copy_what_is_no_measure() -> None:
    kept, new = [torch.arange(169), torch.tensor(3)], [torch.arange(169), torch.tensor(4)]
    averaging(0.9999)(kept, new, 5)
    assert torch.equal(kept[0], torch.arange(169))  # as swin's places: 29 would be off by one
    assert kept[1] == 4
    floats = [torch.ones(2)]
    averaging(0.75)(floats, [torch.zeros(2)], 5)
    assert floats[0].tolist() == [0.75, 0.75]


def test_frozen_norms_keep_their_statistics_among_processes() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    net[1].requires_grad_(False)
    synchronise_norms(net)
    assert type(net[1]) is nn.BatchNorm2d
    assert type(net[2][0]) is nn.SyncBatchNorm  # type: ignore[index]


def test_gradients_are_clipped(tmp_path: Path) -> None:
    # Adam's steps hardly know the scale of a gradient, but its moments do
    trained(inputs(norm=False), settings(epochs=1, clip=1e-3), tmp_path)
    saved = json.loads(next((tmp_path / "last").glob("at-*.json")).read_text())
    tensors = load_file(tmp_path / "last" / saved["tensors"]["file"])
    moments = [v for k, v in tensors.items() if k.endswith("exp_avg")]
    assert 0 < math.sqrt(sum(float(m.square().sum()) for m in moments)) <= 1e-3


def test_schedules_are_torchs() -> None:
    weight = torch.zeros(1, requires_grad=True)

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([weight], lr=0.1)

    chosen = Training(epochs=10, lr=0.1, schedule="cosine", warmup=2.0)
    sgd = optimizer()
    warm = LinearLR(sgd, start_factor=1 / 8, end_factor=1, total_iters=7)
    for step in range(8):
        assert LearningRates(chosen, 4, [])(step) == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        warm.step()
    sgd = optimizer()
    cosine = CosineAnnealingLR(sgd, T_max=32)
    for step in range(8, 40):
        assert LearningRates(chosen, 4, [])(step) == pytest.approx(sgd.param_groups[0]["lr"], abs=1e-12)
        sgd.step()
        cosine.step()
    losses = [1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.8, 0.85, 0.85, 0.85, 0.85, 0.7]
    sgd = optimizer()
    plateau = ReduceLROnPlateau(sgd, factor=0.5, patience=2, threshold=0.0)
    chosen = Training(epochs=50, lr=0.1, schedule="plateau", patience=5)
    rates = []
    for epoch, loss in enumerate(losses):
        rates.append(LearningRates(chosen, 4, losses[:epoch])(epoch * 4))
        assert rates[-1] == sgd.param_groups[0]["lr"]
        plateau.step(loss)
    assert sorted(set(rates)) == [0.025, 0.05, 0.1]
    assert LearningRates(Training(lr=0.1), 4, losses)(99) == 0.1


def test_smoothed_and_weighted_losses() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 3), torch.tensor([0, 0, 0, 0, 1, 1, 2])
    weights = balanced_weights(labels.numpy(), 3)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    np.testing.assert_allclose(weights, theirs, rtol=1e-6)
    assert balanced_weights(np.array([0, 0, 2]), 3).tolist() == pytest.approx([0.75, 0, 1.5])
    loss = classification_loss(weights)(logits, labels)
    each = functional.cross_entropy(logits, labels, weight=weights, reduction="none")
    assert float(loss) == pytest.approx(float(each.mean()), rel=1e-6)
    # the weights of balanced classes add up to the number of patches: torch's own mean is the same
    assert float(loss) == pytest.approx(float(functional.cross_entropy(logits, labels, weight=weights)), rel=1e-6)
    smooth = classification_loss(None, 0.2)(logits, labels)
    log_p = torch.log_softmax(logits, 1)
    by_hand = -(0.8 * log_p[torch.arange(7), labels] + 0.2 * log_p.mean(1)).mean()
    assert float(smooth) == pytest.approx(float(by_hand), rel=1e-6)


def test_balanced_sampling_takes_as_many_of_each_class(mini: Mini) -> None:
    patches = Patches(mini.patches)  # 24, 30 and 36 of three classes
    source = PatchDataset(patches, np.arange(len(patches)), masks=False, balanced=True)
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
    work, plain = inputs(norm=False, mixup=0.5), inputs(norm=False)
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


def test_a_learning_rate_is_found() -> None:
    with start_fabric(settings(), Ranks(), lambda: None) as fabric:
        found = find_learning_rate(inputs(), settings(), fabric, Silent())
    rates = [c["lr"] for c in found["curve"]]
    assert rates[0] == pytest.approx(1e-7)
    assert rates == sorted(rates)
    assert 1e-4 < found["suggestion"] < 1
    # a loss that falls as a logistic function of log lr falls fastest at its middle
    grid = np.logspace(-7, 0, 100)
    curve = [{"lr": r, "smoothed": 2 - 1 / (1 + math.exp(-3 * (math.log10(r) + 3)))} for r in grid]
    assert steepest_rate(curve) == pytest.approx(1e-3, rel=0.1)
    assert steepest_rate([{"lr": r, "smoothed": float(k)} for k, r in enumerate(grid)]) is None


def test_temperature_is_the_most_likely_one() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = np.array([rng.choice(3, p=row) for row in p])
    found = best_temperature(logits * 3.0, label)  # three times too sure
    assert found["temperature"] == pytest.approx(3.0, rel=0.06)
    assert found["calibration_error"] < 0.03 < found["calibration_error_before"]
    assert found["log_likelihood"] > found["log_likelihood_before"]
    grid = np.linspace(2, 4, 2001)
    best = max(
        grid,
        key=lambda t: float(
            np.mean(torch.log_softmax(torch.from_numpy(logits * 3 / t), 1).numpy()[range(4000), label])
        ),
    )
    assert found["temperature"] == pytest.approx(best, abs=2e-3)


SRUN = {
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_JOB_ID": "77",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "3",
}


def test_ranks() -> None:
    assert find_ranks(None, None, {}) == Ranks()
    assert find_ranks(4, None, {}) == Ranks(per_node=4, launch=True)
    found = find_ranks(None, None, SRUN)
    assert (found.rank, found.local_rank, found.per_node, found.nodes, found.world) == (3, 1, 2, 2, 4)
    assert (found.address, found.port, found.launch) == ("gpu07", 15_000 + 77 + 202, False)
    assert find_ranks(2, 2, SRUN) == found
    with pytest.raises(UsageError, match="--devices 4: the processes that were started are 2"):
        find_ranks(4, None, SRUN)
    with pytest.raises(UsageError, match="every node needs as many"):
        find_ranks(None, None, SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,1"})
    with pytest.raises(UsageError, match="every node needs as many"):
        find_ranks(None, None, SRUN | {"SLURM_STEP_NUM_TASKS": "3"})
    with pytest.raises(UsageError, match="srun --nodes=2"):
        find_ranks(1, 2, {})
    # a batch script that asked for tasks and started none of them
    assert find_ranks(None, None, {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}) == Ranks()
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}
    found = find_ranks(None, None, torchrun | {"MASTER_ADDR": "a", "MASTER_PORT": "1234"})
    assert found == Ranks(5, 1, 2, 3, address="a", port=1234)
    own = find_ranks(None, None, SRUN | {"SLURM_GPUS_PER_TASK": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"})
    bound = own.for_visible_gpus(1)
    assert (bound.rank, bound.local_rank, bound.node, bound.per_node, bound.nodes) == (3, 0, 3, 1, 4)
    assert own.for_visible_gpus(2) == own
    assert found.for_visible_gpus(1) == found  # one GPU for two tasks
    assert Ranks(per_node=2, launch=True).for_visible_gpus(1).per_node == 2
    with environment(A_B_C=1):
        import os

        assert os.environ["A_B_C"] == "1"
    assert "A_B_C" not in os.environ


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Bytes that later tests compare are of as many threads as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _member(folder: Path, norm: bool) -> None:
    chosen = settings(devices=2, batch_size=10)
    ranks = find_ranks(2, None)
    with start_fabric(chosen, ranks, partial(_member, folder, norm)) as fabric:
        torch.set_num_threads(1)
        work = inputs(43, norm=norm)
        found = fit(work, chosen, fabric, folder, {}, Silent())
        (folder / f"rank{ranks.rank}.json").write_text(json.dumps(found.history))


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    _member(tmp_path, False)
    ours, theirs = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    assert ours == theirs
    alone = trained(inputs(43, norm=False), settings(batch_size=10), tmp_path / "alone")
    assert len(ours) == len(alone.history) == 5
    for a, b in zip(ours, alone.history, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)


def _fails(folder: Path) -> None:
    chosen = settings(devices=2)
    ranks = find_ranks(2, None)
    with start_fabric(chosen, ranks, partial(_fails, folder)) as fabric:
        if ranks.rank == 1:
            raise HistoxaiError("no more of this")
        fabric.barrier()


def _dies(folder: Path) -> None:
    import os
    import signal

    chosen = settings(devices=2)
    ranks = find_ranks(2, None)
    with start_fabric(chosen, ranks, partial(_dies, folder)) as fabric:
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        fabric.barrier()


def test_what_another_process_raises_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(HistoxaiError, match="no more of this"):
        _fails(tmp_path)
    with pytest.raises(HistoxaiError, match="process 1 of 2 was killed by signal 9"):
        _dies(tmp_path)


def test_the_features_through_the_command_line(mini: Mini, tmp_path: Path) -> None:
    out = json.loads(
        done(
            *("train-cls", mini.balanced, "-o", tmp_path / "x", "--epochs", 2, "--batch-size", 8, "--json"),
            *("--schedule", "cosine", "--warmup", 0.5, "--weight-decay", 0.01, "--clip", 1, "--accumulate", 2),
            *("--ema", 0.9, "--class-weights", "balanced", "--sampling", "balanced", "--label-smoothing", 0.1),
            *("--mixup", 0.2, "--temperature", "--precision", "bf16", "--deterministic"),
        )
    )
    assert out["calibration"]["temperature"] > 0
    assert out["scores"]["patches"] == out["patches"]
    facts = json.loads((tmp_path / "x/run.json").read_text())
    assert facts["training"]["processes"] == 1
    assert facts["settings"]["ema"] == 0.9
    assert (tmp_path / "x/confusion.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "x/last").exists()
    events = list((tmp_path / "x/tensorboard").glob("events*"))
    assert len(events) == 1
    # a finished run is not trained again, wherever it is asked for
    again = json.loads(done("train-cls", *_flags(facts, mini), "-o", tmp_path / "x", "--json", "--resume", "required"))
    assert again["digest"] == out["digest"]


def _flags(facts: dict[str, Any], mini: Mini) -> list[object]:
    words = facts["run"]["command"].split()
    return (
        [mini.balanced, *words[words.index("--epochs") :]][:-1]
        if words[-1] == "--json"
        else [
            mini.balanced,
            *(w for w in words[words.index("--epochs") :] if w != "--json"),
        ]
    )


def test_temperature_is_in_the_weights(mini: Mini, tmp_path: Path) -> None:
    common = ["train-cls", mini.balanced, "--epochs", 1, "--batch-size", 8, "--json"]
    plain = json.loads(done(*common, "-o", tmp_path / "plain"))
    scaled = json.loads(done(*common, "-o", tmp_path / "scaled", "--temperature"))
    from histoxai.store.shards import open_store

    logits = [
        open_store(tmp_path / n / "predictions.zarr", "predictions", "x").read("logits") for n in ("plain", "scaled")
    ]
    np.testing.assert_allclose(logits[0] / scaled["calibration"]["temperature"], logits[1], rtol=1e-4, atol=1e-6)
    assert plain["accuracy"] == scaled["accuracy"]
    assert plain["calibration"] is None


def test_overfitting_a_few_batches(mini: Mini, tmp_path: Path) -> None:
    done(
        *("train-cls", mini.balanced, "-o", tmp_path / "x", "--overfit-batches", 1, "--batch-size", 8),
        *("--epochs", 25, "--patience", 25, "--lr", 0.003),
    )
    last = (tmp_path / "x/history.csv").read_text().splitlines()[-1].split(",")
    assert float(last[3]) == 1.0
    assert float(last[2]) < 0.1


def test_a_rate_is_suggested_and_nothing_written(mini: Mini, tmp_path: Path) -> None:
    found = json.loads(done("train-seg", mini.nuclei, "-o", tmp_path / "x", "--find-lr", "--width", 4, "--json"))
    assert found["schema"] == "histoxai.find-lr/1"
    assert 1e-7 <= found["suggestion"] <= 1
    assert not (tmp_path / "x").exists()
    assert "try --lr" in done("train-cls", mini.balanced, "-o", tmp_path / "x", "--find-lr", "--batch-size", 8)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--batch-size", 1], 3, "with 1 in a pass of each process"),
        (["--precision", "fp16", "--device", "cpu"], 2, "only GPUs train in it"),
        (["--batch-size", 2, "--devices", 3], 2, "is shared by 3 processes"),
        (["--warmup", 50], 2, "less than --epochs"),
        (["--schedule", "step"], 2, "is not one of constant, cosine, plateau"),
        (["--nodes", 2], 2, "srun --nodes=2"),
        (["--ema", 1], 2, "less than 1"),
        (["--resume", "required"], 3, "holds no run to go on with"),
        (["--resume", "required", "--force"], 2, "one at a time"),
        (["--resume", "required", "--dry-run"], 3, "holds no run to go on with"),
        (["--find-lr", "--devices", 2], 2, "is for one process"),
    ],
)
def test_settings_that_make_no_sense(mini: Mini, tmp_path: Path, words: list[object], code: int, message: str) -> None:
    outcome = run("train-cls", mini.balanced, "-o", tmp_path / "x", *words)
    assert outcome.code == code
    assert message in outcome.err.replace("\n", " ")
    assert not (tmp_path / "x" / "last").exists()


def test_a_run_for_each_fold(mini: Mini, tmp_path: Path) -> None:
    stores = [tmp_path / f"f{k}.zarr" for k in range(3)]
    for k, path in enumerate(stores):
        done("augment", mini.patches, "-o", path, "--folds", 3, "--fold", k)
    words = ["--epochs", 1, "--batch-size", 8, "--json"]
    found = json.loads(done("train-cls", *reversed(stores), "-o", tmp_path / "runs", *words))
    assert [Path(r).name for r in found["runs"]] == ["fold0", "fold1", "fold2"]
    # every patch is tested once, by the network that has not seen it
    assert found["scores"]["patches"] == len(Patches(mini.patches)) == 90
    each = [json.loads((tmp_path / f"runs/fold{k}/run.json").read_text())["metrics"] for k in range(3)]
    assert found["accuracy_of_folds"]["each"] == [m["accuracy"] for m in each]
    pooled = sum(m["accuracy"] * m["patches"] for m in each) / 90
    assert found["scores"]["accuracy"]["mean"] == pytest.approx(pooled)
    assert json.loads((tmp_path / "runs/folds.json").read_text())["scores"] == found["scores"]
    outcome = run("train-cls", stores[0], stores[0], "-o", tmp_path / "y", *words)
    assert (outcome.code, "is fold 0, as" in outcome.err.replace("\n", " ")) == (3, True)
    assert run("train-cls", stores[0], mini.balanced, "-o", tmp_path / "y", *words).code == 3
    done("augment", mini.patches, "-o", tmp_path / "g.zarr", "--folds", 4, "--fold", 1)
    with pytest.raises(InputRefused, match="is a fold of another store"):
        check_folds([stores[0], tmp_path / "g.zarr"], tmp_path, Ranks())
    with pytest.raises(UsageError, match="under srun"):
        check_folds(stores, tmp_path, Ranks(per_node=2))
