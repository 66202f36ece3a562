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


@pytest.mark.parametrize("prefix", ["", "module.", "module.encoder.", "_orig_mod.", "learner.trunk._orig_mod."])
@pytest.mark.parametrize("key", [None, "state_dict", "net", "state_dict_ema"])
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


def test_wrappers_inside_names_and_dicts_in_dicts_are_no_part_of_a_name(tmp_path: Path) -> None:
    theirs, ours = small(1), small(2)
    named = {
        k.replace("layer1.0.", "layer1._orig_mod.0._fsdp_wrapped_module."): v for k, v in theirs.state_dict().items()
    }
    assert named.keys() != theirs.state_dict().keys()
    torch.save({"trainer": {"net": {"inner": named}, "step": torch.tensor(3)}, "lr": 0.1}, tmp_path / "w.pth")
    report = load_weights(ours, tmp_path / "w.pth", Silent())
    assert (report["prefix"], report["partial"]) == ("trainer.net.inner.", False)
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())


class _Spoken(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_the_network_that_is_taken_of_several_is_said(tmp_path: Path) -> None:
    first, second, ours, spoken = small(1), small(2), small(3), _Spoken()
    torch.save({"model_ema": first.state_dict(), "model": second.state_dict()}, tmp_path / "w.pth")
    load_weights(ours, tmp_path / "w.pth", spoken)
    assert torch.equal(ours.fc.weight, second.fc.weight)
    assert "w.pth: takes model., not model_ema." in spoken.lines
    behind = {f"student.encoder.{k}": v for k, v in first.state_dict().items()}
    torch.save(behind | {"decoder.weight": torch.ones(2)}, tmp_path / "w.pth")
    load_weights(ours, tmp_path / "w.pth", spoken)
    assert torch.equal(ours.fc.weight, first.fc.weight)
    assert "w.pth: takes student.encoder., and leaves out 1 tensors, such as decoder.weight" in spoken.lines


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_only_floating_point_tensors_are_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    whole, ours = small(1).state_dict(), small(2)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    torch.save({**whole, "layer2.0.conv1.weight": whole["layer2.0.conv1.weight"].to(dtype)}, tmp_path / "w.pth")
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(InputRefused, match=rf"w.pth: layer2.0.conv1.weight is {kind}; only float16"):
        load_weights(ours, tmp_path / "w.pth", Silent(), allow_partial=True)
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())


def test_weights_in_halves_and_doubles_are_their_values(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        theirs, ours = small(1).to(dtype), small(2)
        torch.save(theirs.state_dict(), tmp_path / "w.pth")
        load_weights(ours, tmp_path / "w.pth", Silent())
        assert torch.equal(ours.conv1[0].weight, theirs.conv1[0].weight.float())
    torch.save({**theirs.state_dict(), "bn1.weight": theirs.bn1.weight.detach() * 1e300}, tmp_path / "w.pth")
    with pytest.raises(InputRefused, match=r"bn1\.weight has values that are not finite"):  # as float32
        load_weights(small(), tmp_path / "w.pth", Silent())


def vit(**more: object) -> nn.Module:
    import timm

    torch.manual_seed(1)
    return timm.create_model("test_vit", num_classes=3, img_size=64, **more)


def gaps(tmp_path: Path, given: dict[str, torch.Tensor]) -> str:
    """The message of weights that do not fill timm's small vision transformer."""
    torch.manual_seed(0)
    ours = resolve("classifier", "timm:test_vit")(3, (64, 64))
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    torch.save(given, tmp_path / "w.pth")
    with pytest.raises(InputRefused, match="--allow-partial-weights, which goes on record") as caught:
        load_weights(ours, tmp_path / "w.pth", Silent())
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())
    report = load_weights(ours, tmp_path / "w.pth", Silent(), allow_partial=True)
    assert report["partial"] is True
    return str(caught.value).removeprefix(f"--weights {tmp_path / 'w.pth'}: ").partition("; choose")[0]


def test_an_encoder_that_is_half_loaded_is_refused_with_both_lists_and_the_cause(tmp_path: Path) -> None:
    whole = vit().state_dict()
    none = "0 tensors of the encoder are missing, "
    scales = {k: v for k, v in vit(init_values=1e-5).state_dict().items() if ".ls" in k}
    assert len(scales) == 12
    examples = "blocks.0.ls1.gamma, blocks.0.ls2.gamma, blocks.1.ls1.gamma"
    assert gaps(tmp_path, whole | scales) == (
        f"{none}12 tensors are none of this network ({examples}); the file's network has LayerScale, which this one "
        "lacks"
    )
    deeper = {k.replace("blocks.5", "blocks.6"): v for k, v in whole.items() if k.startswith("blocks.5")}
    assert len(deeper) == 12
    assert gaps(tmp_path, whole | deeper).endswith("; the file's network is deeper")
    shorter = {k: v for k, v in whole.items() if not k.startswith("blocks.5")}
    assert gaps(tmp_path, shorter) == (
        "12 tensors of the encoder are missing (blocks.5.attn.proj.bias, blocks.5.attn.proj.weight, "
        "blocks.5.attn.qkv.bias), 0 tensors are none of this network; this network is deeper, or the file is one of "
        "several parts"
    )
    assert gaps(tmp_path, whole | {"neck.weight": torch.ones(2)}).endswith("has layers that this one lacks")
    assert gaps(tmp_path, {k: v for k, v in whole.items() if k != "norm.bias"}).endswith("; the file is incomplete")
    renamed = {k.replace("norm.bias", "last.bias"): v for k, v in whole.items()}
    assert gaps(tmp_path, renamed).endswith("; the file is of another variant of this network")
    registers = vit(reg_tokens=2).state_dict()["reg_token"]
    assert "the file's network has register tokens" in gaps(tmp_path, whole | {"reg_token": registers})


def test_less_than_half_an_encoder_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    whole = small().state_dict()
    torch.save({k: v for k, v in whole.items() if k.startswith(("conv1", "bn1"))}, tmp_path / "w.pth")
    with pytest.raises(InputRefused, match=r"of the network's \d+ tensors"):
        load_weights(small(), tmp_path / "w.pth", Silent(), allow_partial=True)


def test_counters_tables_and_heads_are_no_gaps(tmp_path: Path) -> None:
    whole = {k: v for k, v in small(1).state_dict().items() if "num_batches" not in k and not k.startswith("fc.")}
    more = {"head.mlp.0.weight": torch.ones(2), "dino_head.last.weight": torch.ones(2)}
    tables = {"layer1.relative_position_index": torch.arange(4)}
    torch.save(whole | more | tables, tmp_path / "w.pth")
    report = load_weights(small(2), tmp_path / "w.pth", Silent())
    assert (report["partial"], report["missing"], report["head"]) == (False, [], "drawn anew")
    assert report["unexpected"] == sorted(more)
    swin = resolve("classifier", "swin-t")(3, (64, 64)).state_dict()
    torch.save({k: v for k, v in swin.items() if "index" not in k}, tmp_path / "w.pth")
    assert load_weights(resolve("classifier", "swin-t")(3, (64, 64)), tmp_path / "w.pth", Silent())["missing"] == []


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


def test_partial_weights_are_on_record_and_shown(mini: Mini, tmp_path: Path) -> None:
    whole = small(7, classes=3).state_dict()
    torch.save({k: v for k, v in whole.items() if k != "bn1.weight"} | {"neck.bias": torch.ones(2)}, tmp_path / "w.pth")
    command = ["train-cls", mini.balanced, "-o", tmp_path / "cls", "--arch", "timm:test_resnet", "--epochs", 1]
    command += ["--weights", tmp_path / "w.pth", "--batch-size", 8]
    refused = run(*command)
    assert refused.code == 3
    assert "1 tensors of the encoder are missing (bn1.weight), 1 tensors are none of this network (neck.bias)" in (
        " ".join(refused.err.split())
    )
    done(*command, "--allow-partial-weights")
    opened = open_run(tmp_path / "cls")
    assert "--allow-partial-weights" in opened.facts["run"]["command"]
    kept = opened.facts["pretrained"]
    assert (kept["missing"], kept["unexpected"], kept["partial"]) == (["bn1.weight"], ["neck.bias"], True)
    words = (
        "began from part of the encoder in w.pth (--allow-partial-weights): 1 tensors were missing and stayed random, "
        "1 of the file were left out"
    )
    assert opened.notice == f"{tmp_path / 'cls'}: {words}"
    shown = json.loads(done("info", tmp_path / "cls", "--json"))
    assert (shown["notice"], shown["pretrained"]) == (opened.notice, kept)
    assert "notice" in done("info", tmp_path / "cls")


def test_the_pipeline_takes_a_transformer(mini: Mini, tmp_path: Path) -> None:
    cls, maps = tmp_path / "cls", tmp_path / "maps"
    arch = ["--arch", "timm:test_vit", "--normalise", "imagenet"]
    done("train-cls", mini.balanced, "-o", cls, *arch, "--epochs", 1)
    asked = ["explain", mini.balanced, "--model", cls, "-o", maps, "--per-class", 1]
    done(*asked, "--method", "gradcam,saliency,eigencam")
    refused = run(*asked, "--method", "guided", "--force")
    assert refused.code == 3
    assert "use ig, saliency or gradcam" in refused.err
