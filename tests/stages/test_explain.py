"""`explain` as users run it: every method, shards and order, checks, parity, precision, null models, memory."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histoxai.core import registry
from histoxai.core.provenance import keyed_seed
from histoxai.core.registry import names, resolve
from histoxai.explain import inputs, network
from histoxai.explain.bases.method import Batch, explain_all
from histoxai.explain.maps_store import stored_methods
from histoxai.explain.methods import ig, lime
from histoxai.explain.network import Network
from histoxai.networks.inference import pick_device, to_tensor
from histoxai.networks.run_folder import open_run
from histoxai.networks.weights import load_model
from histoxai.store import partial_shards
from histoxai.store.patches import Patches
from histoxai.store.shards import Store
from tests.conftest import FAST, Mini, array_files, done, run
from tests.core.test_plugins import METHOD, install

FEW = [
    *("-O", "ig.steps=8", "-O", "nt.steps=4", "-O", "nt.samples=2", "-O", "lime.samples=30", "-O", "lime.max_dist=10"),
    *(
        "-O",
        "kernelshap.samples=30",
        "-O",
        "kernelshap.max_dist=10",
        "-O",
        "rise.masks=20",
        "-O",
        "smoothgrad.samples=3",
    ),
    *("-O", "occlusion.window=16", "-O", "occlusion.stride=16", "-O", "gradshap.samples=3"),
    *("-O", "smoothgrad.samples=3"),
]


def explain(mini: Mini, output: Path, *more: object) -> list[object]:
    return ["explain", mini.balanced, "--model", mini.cls, "-o", output, *more]


@pytest.fixture(scope="module")
def every(mini: Mini, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every registered method over twelve patches, in one go."""
    output = tmp_path_factory.mktemp("every") / "m"
    done(*explain(mini, output, "--method", ",".join(names("method")), *FEW, "--per-class", 4, "--shard-size", 5))
    return output


def test_every_method_in_shards_of_any_order_has_the_same_bytes(mini: Mini, tmp_path: Path, every: Path) -> None:
    """One shard at a time, backwards, methods shuffled and added later, some rows there already."""
    methods = names("method")
    random.Random(1).shuffle(methods)
    common = ["--per-class", 4, "--shard-size", 5]
    for some in (methods[:9], methods[9:], methods):
        given = [w for a, b in zip(FEW[::2], FEW[1::2], strict=True) if b.split(".")[0] in some for w in (a, b)]
        for shard in (2, 0, 1):
            done(*explain(mini, tmp_path / "m", "--method", ",".join(some), *given, *common, "--shard", shard))
    assert array_files(tmp_path / "m") == array_files(every)
    assert Store(tmp_path / "m").digest() == Store(every).digest()


@pytest.mark.slow
def test_every_method_is_scored(mini: Mini, tmp_path: Path, every: Path) -> None:
    summary = json.loads(done("score", every, "--masks", mini.masks, "-o", tmp_path / "s", "--json"))
    assert {r["method"] for r in summary["rows"]} == set(names("method"))
    assert all(0 <= r["mean"] <= 1 for r in summary["rows"] if r["metric"] == "iou" and r["mean"] is not None)


def test_checks_are_those_of_the_maps(mini: Mini, every: Path) -> None:
    store, patches = Store(every), Patches(mini.balanced)
    columns = list(store.array("checks/ig").attrs["columns"])  # type: ignore[arg-type, call-overload]
    assert columns == ["constant", "zero", "negative_share", "completeness_error", "steps"]
    checks = store.read("checks/ig")
    maps = store.read("attributions/ig").astype(np.float64)
    net = load_model(open_run(mini.cls), pick_device("cpu", 0))
    images = to_tensor(patches.read(store.read("row")))
    with torch.no_grad():
        rise = (net(images) - net(torch.zeros_like(images))).double().numpy()
    for i, target in enumerate(store.read("targets")):
        negative = -maps[i][maps[i] < 0].sum() / np.abs(maps[i]).sum()
        error = abs(maps[i].sum() - rise[i, target]) / abs(rise[i, target])
        np.testing.assert_allclose(checks[i], [0, 0, negative, error, 8], rtol=1e-3, atol=1e-3)
    summary = json.loads(done("info", every, "--json"))["checks"]
    assert set(summary) == set(names("method"))
    assert summary["ig"]["patches"] == 12
    assert summary["ig"]["completeness_error"]["median"] == pytest.approx(np.median(checks[:, 3]))
    assert summary["ig"]["negative_share"]["max"] == pytest.approx(checks[:, 2].max())
    assert (summary["ig"]["constant"], summary["ig"]["zero"]) == (0, 0)
    assert "completeness error" in done("info", every)


def test_a_run_ends_with_its_checks(mini: Mini, tmp_path: Path) -> None:
    command = explain(mini, tmp_path / "m", "--method", "lime", *FAST[-4:], "--per-class", 1)
    text = done(*command)
    assert "checks of the maps" in text
    assert "r2" in text
    summary = json.loads(done(*command, "--json"))
    assert summary["done"] == {"predictions": 0, "lime": 0}
    assert summary["checks"]["lime"]["r2"]["n"] == 3


def test_list_needs_nothing_else() -> None:
    assert all(name in done("explain", "--list") for name in names("method"))
    assert [r["method"] for r in json.loads(done("explain", "--list", "--json"))["rows"]] == names("method")


def test_check_parity_on_the_users_own_store(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = explain(mini, tmp_path / "m", *FAST, "--check-parity", 2)
    summary = json.loads(done(*command, "--json"))
    assert not (tmp_path / "m").exists()
    assert {r["method"]: r["holds"] for r in summary["rows"]} == dict.fromkeys(("ig", "nt", "lime", "gradcam"), True)
    assert all(r["patches"] == 2 and r["difference"] < 1e-3 for r in summary["rows"])
    assert "holds" in done(*command)
    assert (
        json.loads(done(*command[:6], "--method", "center", "--check-parity", 1, "--json"))["rows"][0]["holds"] is None
    )
    gradient = Network.gradient
    monkeypatch.setattr(Network, "gradient", lambda self, x, t: 1.01 * gradient(self, x, t))
    outcome = run(*command)
    assert outcome.code == 1
    assert "ig, nt: differs from its library by more than the contract allows" in outcome.err
    assert "BROKEN" in outcome.out


@pytest.mark.slow
def test_bfloat16_says_how_far_it_is_from_float32(mini: Mini, tmp_path: Path) -> None:
    command = explain(mini, tmp_path / "m", "--method", "ig,gradcam", "-O", "ig.steps=8", "--shard-size", 4)
    summary = json.loads(done(*command, "--precision", "bf16", "--json"))
    for name in ("ig", "gradcam"):
        rank = summary["checks"][name]["rank_to_fp32"]
        assert rank["n"] == Store(tmp_path / "m").completeness()[name]["shards"]  # the first patch of each
        assert 0.5 < rank["median"] <= 1
    ranks = Store(tmp_path / "m").read("checks/ig")[:, -1]
    assert np.isfinite(ranks[::4]).all()
    assert np.isnan(np.delete(ranks, np.s_[::4])).all()
    refused = run(*command)
    assert refused.code == 3
    assert "precision = bf16, asked for fp32" in refused.err
    assert "only GPUs have it" in run(*explain(mini, tmp_path / "x", "--precision", "tf32")).err
    looked = json.loads(done(*command, "--precision", "bf16", "--check-parity", 1, "--json"))
    assert all(r["holds"] and 0.5 < r["rank_to_fp32"] <= 1 for r in looked["rows"])


def test_random_weights_explain_the_same_targets_with_another_network(mini: Mini, tmp_path: Path) -> None:
    methods = ["--method", "gradcam,saliency,null=gradcam,ig_null=ig", "-O", "ig_null.steps=4", "--per-class", 3]
    chosen = [*methods, "--random-weights", "null,ig_null"]
    done(*explain(mini, tmp_path / "m", *chosen))
    store = Store(tmp_path / "m")
    net = load_model(open_run(mini.cls), pick_device("cpu", 0))
    untrained = Network(network.reinitialised(net, keyed_seed(0, "random weights")))
    patches = Patches(mini.balanced)
    images = to_tensor(patches.read(store.read("row")))
    batch = Batch(images, torch.from_numpy(store.read("targets").astype(np.int64)), [0] * len(images))
    kind = resolve("method", "gradcam")
    for name, one in (("null", untrained), ("gradcam", Network(net))):
        assert np.array_equal(store.read(f"attributions/{name}"), explain_all(kind(kind.Options()), one, batch)[""])
    assert not np.array_equal(store.read("attributions/null"), store.read("attributions/gradcam"))
    refused = run(*explain(mini, tmp_path / "m", *methods))
    assert refused.code == 3
    assert "random_weights = True, asked for None" in refused.err
    assert run(*explain(mini, tmp_path / "x", "--random-weights", "ig9")).code == 2


def test_lime_takes_nuclei_from_the_masks_store(mini: Mini, tmp_path: Path) -> None:
    chosen = ["--method", "lime", *FAST[-4:], "-O", "lime.segments=nuclei", "--per-class", 2]
    done(*explain(mini, tmp_path / "m", *chosen, "--masks", mini.masks))
    store, masks = Store(tmp_path / "m"), Store(mini.masks)
    place = {p: i for i, p in enumerate(masks.read("patch_id").tolist())}
    for i, patch_id in enumerate(store.read("patch_id").tolist()):
        nuclei = masks.read("probability", place[patch_id], place[patch_id] + 1)[0] > 0.5
        segments = store.read("attributions/lime/segments", i, i + 1)[0]
        inside = nuclei.any(axis=0)
        assert not set(segments[inside]) & set(segments[~inside])
    assert "name it with --masks" in run(*explain(mini, tmp_path / "x", *chosen)).err
    nothing = run(*explain(mini, tmp_path / "x", "--method", "ig", "--masks", mini.masks))
    assert nothing.code == 2
    assert "add -O lime.segments=nuclei" in nothing.err
    other = run(*explain(mini, tmp_path / "x", *chosen, "--masks", mini.masks, "--split", "train"))
    assert other.code == 4
    assert "has no mask of" in other.err
    assert run(*explain(mini, tmp_path / "x", *chosen, "--masks", mini.maps)).code == 3
    done("masks", mini.patches, "--model", mini.seg, "-o", tmp_path / "others", "--split", "all")
    others = run(*explain(mini, tmp_path / "x", *chosen, "--masks", tmp_path / "others"))
    assert others.code == 3
    assert "has the masks of another patch store" in others.err


def test_nuclei_of_a_masks_store_that_is_still_being_filled(mini: Mini, tmp_path: Path) -> None:
    masks = shutil.copytree(mini.masks, tmp_path / "masks")
    before = Store(masks).digest()
    chosen = ["--method", "lime", *FAST[-4:], "-O", "lime.segments=nuclei", "--per-class", 1, "--masks", masks]
    done(*explain(mini, tmp_path / "m", *chosen))
    (masks / "_done/masks/item.json").unlink()
    assert run(*explain(mini, tmp_path / "x", *chosen)).code == 4
    done("masks", mini.balanced, "--model", mini.seg, "-o", masks)
    record = masks / "_done/masks/0.json"
    record.unlink()
    assert Store(masks).digest() != before
    done("masks", mini.balanced, "--model", mini.seg, "-o", masks)
    assert "lime 0" in done(*explain(mini, tmp_path / "m", *chosen))


def test_a_damaged_check_is_no_business_of_another_method(mini: Mini, tmp_path: Path) -> None:
    command = explain(mini, tmp_path / "m", "--method", "center", "--per-class", 2)
    done(*command)
    path = tmp_path / "m/checks/center/c/0/0"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(bytes(data))
    outcome = run(*explain(mini, tmp_path / "m", "--method", "edges", "--per-class", 2))
    assert outcome.code == 0
    assert "checks/center, shard 0" in outcome.err
    assert run("info", tmp_path / "m").code == 1


def test_out_of_memory_is_said_recorded_and_survived(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--method", "ig,gradcam", "-O", "ig.steps=8", "--per-class", 4, "--shard-size", 8]
    done(*explain(mini, tmp_path / "whole", *command))
    gradient = Network.gradient

    def tight(self: Network, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradient(self, x, targets)

    monkeypatch.setattr(Network, "gradient", tight)
    outcome = run(*explain(mini, tmp_path / "m", *command))
    assert outcome.code == 0
    assert "out of memory: going on with micro-batches of 8" in outcome.err
    assert "out of memory: going on with micro-batches of 4" in outcome.err
    record = json.loads((tmp_path / "m/_done/ig/0.json").read_text())
    assert record["micro_batch"] == 4
    assert json.loads((tmp_path / "whole/_done/ig/0.json").read_text())["micro_batch"] == 16
    ours, whole = Store(tmp_path / "m").read("attributions/ig"), Store(tmp_path / "whole").read("attributions/ig")
    assert np.abs(ours - whole).max() <= 1e-5 * np.abs(whole).max()


def test_patches_that_end_out_of_order_are_kept_together(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # four patches of 16 steps a pass; the first needs 32, and is overtaken. Which do need them depends on the last bits
    # of a training, so the test says so itself: the first patch is known by its F(x) - F(b).
    command = ["--method", "ig", "-O", "ig.steps=auto", "--per-class", 8, "--micro-batch", 64]
    first: list[float] = []

    def error(self: Any) -> float:
        if not first:
            first.append(self.difference)
        return float(self.difference == first[0] and self.steps == 16)

    monkeypatch.setattr(ig.IntegratedGradients, "_error", error)
    done(*explain(mini, tmp_path / "whole", *command))
    assert Store(tmp_path / "whole").read("checks/ig")[:6, -1].tolist() == [32, 16, 16, 16, 16, 16]
    order: list[int] = []
    add = partial_shards.PartialShard.add

    def stops(self: partial_shards.PartialShard, start: int, made: Mapping[str, np.ndarray]) -> int:
        if self._folder.parent.name == "ig":
            if len(order) == 6:
                raise KeyboardInterrupt
            order.append(start)
        return add(self, start, made)

    monkeypatch.setattr(partial_shards.PartialShard, "add", stops)
    assert run(*explain(mini, tmp_path / "m", *command)).code == 75
    assert order == [1, 2, 3, 0, 4, 5]
    assert [p.name for p in (tmp_path / "m/_part/ig/0").iterdir()] == ["0-6.part"]
    monkeypatch.setattr(partial_shards.PartialShard, "add", add)
    done(*explain(mini, tmp_path / "m", *command))
    assert array_files(tmp_path / "m") == array_files(tmp_path / "whole")


def test_a_patch_that_lime_cannot_take_is_named(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def speckled(pixels: np.ndarray, *options: float) -> np.ndarray:
        return np.arange(pixels[..., 0].size).reshape(pixels.shape[:2])

    monkeypatch.setattr(lime, "quickshift", speckled)
    outcome = run(*explain(mini, tmp_path / "m", "--method", "lime", *FAST[-4:], "--per-class", 1))
    assert outcome.code == 3
    first = Store(tmp_path / "m").read("patch_id")[0]
    assert f"lime: patch {first} has 4096 superpixels, at most 256; ask for larger ones with" in outcome.err
    assert "-O lime.kernel_size=8" in outcome.err


def test_the_micro_batch_is_found_once_and_kept(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = explain(mini, tmp_path / "m", "--method", "gradcam", "--per-class", 1)
    monkeypatch.setattr(inputs, "micro_batch_for_cpu", lambda module, size: 32)
    done(*command)
    assert Store(tmp_path / "m").header["settings"]["micro_batch"] == 32
    monkeypatch.setattr(inputs, "micro_batch_for_cpu", lambda module, size: 8)
    done(*command, "--method", "gradcam,saliency")
    refused = run(*command, "--micro-batch", 16)
    assert refused.code == 3
    assert "micro_batch = 32, asked for 16" in refused.err
    done(*command, "--force")
    assert Store(tmp_path / "m").header["settings"]["micro_batch"] == 8


def test_an_interrupted_shard_of_a_packed_method_goes_on_at_its_patch(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--method", "ig", "-O", "ig.steps=24", "--per-class", 4]
    done(*explain(mini, tmp_path / "whole", *command))
    gradient, calls = Network.gradient, []

    def stops(self: Network, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        if len(calls) == 10:
            raise KeyboardInterrupt
        return gradient(self, x, targets)

    monkeypatch.setattr(Network, "gradient", stops)
    assert run(*explain(mini, tmp_path / "m", *command)).code == 75
    parts = list((tmp_path / "m/_part/ig/0").glob("*.part"))
    assert [p.name for p in parts] == ["0-6.part"]  # nine passes of 16 rows hold six patches of 24 steps
    calls.clear()
    monkeypatch.setattr(Network, "gradient", lambda self, x, t: calls.append(len(x)) or gradient(self, x, t))  # type: ignore[func-returns-value]
    done(*explain(mini, tmp_path / "m", *command))
    assert len(calls) == 9  # the other six
    assert array_files(tmp_path / "m") == array_files(tmp_path / "whole")


def test_compile_falls_back_where_nothing_compiles(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "can_compile", lambda device: False)
    command = explain(mini, tmp_path / "m", "--method", "gradcam", "--per-class", 1, "--compile")
    outcome = run(*command)
    assert outcome.code == 0
    assert "torch.compile does not work here (it needs a C++ compiler); going on without it" in outcome.err
    assert Store(tmp_path / "m").header["settings"]["compile"] is False
    # nodes with a compiler may help: what the first one could do stands
    monkeypatch.setattr(inputs, "can_compile", lambda device: True)
    outcome = run(*command, "--method", "gradcam,saliency")
    assert outcome.code == 0
    assert "was begun without it; going on without" in outcome.err


def test_compile_is_not_left_out_half_way(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = explain(mini, tmp_path / "m", "--method", "center", "--per-class", 1, "--compile")
    monkeypatch.setattr(network, "_compiled", lambda module: module)
    done(*command)
    assert Store(tmp_path / "m").header["settings"]["compile"] is True
    monkeypatch.setattr(inputs, "can_compile", lambda device: False)
    refused = run(*command, "--method", "edges")
    assert refused.code == 3
    assert "was begun with --compile, and torch.compile does not work here" in refused.err


def test_a_task_follows_the_one_that_made_the_store(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks on unlike GPUs begin at once: the slower one takes over the micro-batch of the quicker."""
    command = explain(mini, tmp_path / "m", "--method", "gradcam", "--per-class", 1)

    def slow(module: torch.nn.Module, size: tuple[int, int]) -> int:
        monkeypatch.setattr(inputs, "micro_batch_for_cpu", lambda module, size: 8)
        done(*command)
        return 32

    monkeypatch.setattr(inputs, "micro_batch_for_cpu", slow)
    assert "gradcam 0" in done(*command)
    assert Store(tmp_path / "m").header["settings"]["micro_batch"] == 8


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and g++ is not there")
def test_compiled_passes_agree(mini: Mini, tmp_path: Path) -> None:
    command = ["--method", "lime", *FAST[-4:], "--per-class", 1]
    done(*explain(mini, tmp_path / "plain", *command))
    done(*explain(mini, tmp_path / "compiled", *command, "--compile"))
    one, two = (Store(tmp_path / n) for n in ("plain", "compiled"))
    assert two.header["settings"]["compile"] is True
    np.testing.assert_allclose(one.read("attributions/lime/weights"), two.read("attributions/lime/weights"), atol=1e-5)


def test_targets_that_are_no_class_are_refused(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*explain(mini, tmp_path / "m", "--target", "R9")).code == 2
    read = Patches.__init__

    def without_labels(self: Patches, path: Path) -> None:
        read(self, path)
        self.label = np.full_like(self.label, -1)

    monkeypatch.setattr(Patches, "__init__", without_labels)
    outcome = run(*explain(mini, tmp_path / "m", "--target", "label"))
    assert outcome.code == 3
    assert "patches have no label; use --target predicted" in outcome.err


def test_workers_take_one_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(pick_device("auto", rank)) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [str(pick_device("cuda", rank)) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert str(pick_device("cuda:1", 0)) == "cuda:1"
    assert not torch.backends.cuda.matmul.allow_tf32
    pick_device("cuda", 0, "tf32")
    assert torch.backends.cuda.matmul.allow_tf32
    pick_device("cpu", 0)
    assert not torch.backends.cuda.matmul.allow_tf32


def test_maps_of_a_plugin_name_its_package(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "hx-speckle", "1.2", METHOD, {"histoxai.methods": {"speckle": "Speckle"}})
    with monkeypatch.context() as installed:
        installed.syspath_prepend(tmp_path / "site")
        registry.plugins.cache_clear()
        done(*explain(mini, tmp_path / "m", "--method", "speckle,center", "--per-class", 2))
        items = json.loads(done("info", tmp_path / "m", "--json"))["items"]
        assert items["speckle"]["what"]["package"] == "hx-speckle 1.2"
        assert "package" not in items["center"]["what"]
        assert [m.name for m in stored_methods(Store(tmp_path / "m"))] == ["center", "speckle"]
    registry.plugins.cache_clear()
    refused = run("score", tmp_path / "m", "--masks", mini.masks, "-o", tmp_path / "s")
    assert refused.code == 3
    assert "'speckle' of the package hx-speckle 1.2, which is not installed; install it" in " ".join(
        refused.err.split()
    )
