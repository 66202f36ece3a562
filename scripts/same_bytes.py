"""Compare what two trees of this repository write: the same commands, seeds and sample data give the same bytes.

`python scripts/same_bytes.py OLD NEW` runs every verb with the package of each checkout and compares all files. Facts
of the run (time, host, command, seconds, memory) are left out of JSON files; other files must be equal byte by byte.
Exits with 1 where a file differs. It is for refactoring: run it with a checkout of the commit before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).resolve().parents[1] / "sample_data"
COMMANDS = """
ingest samples/diagset -o patches.zarr
augment patches.zarr -o balanced.zarr
train-cls balanced.zarr -o cls --epochs 2 --batch-size 16 --lr 3e-4 --augment light --ema 0.9 --temperature
train-cls balanced.zarr -o resnet --arch resnet18 --epochs 1 --batch-size 32 --normalise imagenet --sampling balanced
ingest samples/pannuke -o nuclei.zarr --mpp 0.5
train-seg nuclei.zarr -o seg --width 8 --epochs 2 --lr 7e-3
masks balanced.zarr --model seg -o masks.zarr --shard-size 32
predict patches.zarr --model cls -o preds.zarr --embeddings
explain balanced.zarr --model cls -o maps.zarr --per-class 2 --shard-size 4 --method {methods} {quick}
explain balanced.zarr --model resnet -o maps18.zarr --per-class 1 --target label --random-weights gradcam
score maps.zarr --masks masks.zarr -o scores.zarr --shard-size 4
score maps18.zarr --masks masks.zarr -o scores18.zarr --faithfulness --model resnet --sanity 1 --steps 3 --squares 10
report scores.zarr -o report --export paper
"""
METHODS = (
    "ig,nt,lime,gradcam,saliency,ixg,guided,smoothgrad,deeplift,lrp,gradshap,kernelshap,occlusion,rise,gradcampp,"
    "hirescam,layercam,eigencam,scorecam,random,center,edges,hematoxylin"
)
QUICK = (
    "-O ig.steps=10 -O nt.steps=5 -O lime.samples=50 -O kernelshap.samples=50 -O rise.masks=60 -O smoothgrad.samples=5 "
    "-O gradshap.samples=5"
)
# facts of one run; parts of pages that hold times and commands
RUN_FACTS = {"run", "seconds", "peak_memory_mb", "host", "time", "command", "threads_used", "versions", "seal"}
TEXT_WITH_RUN_FACTS = {".html"}


def run(tree: Path, folder: Path) -> None:
    """Run all commands in a folder with the package of a tree."""
    (folder / "samples").symlink_to(SAMPLES)
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    for line in COMMANDS.strip().splitlines():
        words = line.format(methods=METHODS, quick=QUICK).split()
        command = [sys.executable, "-m", "histoxai", *words, "--quiet", "--threads", "1"]
        if words[0] in ("report",):
            command += ["--workers", "1"]
        print(f"{tree}: {' '.join(words)}"[:150], file=sys.stderr, flush=True)
        subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)


def without_run_facts(value: Any) -> Any:
    """Leave out of a JSON value what differs between two runs of one command."""
    if isinstance(value, dict):
        return {k: without_run_facts(v) for k, v in value.items() if k not in RUN_FACTS}
    return [without_run_facts(v) for v in value] if isinstance(value, list) else value


def same(old: Path, new: Path) -> bool:
    """Whether two files are equal; JSON apart from facts of the run."""
    if old.suffix == ".json":
        a, b = (without_run_facts(json.loads(p.read_text())) for p in (old, new))
        return bool(json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True))
    return old.read_bytes() == new.read_bytes()


def files(folder: Path) -> set[Path]:
    """All files below a folder, as paths relative to it, the sample data apart."""
    found = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    return {p for p in found if p.parts[0] != "samples" and "events.out" not in p.name}


def main(old_tree: Path, new_tree: Path) -> int:
    """Run both trees and print the files that differ; return the exit code."""
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place, name) for name in ("old", "new")]
        for tree, folder in zip((old_tree, new_tree), folders, strict=True):
            folder.mkdir()
            run(tree, folder)
        old, new = (files(folder) for folder in folders)
        odd = sorted(f"only in one: {p}" for p in old ^ new)
        pages = {p for p in old & new if p.suffix in TEXT_WITH_RUN_FACTS}
        odd += sorted(f"differs: {p}" for p in (old & new) - pages if not same(folders[0] / p, folders[1] / p))
        print("\n".join(odd))
        print(f"{len(old & new) - len(pages)} files compared, {len(odd)} differ; {len(pages)} pages left out")
        return 1 if odd else 0


if __name__ == "__main__":
    sys.exit(main(*(Path(p).resolve() for p in sys.argv[1:3])))
