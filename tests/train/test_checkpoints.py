"""Checkpoints: torn ones, those of another network, and which are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from histoxai.core import provenance
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Silent
from histoxai.networks.weights import save_tensors
from tests.conftest import without_seal
from tests.train.test_loop import job, same, settings, trained


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every epoch, however short."""
    monkeypatch.setattr("histoxai.train.checkpoints.SHARE", 1e9)


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("how", ["cut", "flipped", "no record", "torn record", "no tensors"])
def test_a_torn_checkpoint_is_not_loaded_and_the_one_before_is(tmp_path: Path, how: str) -> None:
    whole, fresh = job(), job()
    trained(whole, settings(), tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        trained(job(), settings(), tmp_path / "parts", StopsIn("epoch 4"))
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
    whole, fresh = job(), job()
    trained(whole, settings(), tmp_path / "whole")
    trained(job(), settings(epochs=3), tmp_path / "parts")
    for path in (tmp_path / "parts/last").glob("*.safetensors"):
        path.write_bytes(b"torn")
    listener = Silent()
    trained(fresh, settings(), tmp_path / "parts", listener)
    assert "training starts anew" in listener.warnings[-1]
    assert same(whole, fresh)
    # and what it writes is kept, although the torn ones came later
    names = sorted(p.name for p in (tmp_path / "parts/last").glob("at-*.json"))
    assert names[-1] == "at-000005-00000000.json"
    trained(job(), settings(epochs=4), tmp_path / "more")
    for path in (tmp_path / "more/last").glob("*.safetensors"):
        path.write_bytes(b"torn")
    with pytest.raises(KeyboardInterrupt):
        trained(job(), settings(), tmp_path / "more", StopsIn("epoch 3"))
    assert [p.name for p in sorted((tmp_path / "more/last").glob("at-*.json"))][-1] == "at-000002-00000000.json"
    with pytest.raises(InputRefused, match="holds no checkpoint"):
        trained(job(), settings(resume="required"), tmp_path / "nothing")


@pytest.mark.parametrize("how", ["shape", "missing", "moments"])
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, how: str) -> None:
    trained(job(), settings(epochs=2), tmp_path)
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
        trained(job(), settings(), tmp_path)


@pytest.mark.usefixtures("every_epoch")
def test_two_checkpoints_are_kept_and_the_best_weights(tmp_path: Path) -> None:
    found = trained(job(), settings(), tmp_path)
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
    assert not place.due(10, boundary=True)
    assert not place.due(10, boundary=False)
    now[0] = 151.0  # writing took 5 s, a tenth of this
    assert place.due(10, boundary=True)
    assert not place.due(10, boundary=False)
    assert place.due(0.5, boundary=False)
