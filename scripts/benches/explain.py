"""The four methods against their libraries as the study calls them, and against what the bare network would take.

Ours is the working part of `histoxai explain`, from store to store; the library's side reads each patch with z[i],
explains it alone, and writes it with zarr. Both have their network loaded. Rounds alternate; rows are medians. With
HISTOXAI_BENCH_LIMITS=0 only the libraries are timed (CI asks for no more).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import zarr
from torch import nn

from benches.common import inputs, peak_megabytes, row, work_loops_timed
from histoxai.core.progress import Silent
from histoxai.explain.inputs import ExplainInputs
from histoxai.explain.layers import captured, find_layer
from histoxai.explain.network import in_bfloat16
from histoxai.networks.inference import pick_device
from histoxai.networks.run_folder import open_run
from histoxai.networks.weights import load_model
from histoxai.settings import Explain, Work
from histoxai.stages import explain as stage

SIZE, CLASSES = 256, 7
ROUNDS = int(os.environ.get("HISTOXAI_BENCH_ROUNDS", "3"))
LIMITS = os.environ.get("HISTOXAI_BENCH_LIMITS", "1") != "0"
GOALS = {"ig": 1.8, "nt": 1.8, "lime": 3.0, "gradcam": 5.0, "all four": 2.2}
# patches of a round: so many that micro-batches are full, and few for what takes long
OURS = {
    "thesis-cnn": {"ig": 16, "nt": 8, "lime": 8, "gradcam": 256},
    "resnet18": {"ig": 4, "nt": 2, "lime": 2, "gradcam": 64},
}
LIBRARY = {"ig": 1, "nt": 1, "lime": 1, "gradcam": 8}


# ---- the libraries as the study calls them


def library_ig(model: nn.Module, x: torch.Tensor, target: int) -> np.ndarray:
    from captum.attr import IntegratedGradients

    return IntegratedGradients(model).attribute(x, target=target, n_steps=100).detach().cpu().numpy()[0]


def library_nt(model: nn.Module, x: torch.Tensor, target: int) -> np.ndarray:
    from captum.attr import IntegratedGradients, NoiseTunnel

    tunnel = NoiseTunnel(IntegratedGradients(model))
    return tunnel.attribute(x, nt_type="smoothgrad_sq", nt_samples=5, target=target).detach().cpu().numpy()[0]


def library_lime(model: nn.Module, x: torch.Tensor, target: int) -> np.ndarray:
    from lime.lime_image import LimeImageExplainer

    @torch.no_grad()
    def classify(images: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2).contiguous().to(x.device)
        return torch.softmax(model(batch), dim=1).cpu().numpy()

    image = x[0].permute(1, 2, 0).double().cpu().numpy()
    explanation = LimeImageExplainer().explain_instance(image, classify, top_labels=1, num_samples=500)
    _, mask = explanation.get_image_and_mask(explanation.top_labels[0], positive_only=False, num_features=3)
    return np.abs(mask).astype(np.float32)[None]


def library_gradcam(model: nn.Module, x: torch.Tensor, target: int) -> np.ndarray:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=model, target_layers=[find_layer(model, "")]) as cam:
        return cam(x, [ClassifierOutputTarget(target)])


LIBRARIES: dict[str, Callable[[nn.Module, torch.Tensor, int], np.ndarray]] = {
    "ig": library_ig,
    "nt": library_nt,
    "lime": library_lime,
    "gradcam": library_gradcam,
}


def library_seconds(method: str, model: nn.Module, patches: Path, output: Path, n: int | None = None) -> float:
    """Measure the library: seconds for each of n patches, from store to store, one patch after the other."""
    images = zarr.open_group(patches, mode="r")["images"]
    n, device = n or LIBRARY[method], next(model.parameters()).device
    maps: Any = None
    started = time.perf_counter()
    for i in range(n):
        x = torch.from_numpy(images[i].astype(np.float32) / 255).permute(2, 0, 1)[None]  # type: ignore[index, union-attr]
        x = x.contiguous().to(device)
        with torch.no_grad():
            target = int(model(x).argmax())
        made = LIBRARIES[method](model, x, target)
        if maps is None:
            maps = zarr.create_array(
                output, shape=(n, *made.shape), chunks=(1, *made.shape), dtype=made.dtype, overwrite=True
            )
        maps[i] = made
    return (time.perf_counter() - started) / n


def library_round(model: Path, patches: Path, work: Path) -> dict[str, float]:
    """Measure each library method in its own process, without the settings that histoxai makes: seconds per patch."""
    command = [sys.executable, "-c", _LIBRARY, str(model), str(patches), str(work / "library.zarr")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "2"}
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, env=env)
    return json.loads(made.stdout.splitlines()[-1])


_LIBRARY = """
import json, sys
from pathlib import Path
import torch
from benches.explain import LIBRARIES, library_seconds
from histoxai.networks.weights import load_model
from histoxai.networks.run_folder import open_run
model, patches, output = map(Path, sys.argv[1:])
net = load_model(open_run(model), torch.device("cpu")).to(memory_format=torch.contiguous_format)
library_seconds("gradcam", net, patches, output)
print(json.dumps({m: library_seconds(m, net, patches, output) for m in LIBRARIES}))
"""


# ---- ours


def our_seconds(
    methods: dict[str, int],
    patches: Path,
    model: Path,
    output: Path,
    precision: str,
    compiled: bool = False,
    device: str = "cpu",
) -> float:
    """Measure our work loop (reading, predictions, maps, checks, writing): seconds for each patch."""
    n = min(methods.values())
    chosen = Explain(
        methods=tuple(methods), device=device, per_class=-(-n // CLASSES), precision=precision, compile=compiled
    )
    with work_loops_timed() as spent, first_rows(n):
        stage.explain(ExplainInputs(patches, model), output, chosen, Silent(), Work(force=output.exists()))
    return sum(spent) / n


def first_rows(n: int) -> Any:
    """Explain exactly this many rows, which `--per-class` alone cannot do."""
    from histoxai.store.patches import Patches

    rows = Patches.rows
    return mock.patch.object(Patches, "rows", lambda self, *a: rows(self, *a)[:n])


# ---- the bare network


def bare_seconds(step: Callable[[torch.Tensor], Any], x: torch.Tensor) -> float:
    step(x)
    synchronise = torch.cuda.synchronize if x.is_cuda else lambda: None
    synchronise()
    started = time.perf_counter()
    for _ in range(2):
        step(x)
    synchronise()
    return (time.perf_counter() - started) / (2 * len(x))


def limits(
    model: nn.Module, precision: str, size: int = SIZE, micro_batches: tuple[int, ...] = (16, 32, 64)
) -> dict[str, float]:
    """Measure the bare network passes, in the fastest of two memory formats and the micro-batches: s per patch."""
    best: dict[str, float] = {}
    device = next(model.parameters()).device
    for layout in (torch.channels_last, torch.contiguous_format):
        net = (in_bfloat16(model) if precision == "bf16" else model).to(memory_format=layout).eval()  # type: ignore[call-overload]
        net.requires_grad_(False)
        layer = find_layer(net, "")

        def forward(x: torch.Tensor, net: nn.Module = net) -> Any:
            with torch.no_grad():
                return net(x)

        def gradient(x: torch.Tensor, net: nn.Module = net) -> Any:
            x = x.detach().requires_grad_()
            return torch.autograd.grad(net(x)[:, 0].sum(), x)

        def layer_gradient(x: torch.Tensor, net: nn.Module = net, layer: nn.Module = layer) -> Any:
            with captured([layer], cut=True) as values:
                score = net(x)[:, 0].sum()
            return torch.autograd.grad(score, values[layer])

        for rows in micro_batches:
            x = torch.rand(rows, 3, size, size, device=device).contiguous(memory_format=layout)
            x = x.to(torch.bfloat16) if precision == "bf16" else x
            for name, step in (("forward", forward), ("gradient", gradient), ("layer", layer_gradient)):
                best[name] = min(best.get(name, 1e9), bare_seconds(step, x))
    g, f, c = best["gradient"], best["forward"], best["layer"]
    return {"ig": 100 * g + f, "nt": 250 * g + f, "lime": 501 * f, "gradcam": c, "all four": 350 * g + 500 * f + c}


# ---- side by side


def compare(work: Path, arch: str, precision: str = "fp32", against: bool = True) -> list[dict[str, Any]]:
    """Compare each method, and all four together, with the library and with the bare network."""
    torch.set_num_threads(2)
    pick_device("cpu", 0)
    patches, model = inputs(work, max(OURS[arch].values()), arch, SIZE, arch, CLASSES)
    network = load_model(open_run(model), torch.device("cpu"))
    names = [*OURS[arch], "all four"]
    ours: dict[str, list[float]] = {n: [] for n in names}
    other: dict[str, list[float]] = {n: [] for n in names}
    bare: dict[str, list[float]] = {n: [] for n in names}
    for method in LIBRARIES:  # libraries are imported before the clock starts
        our_seconds({method: 1}, patches, model, work / "warm.zarr", precision)
    for _ in range(ROUNDS):
        for name, seconds in limits(network, precision).items() if LIMITS else ():
            bare[name].append(seconds)
        for name in LIBRARIES:
            ours[name].append(our_seconds({name: OURS[arch][name]}, patches, model, work / "ours.zarr", precision))
        for name, seconds in library_round(model, patches, work).items():
            other[name].append(seconds)
        four = dict.fromkeys(LIBRARIES, min(OURS[arch].values()))
        ours["all four"].append(our_seconds(four, patches, model, work / "ours.zarr", precision))
        other["all four"].append(sum(other[n][-1] for n in LIBRARIES))
    rows = (
        []
        if (arch, precision) != ("thesis-cnn", "fp32") or not LIMITS
        else compiled_lime(patches, model, work, statistics.median(other["lime"]))
    )
    for name in names:
        a, b = (statistics.median(x[name]) for x in (ours, other))
        if against:
            goal = GOALS[name] if precision == "fp32" else 4.0
            needed = name == "all four" or precision == "fp32"
            rows.append(row(f"{name}, rate to the library", a, b, b / a, f">= {goal}" if needed else ">= 0"))
        if LIMITS:
            c = statistics.median(bare[name])
            rows.append(row(f"{name}, share of the limit", a, c, c / a, ">= 0.85" if precision == "fp32" else ">= 0"))
    return rows


def compiled_lime(patches: Path, model: Path, work: Path, library: float) -> list[dict[str, Any]]:
    """Measure LIME with torch.compile: seconds of one more patch, and its share of compiling in a shard of 64."""
    with mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}):
        torch._dynamo.reset()
        whole = {n: our_seconds({"lime": n}, patches, model, work / "c.zarr", "fp32", True) * n for n in (1, 2, 10)}
    patch = (whole[10] - whole[2]) / 8
    compiling = whole[1] - patch
    a = patch + compiling / 64
    print(f"lime compiled: {patch:.2f} s a patch, {compiling:.0f} s for compiling", file=sys.stderr)
    return [row("lime compiled, rate to the library", a, library, library / a, f">= {GOALS['lime']}")]


def bench_explain(work: Path) -> list[dict[str, Any]]:
    """Compare on the study's CNN."""
    return compare(work, "thesis-cnn")


def bench_resnet18(work: Path) -> list[dict[str, Any]]:
    """Compare on ResNet-18."""
    return compare(work, "resnet18")


def bench_bf16(work: Path) -> list[dict[str, Any]]:
    """Compare the study's CNN in bfloat16 with the libraries in float32."""
    return compare(work, "thesis-cnn", "bf16")


_BARE = """
import sys, torch
from histoxai.explain.network import micro_batch_for_cpu
from histoxai.networks.inference import pick_device
from histoxai.networks.weights import load_model
from histoxai.networks.run_folder import open_run
from pathlib import Path
pick_device("cpu", 0)
net = load_model(open_run(Path(sys.argv[1])), torch.device("cpu")).requires_grad_(False)
rows = micro_batch_for_cpu(net, (256, 256))
x = torch.rand(rows, 3, 256, 256).contiguous(memory_format=torch.channels_last).requires_grad_()
for _ in range(3):
    torch.autograd.grad(net(x)[:, 0].sum(), x)
print(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1])
"""


def bench_explain_memory(work: Path) -> list[dict[str, Any]]:
    """Compare each method's peak memory with the bare network's, on the study's CNN at one micro-batch."""
    patches, model = inputs(work, 64, "m", SIZE, "thesis-cnn", CLASSES)
    made = subprocess.run([sys.executable, "-c", _BARE, model], capture_output=True, text=True, check=True)
    bare = int(made.stdout.split()[-1]) / 1024
    rows = []
    options = {"ig": "ig.steps=4", "nt": "nt.steps=1", "lime": "lime.samples=20"}
    for method in (*LIBRARIES, "ig,nt,lime,gradcam"):
        mine = [word for name in method.split(",") if name in options for word in ("-O", options[name])]
        command = ["explain", patches, "--model", model, "-o", work / f"{method}.zarr", "--method", method, *mine]
        peak = peak_megabytes(*command, "--json", "-q")
        rows.append(row(f"{method}, peak MB to the bare network", peak, bare, peak / bare, "<= 1.5"))
    return rows
