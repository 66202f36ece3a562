"""Run folders and weights: loaded as they were saved, or refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from histoxai.core.errors import InputRefused, SettingsDiffer
from histoxai.networks.run_folder import open_run, run_state
from histoxai.networks.weights import load_model
from tests.conftest import Mini, without_seal


@pytest.fixture
def cls(mini: Mini, tmp_path: Path) -> Path:
    """A copy of the tiny classifier's run folder, to be spoiled."""
    return Path(shutil.copytree(mini.cls, tmp_path / "cls"))


def test_a_run_folder_loads_as_it_was_saved(mini: Mini) -> None:
    run_folder = open_run(mini.cls, "classifier")
    model = load_model(run_folder, torch.device("cpu"))
    assert not model.training
    saved = safetensors.torch.load_file(mini.cls / "weights.safetensors")
    assert all(torch.equal(v, saved[k]) for k, v in model.state_dict().items())


def test_what_older_runs_did_not_record_counts_as_what_they_did(tmp_path: Path) -> None:
    run_folder, hed = tmp_path / "cls", {"hed": 0.1}
    (run_folder / "last").mkdir(parents=True)
    (run_folder / "last" / "identity.json").write_text(json.dumps({"settings": {"lr": 0.1, "augment": hed}}))

    def asked(augment: dict[str, float] | None = None, **more: str) -> str:
        return run_state(run_folder, {"settings": {"lr": 0.1, "augment": augment, **more}}, "train-cls")

    (run_folder / "history.csv").write_text("epoch")
    assert asked({**hed, "noise": 0.0, "crop": 0.0}, stop_rule="patience") == "unfinished"
    with pytest.raises(SettingsDiffer, match=r"exists with settings.stop_rule = patience, asked for thesis"):
        asked({**hed, "noise": 0.0, "crop": 0.0}, stop_rule="thesis")
    with pytest.raises(SettingsDiffer, match=r"exists with settings.augment.crop = 0.0, asked for 0.2"):
        asked({**hed, "noise": 0.0, "crop": 0.2})


def refused(path: Path) -> str:
    with pytest.raises(InputRefused) as error:
        load_model(open_run(path, "classifier"), torch.device("cpu"))
    assert str(path) in str(error.value)
    return str(error.value)


def test_spoiled_run_folders_are_refused(cls: Path, mini: Mini) -> None:
    assert "expected a classifier" in refused(mini.seg)
    weights = cls / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    assert "checksum differs" in refused(cls)
    weights.unlink()
    assert "missing; train again" in refused(cls)
    (cls / "run.json").write_text("{")
    assert "not a run folder" in refused(cls)
    (cls / "last").mkdir()
    assert "has not finished" in refused(cls)


def test_weights_that_do_not_fit_or_would_run_code_are_refused(cls: Path) -> None:
    from histoxai.core import provenance

    facts = without_seal(cls / "run.json")
    weights = cls / "weights.safetensors"

    def put(data: bytes) -> None:
        weights.write_bytes(data)
        facts["weights"]["checksum"] = provenance.checksum(data)
        (cls / "run.json").write_text(json.dumps(facts))

    tensors = safetensors.torch.load_file(weights)
    tensors.pop("head.bias")
    put(safetensors.torch.save(tensors))
    assert "does not fit" in refused(cls)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (cls / "ran",))  # type: ignore[return-value]

    put(pickle.dumps(Evil()))
    assert "does not fit" in refused(cls)
    assert not (cls / "ran").exists()
    facts["arch"] = "os:system"
    (cls / "run.json").write_text(json.dumps(facts))
    assert "unknown classifier" in refused(cls)
