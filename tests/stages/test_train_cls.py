"""`train-cls` as users run it: its flags, outputs and refusals; the loop is in tests/train/."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histoxai.store.shards import Store
from histoxai.train.dataset import PatchDataset
from tests.conftest import SEG, Mini, done, run


def test_predictions_of_training_and_of_explain_agree(mini: Mini) -> None:
    trained, explained = Store(mini.cls / "predictions.zarr"), Store(mini.maps)
    assert trained.read("patch_id").tolist() == explained.read("patch_id").tolist()
    np.testing.assert_array_equal(trained.read("logits"), explained.read("predictions/logits"))
    assert np.array_equal(explained.read("targets"), explained.read("predictions/prediction"))
    facts = json.loads((mini.cls / "run.json").read_text())
    right = trained.read("prediction") == trained.read("label")
    assert facts["metrics"]["accuracy"] == pytest.approx(right.mean())


@pytest.mark.slow
@pytest.mark.parametrize("by", ["thread", "workers"])
def test_a_set_too_large_to_keep_is_read_ahead(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr("histoxai.train.dataset.KEEP_BYTES", 0)
    if by == "workers":  # as on a GPU
        monkeypatch.setattr(PatchDataset, "read_by_thread", PatchDataset.read_by_workers)
    done("train-cls", mini.balanced, "-o", tmp_path / "cls", "--epochs", 3, "--batch-size", 8)
    assert (tmp_path / "cls/weights.safetensors").read_bytes() == (mini.cls / "weights.safetensors").read_bytes()
    done("train-seg", mini.nuclei, "-o", tmp_path / "seg", *SEG)
    assert (tmp_path / "seg/weights.safetensors").read_bytes() == (mini.seg / "weights.safetensors").read_bytes()
    patches = shutil.copytree(mini.balanced, tmp_path / "balanced.zarr")
    path = patches / "images/c/0/0/0/0"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    outcome = run("train-cls", patches, "-o", tmp_path / "other", "--epochs", 1)
    assert outcome.code == 1
    assert "balanced.zarr: array images, shard 0, patch scan" in outcome.err
    assert "--verify`" in outcome.err
    assert "Traceback" not in outcome.err


def test_history_is_in_csv_zarr_and_tensorboard(mini: Mini) -> None:
    lines = (mini.cls / "history.csv").read_text().splitlines()
    assert lines[0].split(",")[:2] == ["epoch", "lr"]
    losses = Store(mini.cls / "history.zarr").read("validation_loss")
    column = lines[0].split(",").index("validation_loss")
    assert [float(x.split(",")[column]) for x in lines[1:]] == pytest.approx(losses.tolist())
    assert list((mini.cls / "tensorboard").glob("events.*"))
    assert not (mini.cls / "last").exists()


def test_settings_that_cannot_be_trained(mini: Mini, tmp_path: Path) -> None:
    assert (
        "with 1 in a pass of each process"
        in run("train-cls", mini.balanced, "-o", tmp_path / "x", "--batch-size", 1).err
    )
    assert run("train-cls", mini.balanced, "-o", tmp_path / "x", "--arch", "vgg").code == 2
    assert run("train-cls", mini.patches, "-o", tmp_path / "x").code == 3
    assert run("train-cls", mini.nuclei, "-o", tmp_path / "x").code == 3
    assert run("train-seg", mini.balanced, "-o", tmp_path / "x").code == 3
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
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
