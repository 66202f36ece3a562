"""Weights from disk: prefixes, heads, positions, refusals, and encoders that stay as they are."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from histoxai.core.errors import InputRefused
from histoxai.core.progress import Silent
from histoxai.core.registry import resolve
from histoxai.networks.normalisation import Normalised
from histoxai.networks.pretrained import freeze_encoder, load_weights, read_weights
from histoxai.networks.run_folder import open_run
from histoxai.networks.weights import load_model
from tests.conftest import Mini, done, run


def small(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return resolve("classifier", "timm:test_resnet")(classes, (64, 64))


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder."])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_come_through_wrappers_and_prefixes(tmp_path: Path, prefix: str, key: str | None, ending: str) -> None:
    theirs, ours = small(1), Normalised(small(2), "imagenet")
    named = {prefix + k: v for k, v in theirs.state_dict().items()}
    path = tmp_path / f"w.{ending}"
    if ending == "safetensors":
        safetensors.torch.save_file(named, path)
    else:
        torch.save({key: named, "epoch": 3} if key else named, path)
    report = load_weights(ours, path, Silent())
    for name, value in ours.net.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    assert (report["missing"], report["unexpected"], report["head"]) == ([], [], "loaded")


def test_a_head_of_other_classes_is_drawn_anew(tmp_path: Path) -> None:
    theirs, ours = small(1, classes=5), small(2)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    torch.save({**theirs.state_dict(), "projector.weight": torch.ones(2)}, tmp_path / "w.pth")
    report = load_weights(ours, tmp_path / "w.pth", Silent())
    assert (report["head"], report["unexpected"]) == ("drawn anew", ["projector.weight"])
    assert torch.equal(ours.fc.weight, before["fc.weight"])
    assert torch.equal(ours.conv1[0].weight, theirs.conv1[0].weight)
    assert report["loaded"] == len([k for k in before if not k.startswith("fc.") and "num_batches" not in k])


def test_positions_of_a_transformer_are_interpolated_as_torchvision_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.VisionTransformer(96, 16, 12, 6, 384, 1536, num_classes=3)
    ours = resolve("classifier", "vit-s-16")(3, (64, 64))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    load_weights(ours, tmp_path / "w.pth", Silent())
    wanted = torchvision.models.vision_transformer.interpolate_embeddings(64, 16, dict(theirs.state_dict()))
    torch.testing.assert_close(ours.encoder.pos_embedding.detach(), wanted["encoder.pos_embedding"])


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = small().state_dict()
    first = next(iter(whole))
    cases = {
        "another network": (resolve("classifier", "densenet121")(3, (64, 64)).state_dict(), "it names them .*--arch"),
        "a shape": ({**whole, first: torch.ones(1, 2)}, rf"{first} is \(1, 2\)"),
        "not finite": ({**whole, first: whole[first] * float("nan")}, "not finite"),
        "no tensors": ({"epoch": 3}, "no tensors by name"),
    }
    for name, (given, words) in cases.items():
        torch.save(given, tmp_path / f"{name}.pth")
        with pytest.raises(InputRefused, match=words) as caught:
            load_weights(small(), tmp_path / f"{name}.pth", Silent())
        assert "\n" not in str(caught.value)


class _Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["torch", "legacy", "plain"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path: Path, form: str) -> None:
    path, victim = tmp_path / "w.pth", tmp_path / "created"
    given = {**small().state_dict(), "extra": _Malice(victim)}
    if form == "plain":
        path.write_bytes(pickle.dumps(given))
    else:
        torch.save(given, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(InputRefused, match="nothing in it was run"):
        read_weights(path)
    assert not victim.exists()
    for damaged in (b"", b"nonsense", path.read_bytes()[:200]):
        path.write_bytes(damaged)
        for name in (path, path.rename(tmp_path / "w.safetensors")):
            with pytest.raises(InputRefused):
                read_weights(name)


def test_a_frozen_encoder_keeps_weights_and_statistics() -> None:
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    freeze_encoder(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2):
        model.train(True)
        assert model.fc.training
        assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        model(torch.rand(4, 3, 64, 64)).square().sum().backward()
        optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fc.weight", "fc.bias"}


def test_train_cls_starts_from_a_file_and_records_it(mini: Mini, tmp_path: Path) -> None:
    theirs = small(7, classes=10)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    command = ["train-cls", mini.balanced, "-o", tmp_path / "cls", "--arch", "timm:test_resnet", "--epochs", 1]
    command += ["--weights", tmp_path / "w.pth", "--freeze", "encoder", "--batch-size", 8]
    outcome = run(*command)
    assert outcome.code == 0, outcome.err
    assert "the head is drawn anew" in outcome.err
    opened = open_run(tmp_path / "cls")
    assert opened.facts["recipe"] == {"classes": 3, "size": [64, 64], "normalise": "imagenet"}
    assert opened.facts["normalisation"] == "uint8 / 255, imagenet inside"
    checksum = opened.facts["pretrained"]["checksum"]
    assert opened.facts["identity"]["settings"]["weights"] == checksum
    model = load_model(opened, torch.device("cpu"))
    assert isinstance(model, Normalised)
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]) != name.startswith("fc."), name
    # the same file elsewhere is the same run; another file is not
    (tmp_path / "w.pth").rename(tmp_path / "moved.pth")
    command[command.index(tmp_path / "w.pth")] = tmp_path / "moved.pth"
    assert json.loads(done(*command, "--json"))["digest"] == opened.digest
    torch.save(small(8).state_dict(), tmp_path / "moved.pth")
    refused = run(*command)
    assert refused.code == 3
    assert "settings.weights" in refused.err
    assert run(*command[:-4], "--weights", tmp_path / "nowhere.pth").code == 3


def test_the_pipeline_takes_a_transformer(mini: Mini, tmp_path: Path) -> None:
    cls, maps = tmp_path / "cls", tmp_path / "maps"
    arch = ["--arch", "timm:test_vit", "--normalise", "imagenet"]
    done("train-cls", mini.balanced, "-o", cls, *arch, "--epochs", 1)
    asked = ["explain", mini.balanced, "--model", cls, "-o", maps, "--per-class", 1]
    done(*asked, "--method", "gradcam,saliency,eigencam")
    refused = run(*asked, "--method", "guided", "--force")
    assert refused.code == 3
    assert "use ig, saliency or gradcam" in refused.err
