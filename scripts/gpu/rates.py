"""Measure rates on the GPU: `python -m gpu.rates study|libraries|methods|training|waiting`.

Ours is the working part of `histoxai explain`, from store to store. The bare network's time is that of as many passes
as a method needs, in the fastest memory format and micro-batch. Libraries are called as the study calls them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from benches import explain as bench
from benches import train
from benches.common import inputs
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu.results import append
from histoxai.core.registry import names
from histoxai.networks.inference import pick_device
from histoxai.networks.run_folder import open_run
from histoxai.networks.weights import load_model

REHEARSE = bool(os.environ.get("HISTOXAI_GPU_REHEARSE"))
SIZE = 64 if REHEARSE else 256
MICRO_BATCHES = (16,) if REHEARSE else (64, 128, 256)
STUDY = tuple(bench.LIBRARIES)
# Patches of a measurement: enough for full micro-batches and a second or more.
PATCHES = {"ig": 64, "nt": 32, "lime": 64, "gradcam": 2048, "four": 64}
LIBRARY = {"ig": 8, "nt": 4, "lime": 3, "gradcam": 64}
LIGHT, HEAVY = 1024, 16
OF_ONE_PASS = ("saliency", "ixg", "gradcampp", "hirescam", "layercam", "eigencam", "guided", "deeplift", "lrp")
OF_NO_PASS = ("random", "center", "edges", "hematoxylin")


class Bench:
    """A patch store and an untrained network of the study at the size of the check, and measurements with them."""

    def __init__(self, work: Path, arch: str = "thesis-cnn") -> None:
        self.device = pick_device("auto", 0)
        n = 16 if REHEARSE else max(PATCHES.values())
        self.work = work
        self.patches, self.model = inputs(work, n, arch, SIZE, arch, bench.CLASSES)
        self.network = load_model(open_run(self.model), self.device)

    def seconds(self, methods: tuple[str, ...], patches: int) -> float:
        """Seconds of ours for each patch."""
        n = min(patches, 2) if REHEARSE else patches
        output = self.work / "maps.zarr"
        counts = dict.fromkeys(methods, n)
        return bench.our_seconds(counts, self.patches, self.model, output, "fp32", device=self.device.type)

    def measure(self, name: str, methods: tuple[str, ...], patches: int, **more: float) -> float:
        """Append a rate with its peak memory; return seconds for each patch."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = self.seconds(methods, patches)
        row: dict[str, Any] = {"rate": name, "patches_per_second": 1 / seconds, **more}
        if self.device.type == "cuda":
            row["peak_gb"] = torch.cuda.max_memory_reserved() / 1e9
        if "bare_seconds" in more:
            row["share_of_bare"] = more["bare_seconds"] / seconds
        append(row)
        print(row, flush=True)
        return seconds


def study(work: Path) -> None:
    """Measure the study's four methods, alone and together, against the bare network."""
    on = Bench(work)
    on.seconds(STUDY, 1)  # libraries are imported and kernels are chosen before the clock starts
    bare = bench.limits(on.network, "fp32", SIZE, MICRO_BATCHES)
    on.measure("all four", STUDY, PATCHES["four"], bare_seconds=bare["all four"])
    for name in STUDY:
        on.measure(name, (name,), PATCHES[name], bare_seconds=bare[name])


def libraries(work: Path) -> None:
    """Measure captum, lime and pytorch-grad-cam as the study calls them, beside ours."""
    on = Bench(work)
    on.seconds(STUDY, 1)
    total = [0.0, 0.0]
    network = load_model(open_run(on.model), on.device).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for name in STUDY:
        arguments = (name, network, on.patches, work / "library.zarr")
        bench.library_seconds(*arguments, 1)
        theirs = bench.library_seconds(*arguments, 1 if REHEARSE else LIBRARY[name])
        ours = on.seconds((name,), PATCHES[name])
        append({"rate": f"{name}, the library's", "patches_per_second": 1 / theirs})
        append({"rate": f"{name}, beside it", "patches_per_second": 1 / ours, "to_library": theirs / ours})
        total = [total[0] + ours, total[1] + theirs]
    append({"rate": "one after the other", "patches_per_second": 1 / total[0], "to_library": total[1] / total[0]})


def methods(work: Path) -> None:
    """Measure every other method alone."""
    on = Bench(work)
    for name in names("method"):
        if name not in STUDY:
            on.seconds((name,), 1)
            on.measure(name, (name,), LIGHT if name in OF_ONE_PASS + OF_NO_PASS else HEAVY)


def training(work: Path) -> None:
    """Measure training's share of the speed of a plain loop with the same batches on the card."""
    for row in train.compare(work, *((64, 1) if REHEARSE else (2048, 3))):
        append({"fact": f"{row['name']}: share of a plain loop", "value": f"{row['ratio']:.2f}"})


def waiting(work: Path) -> None:
    """Measure the share of time in which the card runs no kernel, in all four methods and in GradCAM alone.

    Also name the lines of histoxai at which torch saw the host wait for the card.
    """
    on = Bench(work)
    for name, chosen, n in (("all four", STUDY, PATCHES["four"]), ("gradcam", ("gradcam",), PATCHES["gradcam"])):
        on.seconds(chosen, 1)
        activity = ProfilerActivity.CUDA if on.device.type == "cuda" else ProfilerActivity.CPU
        with profile(activities=[activity]) as recorded:
            seconds = on.seconds(chosen, n) * (min(n, 2) if REHEARSE else n)
        kind = DeviceType.CUDA if on.device.type == "cuda" else DeviceType.CPU
        spans = [(e.time_range.start, e.time_range.end) for e in recorded.events() if e.device_type == kind]
        share = 1 - covered(spans) / 1e6 / seconds
        append({"fact": f"{name}: share of time without a kernel", "value": f"{share:.2f}"})
    if on.device.type == "cuda":
        append({"fact": "the host waited for the card at", "value": ", ".join(lines_that_wait(on))})


def lines_that_wait(on: Bench) -> list[str]:
    """Return `file:line` of each call, and how often it waited for the card in 16 patches of all four methods."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            on.seconds(STUDY, 16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    counted = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchronizing" in str(w.message))
    return [f"{line} ({times})" for line, times in counted.most_common()]


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        {f.__name__: f for f in (study, libraries, methods, training, waiting)}[sys.argv[1]](Path(folder))
