"""Trainings with several processes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from histoxai.core.errors import HistoxaiError
from histoxai.core.progress import Silent
from histoxai.train.fabric import engine
from histoxai.train.loop import fit
from histoxai.train.ranks import placement
from tests.train.test_loop import job, settings, trained


def _member(folder: Path, norm: bool) -> None:
    chosen = settings(devices=2, batch_size=10)
    place = placement(2, None)
    with engine(chosen, place, partial(_member, folder, norm)) as fabric:
        torch.set_num_threads(1)
        work = job(43, norm=norm)
        found = fit(work, chosen, fabric, folder, {}, Silent())
        (folder / f"rank{place.rank}.json").write_text(json.dumps(found.history))


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    _member(tmp_path, False)
    ours, theirs = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    assert ours == theirs
    alone = trained(job(43, norm=False), settings(batch_size=10), tmp_path / "alone")
    assert len(ours) == len(alone.history) == 5
    for a, b in zip(ours, alone.history, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)


def _fails(folder: Path) -> None:
    chosen = settings(devices=2)
    place = placement(2, None)
    with engine(chosen, place, partial(_fails, folder)) as fabric:
        if place.rank == 1:
            raise HistoxaiError("no more of this")
        fabric.barrier()


def _dies(folder: Path) -> None:
    import os
    import signal

    chosen = settings(devices=2)
    place = placement(2, None)
    with engine(chosen, place, partial(_dies, folder)) as fabric:
        if place.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        fabric.barrier()


def test_what_another_process_raises_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(HistoxaiError, match="no more of this"):
        _fails(tmp_path)
    with pytest.raises(HistoxaiError, match="process 1 of 2 was killed by signal 9"):
        _dies(tmp_path)
