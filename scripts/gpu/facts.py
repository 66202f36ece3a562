"""Print and append the facts of the machine: card, driver, versions, processors."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata

import torch

from gpu.results import append

PACKAGES = ("torch", "torchvision", "captum", "lime", "grad-cam", "zarr", "numpy", "scikit-image", "timm")


def facts() -> dict[str, object]:
    """Return the facts by name."""
    found: dict[str, object] = {"date": datetime.date.today().isoformat(), "card": "none"}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found["card"] = card.name
        found["memory"] = f"{card.total_memory / 2**30:.0f} GiB"
        found["multiprocessors"] = card.multi_processor_count
        found["compute capability"] = f"{card.major}.{card.minor}"
        found["CUDA"] = torch.version.cuda
        found["cuDNN"] = torch.backends.cudnn.version()
    found["processors"] = len(os.sched_getaffinity(0))
    found["Python"] = platform.python_version()
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    for name, value in facts().items():
        print(f"{name}: {value}")
        append({"fact": name, "value": value})
