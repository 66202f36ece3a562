"""predict: what a classifier says of any patches, in shares, resumed, with embeddings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from histoxai.networks.inference import predict
from histoxai.networks.run_folder import open_run
from histoxai.networks.weights import load_model
from histoxai.store.patches import Patches
from histoxai.store.shards import Store
from tests.conftest import Mini, array_files, done, run, write_diagset


def command(mini: Mini, output: Path, *more: object) -> list[object]:
    return ["predict", mini.balanced, "--model", mini.cls, "-o", output, "--shard-size", 16, *more]


def test_predictions_are_the_networks_and_those_of_training(mini: Mini, tmp_path: Path) -> None:
    summary = json.loads(done(*command(mini, tmp_path / "p", "--embeddings", "--json")))
    store, patches = Store(tmp_path / "p"), Patches(mini.balanced)
    n = len(patches.patch_id)
    assert summary["patches"] == n
    assert summary["done"] == {"predictions": -(-n // 16)}
    assert store.header["schema"] == "predictions/1"
    found = {k: store.read(k) for k in ("logits", "prediction", "probability", "embedding", "row", "patch_id", "label")}
    assert found["row"].tolist() == list(range(n))
    assert found["patch_id"].tolist() == patches.patch_id.tolist()
    assert found["label"].tolist() == patches.label.tolist()
    assert list(store.group.attrs["classes"]) == patches.classes
    model = load_model(open_run(mini.cls), torch.device("cpu"))
    wanted = predict(model, patches.read(np.arange(n)), 16, torch.device("cpu"))
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
    # the head of the embeddings gives the logits
    assert found["embedding"].shape == (n, 64)
    head = model.head
    with torch.no_grad():
        np.testing.assert_allclose(head(torch.from_numpy(found["embedding"])).numpy(), found["logits"], atol=1e-5)
    kept = Store(mini.cls / "predictions.zarr")
    at = kept.read("row")
    assert len(at)
    np.testing.assert_allclose(kept.read("logits"), found["logits"][at], rtol=1e-5, atol=1e-6)


def test_shares_resumes_and_workers_give_the_same_bytes(mini: Mini, tmp_path: Path) -> None:
    done(*command(mini, tmp_path / "whole", "--embeddings", "--threads", 1))
    part = command(mini, tmp_path / "part", "--embeddings", "--threads", 1)
    shards = Store(tmp_path / "whole").completeness()["predictions"]["shards"]
    assert done(*part, "--count-shards") == f"0-{shards - 1}\n"
    done(*part, "--shard", "1")
    assert done(*part, "--missing").startswith("0,2")
    done(*part)
    assert done(*part, "--missing") == ""
    chunk = next(p for p in (tmp_path / "part" / "logits" / "c").rglob("*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[10] ^= 4
    chunk.write_bytes(bytes(data))
    done(*part, "--verify")
    words = [str(w) for w in command(mini, tmp_path / "two", "--embeddings", "--threads", 2, "--workers", 2)]
    subprocess.run([sys.executable, "-m", "histoxai", *words], check=True, capture_output=True)
    for name in ("part", "two"):
        assert array_files(tmp_path / name) == array_files(tmp_path / "whole")
        assert Store(tmp_path / name).digest() == Store(tmp_path / "whole").digest()
    info = json.loads(done("info", tmp_path / "whole", "--json"))
    assert (info["kind"], info["complete"]) == ("predictions/1", True)


def test_patches_without_labels_or_with_other_classes(mini: Mini, tmp_path: Path) -> None:
    write_diagset(tmp_path / "d", scans=1)
    done("ingest", tmp_path / "d", "-o", tmp_path / "s", "--classes", "A,N", "--mpp", 1)
    for store in (mini.nuclei, tmp_path / "s"):
        outcome = run("predict", store, "--model", mini.cls, "-o", tmp_path / "p", "--force")
        assert outcome.code == 0, outcome.err
        assert "are not those of" in outcome.err
    assert "smaller or larger" in outcome.err
    assert "classes" in Store(tmp_path / "p").group.attrs


def test_what_is_refused(mini: Mini, tmp_path: Path) -> None:
    no_classifier = run("predict", mini.balanced, "--model", mini.seg, "-o", tmp_path / "p")
    assert no_classifier.code == 3
    assert "expected a classifier" in no_classifier.err
    done(*command(mini, tmp_path / "p", "--split", "test"))
    other = run(*command(mini, tmp_path / "p", "--split", "test", "--embeddings"))
    assert other.code == 3
    assert "embeddings" in other.err
    assert run("predict", mini.balanced, "--model", mini.cls, "-o", tmp_path / "p", "--split", "magic").code == 2
    done(*command(mini, tmp_path / "q", "--dry-run"))
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize("arch", ["timm:test_vit", "timm:test_resnet"])
def test_embeddings_of_other_backbones_are_what_their_head_sees(mini: Mini, tmp_path: Path, arch: str) -> None:
    done("train-cls", mini.balanced, "-o", tmp_path / "cls", "--arch", arch, "--epochs", 1, "--normalise", "imagenet")
    done("predict", mini.balanced, "--model", tmp_path / "cls", "-o", tmp_path / "p", "--embeddings")
    store, model = Store(tmp_path / "p"), load_model(open_run(tmp_path / "cls"), torch.device("cpu"))
    head = model.get_submodule(model.head_layer)
    with torch.no_grad():
        again = head(torch.from_numpy(store.read("embedding"))).numpy()
    np.testing.assert_allclose(again, store.read("logits"), atol=1e-5)
