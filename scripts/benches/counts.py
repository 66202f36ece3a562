"""Count the operations and bytes of each method at 256 px, and the least seconds that a GPU can take for them.

Operations are torch's own count, of tensors without data. A forward pass moves each layer's input and output once, and
the weights once a micro-batch; a backward pass moves as much again. A GPU needs at least the longer of two times: that
of its operations, and that of its bytes (the roofline of Williams, Waterman and Patterson 2009).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benches.common import row
from histoxai.core.registry import names, resolve
from histoxai.explain.bases.cam import CAM
from histoxai.explain.layers import captured, find_layer

SIZE, CLASSES, MICRO_BATCH = 256, 7, 256
ARCHS = ("thesis-cnn", "resnet18")
# NVIDIA's data sheet of the H100 SXM: float32 without tensor cores, and memory.
CARD, OPERATIONS, BYTES = "H100", 66.9e12, 3.35e12


@dataclass(frozen=True)
class Work:
    """Operations and bytes."""

    operations: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.operations * times, self.bytes * times)

    @property
    def seconds(self) -> float:
        """The least time on the card."""
        return max(self.operations / OPERATIONS, self.bytes / BYTES)


def passes(arch: str) -> dict[str, Work]:
    """Count one patch's forward pass, its backward pass to the input, and that to the layer of activation maps."""
    net = _network(arch)
    x = torch.empty(1, 3, SIZE, SIZE, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as forward, captured([layer := find_layer(net, "")], cut=False) as values:
        logits = net(x)
    counts = {"forward": forward.get_total_flops()}
    for name, end in (("to layer", values[layer]), ("backward", x)):
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(logits[:, 0].sum(), end, retain_graph=True)
        counts[name] = backward.get_total_flops()
    share = counts["to layer"] / counts["backward"]  # of the bytes too: those layers are the last ones
    moved = _bytes(net)
    return {k: Work(float(n), moved * (share if k == "to layer" else 1.0)) for k, n in counts.items()}


def _network(arch: str) -> nn.Module:
    with torch.device("meta"):
        return resolve("classifier", arch)(CLASSES, (SIZE, SIZE)).eval().requires_grad_(False)


def _bytes(net: nn.Module) -> float:
    values = 0

    def count(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal values
        values += sum(t.numel() for t in inputs) + output.numel()

    leaves = [part for part in net.modules() if not list(part.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    with torch.no_grad():
        net(torch.empty(1, 3, SIZE, SIZE, device="meta"))
    for handle in handles:
        handle.remove()
    weights = sum(p.numel() for p in net.parameters())
    return 4.0 * (values + weights / MICRO_BATCH)


def channels(arch: str) -> int:
    """Return the channels of the layer that activation maps look at: ScoreCAM's passes."""
    net = _network(arch)
    with captured([layer := find_layer(net, "")], cut=False) as values:
        net(torch.empty(1, 3, SIZE, SIZE, device="meta"))
    return values[layer].shape[1]


def work_of(method: str, arch: str) -> Work:
    """Count a method's work for one patch, from the passes that it names as its cost."""
    kind, of = resolve("method", method), passes(arch)
    cost = kind.cost(kind.Options())
    if cost == "1 forward a channel, and 1":
        return of["forward"] * (1 + channels(arch))
    if not (found := re.match(r"(\d+) forward( \+ (?:1 )?backward)?", cost)):
        return Work()  # a method that never looks at the network
    times = int(found[1])
    backward = 0 if found[2] is None else 1 if "1 backward" in found[2] else times
    return of["forward"] * times + of["to layer" if issubclass(kind, CAM) else "backward"] * backward


def table() -> dict[str, dict[str, Work]]:
    """Count each method that looks at the network, for each of ARCHS."""
    counted = {method: {arch: work_of(method, arch) for arch in ARCHS} for method in names("method")}
    return {method: works for method, works in counted.items() if works[ARCHS[0]].operations}


def markdown() -> str:
    """Return the table of docs/gpu.md."""
    heads = [f"{arch}: 10^9 operations | GB | ms" for arch in ARCHS]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (1 + 3 * len(ARCHS)) + "|"]
    for method, works in table().items():
        cells = [f"{w.operations / 1e9:,.1f} | {w.bytes / 1e9:,.2f} | {1e3 * w.seconds:,.2f}" for w in works.values()]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bench_counts(work: Path) -> list[dict[str, Any]]:
    """List 10^9 operations and gigabytes a patch (in the columns of seconds), and operations a byte."""
    del work
    rows = []
    for method, works in table().items():
        for arch, w in works.items():
            name = f"{method} {arch}, Gop, GB, op/byte"
            rows.append(row(name, w.operations / 1e9, w.bytes / 1e9, w.operations / w.bytes, ">= 0"))
    return rows
