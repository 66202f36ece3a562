"""What is fuzzed: files that somebody else wrote, or that something damaged, and the commands that read them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import h5py
import numpy as np
import safetensors.torch
import torch
import zarr
from PIL import Image

from tests.conftest import CLASSES, Mini, done, write_diagset, write_pannuke
from tests.ingest.test_slide import feature, picture, square, write_geojson, write_slide

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 16, 3), np.uint8)


@dataclass(frozen=True)
class Target:
    """A parser.

    make: writes good files into a folder. files: patterns below it of those that are changed. command: what reads
    them, of the folder and the output. same: the files are ours and checked: unless the command ends with an error,
    what it leaves may not depend on the change; compared: names of the files that count. weight: of all cases.
    mends: it may make good whatever is damaged, and need not refuse any.
    """

    make: Callable[[Path, Mini], None]
    files: tuple[str, ...]
    command: Callable[[Path, Path], list[object]]
    same: bool = False
    weight: float = 1.0
    compared: str = "*"
    mends: bool = False


def ingest(*flags: object, source: str = "") -> Callable[[Path, Path], list[object]]:
    """`ingest` of the folder or a file in it; `{}` in a flag is the folder."""
    return lambda place, out: [
        *("ingest", place / "source" / source if source else place / "source", "-o", out, "--quiet"),
        *(str(f).replace("{}", str(place)) for f in flags),
    ]


# ---- sources


def _npy(place: Path, mini: Mini) -> None:
    folder = place / "source"
    folder.mkdir()
    np.save(folder / "images.npy", IMAGES)
    np.save(folder / "labels.npy", np.array(["a", "b", "a"]))
    np.save(folder / "masks.npy", RNG.integers(0, 2, (3, 16, 16)).astype(np.uint8))
    np.save(folder / "groups.npy", np.array([1, 2, 2]))


def _pannuke(place: Path, mini: Mini) -> None:
    write_pannuke(place / "source", n=1)
    np.save(place / "source/fold1/types.npy", np.array(["Breast"]))


def _diagset(place: Path, mini: Mini) -> None:
    write_diagset(place / "source", scans=2, per_class=1)
    folder = place / "source/partitions/P"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("scan_id,n\nscan0,1\n")
    (folder / "test.csv").write_text("scan_id\nscan1\n")
    folder = place / "source/distributions/S/20x"
    folder.mkdir(parents=True)
    (folder / "scan0.json").write_text(json.dumps({"A": 1, "N": 2, "R1": 3}))


def _hdf5(place: Path, mini: Mini) -> None:
    (place / "source").mkdir()
    with h5py.File(place / "source/data.h5", "w") as file:
        file.create_dataset("images", data=IMAGES, chunks=(1, 16, 16, 3), compression="gzip")
        file["labels"] = np.array([0, 1, 0])
        file["groups"] = np.array([b"s", b"t", b"t"])


def _zarr(version: int) -> Callable[[Path, Mini], None]:
    def make(place: Path, mini: Mini) -> None:
        group = zarr.open_group(str(place / "source/x.zarr"), mode="w", zarr_format=version)
        group.create_array("images", data=IMAGES, chunks=(1, 16, 16, 3))
        group.create_array("labels", data=np.array([0, 1, 0]))

    return make


def _ome(place: Path, mini: Mini) -> None:
    group = zarr.open_group(str(place / "source/x.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=RNG.integers(0, 256, (1, 3, 1, 32, 32), np.uint8), chunks=(1, 3, 1, 32, 32))
    axes = [{"name": a} | ({"type": "space", "unit": "micrometer"} if a in "yx" else {}) for a in "tczyx"]
    levels = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 1.0, 0.5, 0.5]}]}]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": levels, "version": "0.4"}]


def _images(place: Path, mini: Mini) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for k, ending in enumerate(("png", "jpg", "tif", "bmp")):
        folder = place / "source/a" / f"s{k}"
        folder.mkdir(parents=True)
        options: dict[str, Any] = {"exif": exif} if ending == "jpg" else {}
        Image.fromarray(IMAGES[0]).save(folder / f"x.{ending}", **options)
    Image.fromarray(IMAGES[0]).quantize(16).save(folder / "palette.png", transparency=3)
    Image.fromarray(IMAGES[1]).save(folder / "packed.tif", compression="tiff_lzw")


def _pairs(place: Path, mini: Mini) -> None:
    for part in ("images", "masks"):
        (place / "source" / part).mkdir(parents=True)
    for k in range(3):
        Image.fromarray(IMAGES[k]).save(place / f"source/images/f_{k}.png")
        Image.fromarray(IMAGES[k, ..., 0] // 128).save(place / f"source/masks/f_{k}.{('png', 'tif', 'bmp')[k]}")


def _slide(place: Path, mini: Mini) -> None:
    write_slide(place / "source/a.tiff", picture(192, 128), levels=2)


def _drawn(place: Path, mini: Mini) -> None:
    _slide(place, mini)
    hole = [square(0, 0, 128), square(32, 32, 16)]
    write_geojson(place / "drawn/a.geojson", feature("T", *hole), feature("N", square(128, 0, 64, 128)))


def _painted(place: Path, mini: Mini) -> None:
    _slide(place, mini)
    (place / "drawn").mkdir()
    values = np.ones((64, 96), np.uint8)
    values[:, 48:] = 2
    cv2.imwrite(str(place / "drawn/a.png"), values)


def _metadata(place: Path, mini: Mini) -> None:
    _npy(place, mini)
    (place / "source/labels.npy").unlink()
    rows = ["patch_id,patient,site,label,x,y,extent"]
    rows += [f"images#{k},p{k},here,{'ab'[k % 2]},{16 * k},0,16" for k in range(3)]
    (place / "meta.csv").write_text("\n".join(rows) + "\n")


# ---- weights and runs


def _weights(place: Path, mini: Mini) -> None:
    found = safetensors.torch.load_file(mini.cls / "weights.safetensors")
    safetensors.torch.save_file(found, place / "w.safetensors")
    torch.save({"state_dict": found}, place / "w.pth")
    (place / "source").symlink_to(mini.balanced)


def _runs(place: Path, mini: Mini) -> None:
    for name in ("cls", "seg"):
        (place / name).mkdir()
        for file in ("run.json", "weights.safetensors"):
            shutil.copy(mini.root / name / file, place / name / file)
    (place / "source").symlink_to(mini.balanced)


def _stopped(place: Path, mini: Mini) -> None:
    (place / "source").symlink_to(mini.balanced)
    with mock.patch("histoxai.train.task.forget"):  # leaves what a stop after the last epoch would have left
        done(*TRAINING(place, place / "out"), "--checkpoint-minutes", 0)
    for left in (place / "out").iterdir():
        if left.name != "last":
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def TRAINING(place: Path, out: Path) -> list[object]:
    return ["train-cls", place / "source", "-o", out, "--epochs", 2, "--batch-size", 32, "--quiet"]


FOREIGN: dict[str, Target] = {
    "npy": Target(_npy, ("source/*.npy",), ingest("--format", "npy", "--tumor", "1", "--non-tumor", "0"), weight=2),
    "pannuke": Target(_pannuke, ("source/**/*.npy",), ingest("--format", "pannuke")),
    "diagset": Target(
        _diagset,
        ("source/partitions/**/*.csv", "source/distributions/**/*.json", "source/blobs/**/*.npy"),
        ingest("--format", "diagset", "--classes", ",".join(CLASSES)),
    ),
    "hdf5": Target(_hdf5, ("source/*.h5",), ingest("--format", "hdf5"), weight=2),
    "zarr 2": Target(_zarr(2), ("source/**/*", "source/**/.z*"), ingest("--format", "zarr", source="x.zarr")),
    "zarr 3": Target(_zarr(3), ("source/**/*",), ingest("--format", "zarr", source="x.zarr"), weight=2),
    "ome": Target(_ome, ("source/x.zarr/.z*", "source/**/.z*"), ingest("--size", 16, source="x.zarr")),
    "images": Target(_images, ("source/**/*.*",), ingest("--format", "folder"), weight=2),
    "pairs": Target(_pairs, ("source/masks/*",), ingest("--format", "pairs")),
    "slide": Target(_slide, ("source/*",), ingest("--size", 64, "--mpp", 0.5, "--format", "slide")),
    "geojson": Target(
        _drawn,
        ("drawn/*",),
        ingest("--size", 32, "--mpp", 0.5, "--format", "slide", "--annotations", "{}/drawn", "--min-overlap", 0.5),
    ),
    "painted": Target(
        _painted,
        ("drawn/*",),
        ingest(
            *("--size", 32, "--mpp", 0.5, "--format", "slide", "--annotations", "{}/drawn", "--class-map", "1=T,2=N")
        ),
    ),
    "csv": Target(_metadata, ("meta.csv",), ingest("--format", "npy", "--metadata", "{}/meta.csv"), weight=2),
}
MODELS: dict[str, Target] = {
    "safetensors": Target(
        _weights,
        ("w.safetensors",),
        lambda place, out: [*TRAINING(place, out), "--epochs", 1, "--weights", place / "w.safetensors"],
        weight=0.3,
    ),
    "pth": Target(
        _weights,
        ("w.pth",),
        lambda place, out: [*TRAINING(place, out), "--epochs", 1, "--weights", place / "w.pth"],
        weight=0.3,
    ),
    "classifier": Target(
        _runs,
        ("cls/*",),
        lambda place, out: ["predict", place / "source", "--model", place / "cls", "-o", out, "--quiet"],
        weight=0.5,
    ),
    "checkpoint": Target(
        _stopped,
        ("out/last/*",),
        lambda place, out: TRAINING(place, out),
        same=True,
        weight=0.4,
        compared="weights.safetensors",
    ),
    "segmenter": Target(
        _runs,
        ("seg/*",),
        lambda place, out: ["masks", place / "source", "--model", place / "seg", "-o", out, "--quiet"],
        weight=0.5,
    ),
}


# ---- our own stores


def _stores(place: Path, mini: Mini) -> None:
    for name in ("patches", "balanced", "masks", "maps", "scores"):
        shutil.copytree(mini.root / f"{name}.zarr", place / f"{name}.zarr")
    for name in ("cls", "seg", "diagset"):
        (place / name).symlink_to(mini.root / name)


def _half(place: Path, mini: Mini) -> None:
    _stores(place, mini)
    whole = place / "out"
    done(*EXPLAIN(place, whole))
    for k in (1, 2):
        (whole / f"_done/saliency/{k}.json").unlink()
    for k in (0, 3):
        shutil.rmtree(whole / f"attributions/gradcam/c/{k}")


def EXPLAIN(place: Path, out: Path) -> list[object]:
    kind = ["--method", "saliency,gradcam", "--per-class", 4, "--shard-size", 2, "--quiet"]
    return ["explain", place / "balanced.zarr", "--model", place / "cls", "-o", out, *kind]


STORES: dict[str, Target] = {
    "augment": Target(
        _stores, ("patches.zarr/**/*",), lambda place, out: ["augment", place / "patches.zarr", "-o", out], same=True
    ),
    "masks": Target(
        _stores,
        ("balanced.zarr/**/*",),
        lambda place, out: ["masks", place / "balanced.zarr", "--model", place / "seg", "-o", out, "--quiet"],
        same=True,
    ),
    "explain": Target(_stores, ("balanced.zarr/**/*",), EXPLAIN, same=True),
    "score": Target(
        _stores,
        ("maps.zarr/**/*", "masks.zarr/**/*"),
        lambda place, out: ["score", place / "maps.zarr", "--masks", place / "masks.zarr", "-o", out, "--json"],
        same=True,
        weight=2,
    ),
    "scores": Target(
        _stores,
        ("scores.zarr/**/*",),
        lambda place, out: [
            *("score", place / "maps.zarr", "--masks", place / "masks.zarr", "-o", place / "scores.zarr", "--json")
        ],
        same=True,
        weight=0.7,
    ),
    "resume": Target(
        _half, ("out/**/*",), lambda place, out: [*EXPLAIN(place, out), "--verify"], same=True, weight=0.5, mends=True
    ),
    "info": Target(
        _stores,
        ("patches.zarr/**/*", "maps.zarr/**/*", "scores.zarr/**/*"),
        lambda place, out: ["info", place / "maps.zarr", "--verify", "--json"],
    ),
    "report": Target(
        _stores,
        ("scores.zarr/**/*",),
        lambda place, out: ["report", place / "scores.zarr", "-o", out, "--dry-run"],
    ),
}
