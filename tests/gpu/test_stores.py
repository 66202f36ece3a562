"""Whole commands on a GPU: the same bytes whatever the shards, workers or order; predictions and masks as on a CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from histoxai.networks.run_folder import open_run
from histoxai.networks.weights import load_model
from histoxai.store.patches import Patches
from histoxai.store.records import read_record
from histoxai.store.shards import Store
from tests.conftest import FAST, Mini, array_files, done

pytestmark = pytest.mark.gpu

# Of a barely trained network: bfloat16 as on a CPU (tests/stages/test_explain.py); TF32 has 8 times its precision.
LEAST_RANK = {"tf32": 0.9, "bf16": 0.5}
METHODS = "ig,nt,lime,gradcam,saliency,gradcampp"


def _explain(mini: Mini, output: Path, *more: object, devices: Sequence[object] = ("--device", "auto")) -> Path:
    command = ("explain", mini.balanced, "--model", mini.cls, "-o", output, "--method", METHODS, *FAST)
    done(*command, "--per-class", 2, "--shard-size", 2, "--micro-batch", 16, *devices, *more)
    return output


@pytest.fixture(scope="module")
def whole(mini: Mini, device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of all patches, made by one process in order."""
    del device
    return _explain(mini, tmp_path_factory.mktemp("whole") / "maps.zarr")


def test_shards_in_any_order_give_the_same_bytes(mini: Mini, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "maps.zarr"
    for shard in sorted((int(p.stem) for p in (whole / "_done/ig").glob("[0-9]*.json")), reverse=True):
        _explain(mini, output, "--shard", shard)
    assert array_files(output) == array_files(whole)


def test_two_workers_on_one_card_give_the_same_bytes(mini: Mini, whole: Path, tmp_path: Path) -> None:
    output = _explain(mini, tmp_path / "maps.zarr", "--workers", 2)
    assert array_files(output) == array_files(whole)


def test_compiled_passes_agree(mini: Mini, whole: Path, tmp_path: Path, is_gpu: bool) -> None:
    if not is_gpu:
        pytest.skip("tests/stages/test_explain.py compiles on a CPU, which takes a minute")
    compiled = Store(_explain(mini, tmp_path / "maps.zarr", "--compile"))
    assert compiled.header["settings"]["compile"], "torch.compile does not work on this machine"
    weights, plain = compiled.read("attributions/lime/weights"), Store(whole).read("attributions/lime/weights")
    np.testing.assert_allclose(weights, plain, atol=1e-4)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_low_precision_ranks_pixels_as_float32(mini: Mini, tmp_path: Path, precision: str, is_gpu: bool) -> None:
    if precision == "tf32" and not is_gpu:
        pytest.skip("only GPUs have TF32")
    store = Store(_explain(mini, tmp_path / "maps.zarr", "--precision", precision))
    for name in ("ig", "saliency"):
        rank = store.read(f"checks/{name}")[
            :, list(store.array(f"checks/{name}").attrs["columns"]).index("rank_to_fp32")
        ]
        assert np.nanmedian(rank) > LEAST_RANK[precision]


def test_predictions_are_those_of_the_cpu(mini: Mini, tmp_path: Path, device: torch.device) -> None:
    command = ("predict", mini.balanced, "--model", mini.cls, "--split", "all", "--embeddings")
    stores = []
    for name, kind in (("cpu", "cpu"), ("gpu", device.type)):
        done(*command, "-o", tmp_path / f"{name}.zarr", "--device", kind)
        stores.append(Store(tmp_path / f"{name}.zarr"))
    cpu, gpu = stores
    logits = cpu.read("logits")
    error = np.abs(gpu.read("logits") - logits).max()
    assert error <= max(1e-5 * np.abs(logits).max(), _error_of_the_cpu(mini))
    np.testing.assert_allclose(gpu.read("embedding"), cpu.read("embedding"), rtol=1e-4, atol=1e-5)
    top = np.sort(logits, axis=1)
    clear = top[:, -1] - top[:, -2] > 2 * error  # a tie may go either way
    assert np.array_equal(gpu.read("prediction")[clear], cpu.read("prediction")[clear])
    assert clear.mean() > 0.95


def _error_of_the_cpu(mini: Mini) -> float:
    """1.5 times the largest error of the CPU's logits to float64."""
    patches = Patches(mini.balanced)
    images = torch.from_numpy(patches.read(np.arange(len(patches)))).permute(0, 3, 1, 2).float() / 255
    net = load_model(open_run(mini.cls), torch.device("cpu")).eval()
    with torch.no_grad():
        single = net(images).double()
        return 1.5 * float((net.double()(images.double()) - single).abs().max())


def test_masks_are_those_of_the_cpu(mini: Mini, tmp_path: Path, device: torch.device) -> None:
    planes = []
    for name, kind in (("cpu", "cpu"), ("gpu", device.type)):
        output = tmp_path / f"{name}.zarr"
        done("masks", mini.balanced, "--model", mini.seg, "-o", output, "--device", kind)
        planes.append(Store(output).read("probability").astype(np.float64))
    assert planes[0].std() > 0.05
    np.testing.assert_allclose(
        planes[1], planes[0], atol=1e-3
    )  # probabilities are stored in steps of half a thousandth


def test_memory_that_runs_out_halves_the_micro_batch(
    mini: Mini, whole: Path, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's limit is set so low that passes of 256 do not fit; maps agree by the contract."""
    output = tmp_path / "maps.zarr"
    command = ("explain", mini.balanced, "--model", mini.cls, "-o", output, "--method", "saliency", "--per-class", 2)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (300 << 20)) / total)
    else:
        _refuse_more_rows_than(4, monkeypatch)
    try:
        done(*command, "--shard-size", 6, "--micro-batch", 4096 if device.type == "cuda" else 16)
    finally:
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
    store = Store(output)
    record = read_record(output, "saliency", 0)
    assert record is not None
    assert record["micro_batch"] < store.header["settings"]["micro_batch"]
    ours, want = store.read("attributions/saliency"), Store(whole).read("attributions/saliency")
    assert np.abs(ours - want).max() <= 1e-4 * np.abs(want).max()


def _refuse_more_rows_than(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from histoxai.explain.bases import single_pass

    once = single_pass._Pass._once

    def full(self: object, x: torch.Tensor, targets: torch.Tensor) -> object:
        if len(x) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return once(self, x, targets)  # type: ignore[arg-type]

    monkeypatch.setattr(single_pass._Pass, "_once", full)
    assert os.environ.get("HISTOXAI_GPU_REHEARSE")
