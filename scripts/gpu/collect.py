"""Fill a folder with the wheels that a GPU machine still needs for `scripts/gpu-check --wheels DIR`.

The machine is expected to have what HAS names; everything else that the check imports is collected, in the versions of
constraints.txt. Packages that are published as source only, all of them pure Python, are built here.
"""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# With their dependencies. Distributions of OpenCV replace each other, whatever their name.
HAS = ("torch", "torchvision", "timm", "scikit-image", "opencv-python-headless", "opencv-python", "typer", "zarr")
NEEDS = ("histoxai", "pytest")
MOST_MEGABYTES = 40


def with_dependencies(names: tuple[str, ...], python: str) -> set[str]:
    """Return the canonical names of these installed distributions and of all that they require on that Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # another distribution of OpenCV, or something for another platform
            found.add(name)
            continue
        found.add(name)
        requirements = [Requirement(text) for text in required]
        waiting += [canonicalize_name(r.name) for r in requirements if not r.marker or r.marker.evaluate(environment)]
    return found


def lacking(python: str) -> dict[str, str]:
    """Return the versions, by name, of the distributions that the machine lacks."""
    names = with_dependencies(NEEDS, python) - with_dependencies(HAS, python) - {"histoxai"}
    return {name: metadata.version(name) for name in sorted(names)}


def collect(folder: Path, python: str) -> None:
    """Download or build one wheel for each distribution that is lacking."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for name, version in lacking(python).items():
        pinned = f"{name}=={version}"
        binary = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
        download = [*pip, "download", "--no-deps", *binary, "--dest", str(folder), pinned]
        if subprocess.run(download, capture_output=True, check=False).returncode:
            subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), pinned], check=True)


def main() -> None:
    """Collect the wheels, and say how many and how large they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of Python on the GPU machine")
    chosen = parser.parse_args()
    collect(chosen.folder, chosen.python)
    wheels = sorted(chosen.folder.glob("*.whl"))
    foreign = [w.name for w in wheels if not w.name.endswith("-any.whl") and _tag(chosen.python) not in w.name]
    foreign = [name for name in foreign if "-abi3-" not in name]
    if foreign:
        sys.exit(f"not for Python {chosen.python}: {', '.join(foreign)}; empty {chosen.folder} and collect again")
    megabytes = sum(w.stat().st_size for w in wheels) / 1e6
    print(f"{chosen.folder}: {len(wheels)} wheels for Python {chosen.python}, {megabytes:.1f} MB")
    if megabytes > MOST_MEGABYTES:
        sys.exit(f"more than {MOST_MEGABYTES} MB: name what the machine has already in HAS of {__file__}")


def _tag(python: str) -> str:
    return "-cp" + python.replace(".", "")


if __name__ == "__main__":
    main()
