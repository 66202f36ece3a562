"""Devices: every stage takes the GPU of its worker's rank or of its training rank, with a faked number of GPUs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from histoxai import settings
from histoxai.core.progress import Silent
from histoxai.networks.inference import pick_device
from histoxai.settings import Work
from histoxai.train import fabric
from histoxai.train.fabric import check_device
from histoxai.train.ranks import Ranks
from tests.conftest import Mini

GPUS = 3


class DeviceUsed(Exception):
    """Raised where a stage moves its network to a GPU."""


@pytest.fixture(autouse=True)
def _gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three GPUs on which the first use of one is reported."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: GPUS)
    to = torch.nn.Module.to

    def moved(self: torch.nn.Module, *arguments: Any, **named: Any) -> Any:
        device = next((a for a in arguments if isinstance(a, torch.device)), named.get("device"))
        if device is not None and torch.device(device).type == "cuda":
            raise DeviceUsed(str(device))
        return to(self, *arguments, **named)

    monkeypatch.setattr(torch.nn.Module, "to", moved)


def _masks(mini: Mini, output: Path, device: str, work: Work) -> None:
    from histoxai.stages.masks import masks

    masks(mini.balanced, mini.seg, output, settings.Masks(device=device), Silent(), work)


def _predict(mini: Mini, output: Path, device: str, work: Work) -> None:
    from histoxai.stages.predict import predict

    predict(mini.balanced, mini.cls, output, settings.Predict(device=device), Silent(), work)


def _explain(mini: Mini, output: Path, device: str, work: Work) -> None:
    from histoxai.explain.inputs import ExplainInputs
    from histoxai.stages.explain import explain

    chosen = settings.Explain(methods=("saliency",), device=device, micro_batch=4)
    explain(ExplainInputs(mini.balanced, mini.cls), output, chosen, Silent(), work)


def _score(mini: Mini, output: Path, device: str, work: Work) -> None:
    from histoxai.stages.score import FaithfulnessInputs, ScoreInputs, fill_scores

    tests = FaithfulnessInputs(settings.Faithfulness(device=device), mini.cls)
    fill_scores(ScoreInputs(mini.maps, mini.masks, faithfulness=tests), output, settings.Score(), Silent(), work)


STAGES: dict[str, Callable[[Mini, Path, str, Work], None]] = {
    "masks": _masks,
    "predict": _predict,
    "explain": _explain,
    "score": _score,
}


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("verb", STAGES)
def test_workers_of_a_stage_take_one_gpu_each(mini: Mini, tmp_path: Path, verb: str, device: str) -> None:
    used = []
    for rank in range(4):
        with pytest.raises(DeviceUsed) as caught:
            STAGES[verb](mini, tmp_path / f"{rank}", device, Work(rank=rank, feed=[0]))
        used.append(str(caught.value))
    assert used == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]


@pytest.mark.parametrize("verb", STAGES)
def test_a_named_gpu_is_that_of_every_worker(mini: Mini, tmp_path: Path, verb: str) -> None:
    for rank in range(2):
        with pytest.raises(DeviceUsed, match="cuda:1"):
            STAGES[verb](mini, tmp_path / f"{rank}", "cuda:1", Work(rank=rank, feed=[0]))


def test_training_ranks_take_one_gpu_each() -> None:
    chosen = settings.TrainCls(device="cuda")
    used = [str(check_device(chosen, Ranks(rank=r, local_rank=r, per_node=3))) for r in range(3)]
    assert used == ["cuda:0", "cuda:1", "cuda:2"]
    second_node = Ranks(rank=4, local_rank=1, per_node=3, nodes=2)
    assert str(check_device(chosen, second_node)) == "cuda:1"


@pytest.mark.parametrize(("device", "expected"), [("auto", [0]), ("cuda", [0]), ("cuda:2", [2])])
def test_training_alone_takes_the_first_or_the_named_gpu(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, expected: list[int]
) -> None:
    from histoxai.stages.train_cls import train_cls
    from histoxai.stages.train_seg import train_seg

    given: list[Any] = []

    def started(**arguments: Any) -> None:
        given.append((arguments["accelerator"], arguments["devices"]))
        raise DeviceUsed

    monkeypatch.setattr(fabric, "Fabric", started)
    with pytest.raises(DeviceUsed):
        train_cls(mini.balanced, tmp_path / "cls", settings.TrainCls(device=device), Silent(), Work())
    with pytest.raises(DeviceUsed):
        train_seg(mini.nuclei, tmp_path / "seg", settings.TrainSeg(device=device, width=4), Silent(), Work())
    assert given == [("cuda", expected)] * 2


def test_no_caller_can_forget_the_rank() -> None:
    assert inspect.signature(pick_device).parameters["rank"].default is inspect.Parameter.empty
