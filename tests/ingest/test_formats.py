"""Good sources of every format: the right pixels, labels, masks, groups and splits."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.diagset import DiagSetFormat
from histoxai.ingest.formats.folder import FolderFormat
from histoxai.ingest.formats.hdf5 import Hdf5Format
from histoxai.ingest.formats.npy import NpyFormat
from histoxai.ingest.formats.pairs import PairsFormat
from histoxai.ingest.formats.pannuke import PanNukeFormat
from histoxai.ingest.formats.zarrs import ZarrFormat
from histoxai.settings import Ingest
from histoxai.stages.ingest import recognise
from tests.conftest import done, run, write_diagset, write_pannuke

RNG = np.random.default_rng(0)


def images(n: int, h: int = 16, w: int = 16) -> np.ndarray:
    return RNG.integers(0, 256, (n, h, w, 3), np.uint8)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def h5(path: Path, **datasets: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file.create_dataset(name, data=data)
    return path


def pcam(root: Path, side: str, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = images(n), RNG.integers(0, 2, n).astype(np.uint8)
    m = RNG.integers(0, 2, (n, 16, 16, 1)).astype(np.uint8)
    stem = root / f"camelyonpatch_level_2_split_{side}"
    h5(Path(f"{stem}_x.h5"), x=x)
    h5(Path(f"{stem}_y.h5"), y=y.reshape(n, 1, 1, 1))
    h5(Path(f"{stem}_mask.h5"), mask=m)
    return x, y, m


def test_patchcamelyon(tmp_path: Path) -> None:
    made = {side: pcam(tmp_path, side, n) for side, n in (("test", 3), ("train", 5), ("valid", 4))}
    assert recognise(tmp_path, "auto")[0] == "hdf5"
    reader = Hdf5Format(tmp_path, Ingest(classes=("normal", "tumor")))
    index = reader.index
    assert index.classes == ["normal", "tumor"]
    assert index.split == [3] * 3 + [1] * 5 + [2] * 4
    assert index.label == np.concatenate([v[1] for v in made.values()]).tolist()
    assert index.patch_id[3] == "camelyonpatch_level_2_split_train_x#0"
    pixels, planes = reader.read(1, 10)
    assert planes is not None
    assert np.array_equal(pixels, np.concatenate([v[0] for v in made.values()])[1:10])
    assert np.array_equal(planes[:, 0], np.concatenate([v[2] for v in made.values()])[1:10, ..., 0])
    assert not planes[:, 1].any()
    assert len(index.files) == 9
    tumor = Hdf5Format(tmp_path, Ingest(classes=("1",)))
    assert len(tumor.index) == sum(index.label)
    kept = np.concatenate([v[0] for v in made.values()])[np.array(index.label) == 1]
    assert np.array_equal(tumor.read(0, len(kept))[0], kept)


def test_hdf5_in_one_file(tmp_path: Path) -> None:
    x = images(4)
    names = np.array(["b", "a", "b", "c"], dtype=h5py.string_dtype())
    path = h5(tmp_path / "d.h5", pixels=x, grade=names, patient=np.array([7, 7, 8, 9]), note=np.zeros(3))
    index = Hdf5Format(path, Ingest(labels="grade")).index
    assert (index.classes, index.label) == (["a", "b", "c"], [1, 0, 1, 2])
    assert index.group == ["7", "7", "8", "9"]
    chosen = Hdf5Format(path, Ingest(labels="grade", classes=("c", "b")))
    assert (chosen.index.label, chosen.index.patch_id) == ([1, 1, 0], ["d#0", "d#2", "d#3"])
    assert np.array_equal(chosen.read(0, 3)[0], x[[0, 2, 3]])
    assert Hdf5Format(path, Ingest()).index.label == [-1] * 4  # nothing of a label's name
    with h5py.File(tmp_path / "s.h5", "w") as file:
        for side, n in (("train", 2), ("test", 3)):
            file[f"{side}/images"], file[f"{side}/labels"] = x[:n], np.arange(n)
    index = Hdf5Format(tmp_path / "s.h5", Ingest()).index
    assert (index.split, index.label) == ([3, 3, 3, 1, 1], [0, 1, 2, 0, 1])
    assert index.patch_id[-1] == "s/train#1"


def test_hdf5_end_to_end_and_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = h5(tmp_path / "d.h5", images=images(5), labels=np.arange(5) % 2)
    summary = json.loads(done("ingest", path, "-o", tmp_path / "o.zarr", "--shard-size", 2, "--json"))
    assert summary["format"] == "hdf5"
    assert summary["classes"] == {"0": 3, "1": 2}
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    outcome = run("ingest", path, "-o", tmp_path / "p.zarr")
    assert outcome.code == 3
    assert "pip install 'histoxai[hdf5]'" in outcome.err


def test_npy(tmp_path: Path) -> None:
    x = images(6)
    np.save(tmp_path / "one.npy", x.astype(np.float32))
    assert recognise(tmp_path / "one.npy", "auto")[0] == "npy"
    single = NpyFormat(tmp_path / "one.npy", Ingest())
    assert np.array_equal(single.read(2, 5)[0], x[2:5])
    assert (single.index.label, single.index.patch_id[5]) == ([-1] * 6, "one#5")
    masks = RNG.integers(0, 5, (6, 16, 16))
    for side, part in (("train", slice(0, 4)), ("test", slice(4, 6))):
        folder = tmp_path / "d" / side
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", x[part])
        np.save(folder / "labels.npy", np.array(list("aabbab"))[part])
        np.save(folder / "masks.npy", masks[part])
        np.save(folder / "patient.npy", np.array(list("pqrstu"))[part])
    reader = NpyFormat(tmp_path / "d", Ingest(class_map=("1=x", "2=y", "3=epithelial", "4=spindle")))
    index = reader.index
    assert (index.split, index.label) == ([3, 3, 1, 1, 1, 1], [0, 1, 0, 0, 1, 1])
    assert (index.group[:3], index.patch_id[2]) == (["t", "u", "p"], "train/images#0")
    assert index.facts["tumor"] == ["epithelial"]
    pixels, planes = reader.read(0, 6)
    assert planes is not None
    assert np.array_equal(pixels, x[[4, 5, 0, 1, 2, 3]])
    assert np.array_equal(planes, np.stack([masks == 3, masks == 4], 1)[[4, 5, 0, 1, 2, 3]])


def test_masks_of_two_planes(tmp_path: Path) -> None:
    planes = RNG.integers(0, 2, (6, 2, 16, 16))
    for side, part, full, dtype in (("train", slice(0, 4), 255, "u1"), ("test", slice(4, 6), 1, "f4")):
        (tmp_path / side).mkdir()
        np.save(tmp_path / side / "images.npy", images(6)[part])
        np.save(tmp_path / side / "masks.npy", (planes[part] * full).astype(dtype))
    reader = NpyFormat(tmp_path, Ingest())
    found = reader.read(0, 6)[1]
    assert found is not None
    assert (found.dtype, np.array_equal(found, planes[[4, 5, 0, 1, 2, 3]])) == (np.uint8, True)
    assert reader.index.facts == {"tumor": ["first plane"], "non_tumor": ["second plane"]}
    assert "masks: planes of the source; tumor: the first; non-tumor: the second" in reader.index.notes
    for chosen in (Ingest(tumor=("1",)), Ingest(non_tumor=("1",)), Ingest(class_map=("1=tumor",))):
        with pytest.raises(
            InputRefused, match=r"masks\.npy: holds planes already, tumor and non-tumor; leave out --tumor"
        ):
            NpyFormat(tmp_path, chosen)
    for value, shown in ((np.nan, "nan"), (0.5, "0.5"), (9, "9"), (-1, "-1")):
        odd = planes[4:].astype("f4")
        odd[0, 0, 0, 0] = value
        np.save(tmp_path / "test" / "masks.npy", odd)
        with pytest.raises(InputRefused, match=f"planes hold 0 and 1, or 0 and 255, but here is {shown}"):
            NpyFormat(tmp_path, Ingest()).read(0, 2)
    np.save(tmp_path / "test" / "masks.npy", planes[4:, 0])
    with pytest.raises(InputRefused, match="all masks must be class numbers, or all planes"):
        NpyFormat(tmp_path, Ingest())


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path: Path, version: int) -> None:
    x = images(5)
    place = str(tmp_path / "a.zarr")
    plain = zarr.create_array(place, shape=x.shape, chunks=(2, 16, 16, 3), dtype="u1", zarr_format=version)
    plain[:] = x
    assert recognise(tmp_path / "a.zarr", "auto")[0] == "zarr"
    reader = ZarrFormat(tmp_path / "a.zarr", Ingest())
    assert np.array_equal(reader.read(1, 4)[0], x[1:4])
    assert reader.index.patch_id[4] == "a#4"
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w", zarr_format=version)
    for name, data in (("x", x), ("y", np.array([0, 1, 2, 1, 0])), ("other", np.zeros((5, 2)))):
        group.create_array(name, data=data)
    reader = ZarrFormat(tmp_path / "g.zarr", Ingest(classes=("a", "b", "c")))
    assert (reader.index.classes, reader.index.label) == (["a", "b", "c"], [0, 1, 2, 1, 0])
    assert np.array_equal(reader.read(0, 5)[0], x)


def write_ome(path: Path, image: np.ndarray, um: float, axes: str = "tczyx", version: int = 2) -> None:
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    levels = []
    for k in range(3):
        step = 2**k
        data = np.moveaxis(image[::step, ::step], -1, 0)[None, :, None]
        data = data[tuple(slice(None) if a in axes else 0 for a in "tczyx")]
        group.create_array(str(k), data=data, chunks=tuple(min(32, s) for s in data.shape))
        scale = [um * step if a in "yx" else 1.0 for a in axes]
        levels.append({"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    units = [{"name": a} | ({"type": "space", "unit": "micrometer"} if a in "yx" else {}) for a in axes]
    pyramid = [{"axes": units, "datasets": levels, "version": "0.4"}]
    group.attrs.update(
        {"multiscales": pyramid} if version == 2 else {"ome": {"version": "0.5", "multiscales": pyramid}}
    )


@pytest.mark.parametrize(("axes", "version"), [("tczyx", 2), ("cyx", 2), ("czyx", 3)])
def test_ome_zarr(tmp_path: Path, axes: str, version: int) -> None:
    image = images(1, 80, 112)[0]
    write_ome(tmp_path / "s.ome.zarr", image, 0.25, axes, version)
    reader = ZarrFormat(tmp_path / "s.ome.zarr", Ingest(size=32, overlap=8))
    index = reader.index
    assert (index.mpp, index.size, len(index)) == (0.25, (32, 32), 3 * 4)
    assert index.extra["x"][:5] == [0, 24, 48, 72, 0]
    assert (index.extra["y"][4], index.extra["extent"][0], index.extra["frame"][0]) == (24, 32, "s")
    assert np.array_equal(reader.read(5, 7)[0][0], image[24:56, 24:56])
    half = ZarrFormat(tmp_path / "s.ome.zarr", Ingest(size=16, mpp=0.45))
    assert (half.index.mpp, half.index.extra["x"][1], half.index.extra["extent"][0]) == (0.5, 32, 32)
    assert np.array_equal(half.read(1, 2)[0][0], image[::2, ::2][:16, 16:32])


def test_bioformats2raw_series_and_a_folder_of_images(tmp_path: Path) -> None:
    image = images(1, 64, 64)[0]
    zarr.open_group(str(tmp_path / "f" / "raw.zarr"), mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    write_ome(tmp_path / "f" / "raw.zarr" / "0", image, 0.25)
    write_ome(tmp_path / "f" / "b.zarr", image, 0.25)
    index = ZarrFormat(tmp_path / "f", Ingest(size=32)).index
    assert Counter(index.group) == {"raw.zarr/0": 4, "b": 4}


def test_pairs_in_folders_with_tiles(tmp_path: Path) -> None:
    pictures, values = images(3, 40, 70), RNG.integers(0, 3, (3, 40, 70)).astype(np.uint8)
    for k, name in enumerate(("train/s1_1", "train/s1_2", "test/s2_1")):
        save(tmp_path / "images" / f"{name}.png", pictures[k])
        save(tmp_path / "seg_mask" / f"{name}_mask.png", values[k])
    assert recognise(tmp_path, "auto")[0] == "pairs"
    reader = PairsFormat(tmp_path, Ingest(size=32, class_map=("1=tumor", "2=stroma")))
    index = reader.index
    assert index.patch_id == [f"{n}#{i}" for n in ("test/s2_1", "train/s1_1", "train/s1_2") for i in (0, 1)]
    assert (index.group, index.split) == (["s2_1"] * 0 + ["s2_1"] * 2 + ["s1"] * 4, [3, 3, 1, 1, 1, 1])
    assert (index.extra["frame"][2], index.extra["x"], index.extra["extent"][0]) == ("train/s1_1", [0, 32] * 3, 32)
    pixels, planes = reader.read(1, 4)
    assert planes is not None
    assert np.array_equal(pixels[0], pictures[2][:32, 32:64])
    assert np.array_equal(planes[2, 0], values[0][:32, 32:64] == 1)
    assert np.array_equal(planes[2, 1], values[0][:32, 32:64] == 2)
    with pytest.raises(InputRefused, match="choose with --tumor among gland"):
        PairsFormat(tmp_path, Ingest(class_map=("1=gland", "2=gland")))


def test_pairs_by_ending(tmp_path: Path) -> None:
    pictures = images(4, 24, 24)
    for k, name in enumerate(("train_1", "train_2", "testA_1", "testB_1")):
        save(tmp_path / f"{name}.bmp", pictures[k])
        save(tmp_path / f"{name}_anno.bmp", np.full((24, 24), min(k, 1), np.uint8))
    assert recognise(tmp_path, "auto")[0] == "pairs"
    for settings in (Ingest(), Ingest(masks="_anno.bmp"), Ingest(masks="_anno", images=".bmp")):
        reader = PairsFormat(tmp_path, settings)
        assert reader.index.patch_id == ["testA_1#0", "testB_1#0", "train_1#0", "train_2#0"]
        assert reader.index.group == ["testA_1", "testB_1", "train_1", "train_2"]
        assert reader.index.split == [3, 3, 1, 1]
        pixels, planes = reader.read(0, 4)
        assert planes is not None
        assert np.array_equal(pixels, pictures[[2, 3, 0, 1]])
        assert planes[:, 0].mean(axis=(1, 2)).tolist() == [1, 1, 0, 1]


def test_pairs_of_instances(tmp_path: Path) -> None:
    picture, nuclei = images(1, 20, 30)[0], np.zeros((2, 20, 30), np.uint8)
    nuclei[0, 2:5, 3:9] = 255
    nuclei[1, 10:15, 20:25] = 255
    save(tmp_path / "stage1_train/ab12/images/ab12.png", np.dstack([picture, np.full((20, 30), 255, np.uint8)]))
    for k in (0, 1):
        save(tmp_path / f"stage1_train/ab12/masks/n{k}.png", nuclei[k])
    reader = PairsFormat(tmp_path, Ingest())
    assert (reader.index.group, reader.index.split, reader.index.size) == (["ab12"], [1], (20, 30))
    pixels, planes = reader.read(0, 1)
    assert planes is not None
    assert np.array_equal(pixels[0], picture)
    assert np.array_equal(planes[0, 0], nuclei.any(axis=0))


def test_masks_of_few_bits_keep_their_numbers(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", images(1)[0])
    (tmp_path / "masks").mkdir()
    values = RNG.integers(0, 4, (16, 16)).astype(np.uint8)
    palette = Image.fromarray(values)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    for name, image in {
        "palette": palette,
        "two bits": _two_bits(values),
        "16 bits": Image.fromarray(values.astype(np.uint16)),
        "rgb": Image.fromarray(np.dstack([values] * 3)),
    }.items():
        if isinstance(image, bytes):
            (tmp_path / "masks/a.png").write_bytes(image)
        else:
            image.save(tmp_path / "masks/a.png")
        planes = PairsFormat(tmp_path, Ingest(tumor=("1",), non_tumor=("3",))).read(0, 1)[1]
        assert planes is not None
        assert np.array_equal(planes[0], np.stack([values == 1, values == 3])), name


def _two_bits(values: np.ndarray) -> bytes:
    # a gray PNG of two bits a pixel, which Pillow does not write
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = (values.reshape(16, 4, 4) << np.array([6, 4, 2, 0], np.uint8)).sum(-1).astype(np.uint8)
    rows = b"".join(b"\0" + bytes(row) for row in packed)
    head = struct.pack(">IIBBBBB", 16, 16, 2, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_folder_in_tiles(tmp_path: Path) -> None:
    a, b = images(1, 40, 33)[0], images(1, 20, 20)[0]
    save(tmp_path / "H/s1/a.png", a)
    save(tmp_path / "T/s2/b.png", b)
    reader = FolderFormat(tmp_path, Ingest(size=16))
    index = reader.index
    assert (index.patch_id[:2], index.label) == (["s1/H/a#0", "s1/H/a#1"], [0] * 4 + [1])
    assert (index.extra["y"], index.extra["frame"][4]) == ([0, 0, 16, 16, 0], "s2/T/b")
    pixels, _ = reader.read(3, 5)
    assert np.array_equal(pixels, np.stack([a[16:32, 16:32], b[:16, :16]]))
    assert index.facts == {"size": 16, "overlap": 0}
    with pytest.raises(InputRefused, match=r"20 x 20 px but .*--size"):
        FolderFormat(tmp_path, Ingest())


@pytest.mark.parametrize(("magnification", "mpp"), [("5x", 2.0), ("10x", 1.0), ("40x", 0.25)])
def test_diagset_magnifications(tmp_path: Path, magnification: str, mpp: float) -> None:
    root = write_diagset(tmp_path / "d", scans=2)
    (root / "blobs/S/20x").rename(root / "blobs/S" / magnification)
    assert recognise(root, "auto")[0] == "diagset"
    assert DiagSetFormat(root, Ingest(magnification=magnification)).index.mpp == mpp
    with pytest.raises(InputRefused, match=f"has no blobs/S/20x; choose --magnification {magnification}"):
        DiagSetFormat(root, Ingest())


def test_diagset_has_nine_classes(tmp_path: Path) -> None:
    root = write_diagset(tmp_path / "d", scans=1)
    for name in ("BG", "T"):
        (root / f"blobs/S/20x/scan0/{name}").mkdir()
        np.save(root / f"blobs/S/20x/scan0/{name}/b.npy", images(2, 64, 64))
    assert DiagSetFormat(root, Ingest()).index.classes == ["A", "N", "R1", "R2", "R3", "R4", "R5"]
    nine = ("BG", "T", "N", "A", "R1", "R2", "R3", "R4", "R5")
    assert np.bincount(DiagSetFormat(root, Ingest(classes=nine)).index.label).tolist() == [2, 2, 5, 4, 6]


def test_diagset_partition_is_chosen_and_distributions_are_compared(tmp_path: Path) -> None:
    root = write_diagset(tmp_path / "d", scans=3)
    for name, train, test in (("DiagSet-A.1", "scan0", "scan1"), ("DiagSet-A.2", "scan1\nscan9", "scan2")):
        (root / "partitions" / name).mkdir(parents=True)
        (root / "partitions" / name / "train.csv").write_text(f"scan_id\n{train}\n")
        (root / "partitions" / name / "test.csv").write_text(f"scan_id\n{test}\n")
    counts = {"A": 4, "N": 5, "R1": 6, "BG": 11}
    for scan, level, content in (
        ("scan0", "20x", counts),
        ("scan1", "20x", counts | {"N": 7}),
        ("scan2", "40x", {"A": 99}),
        ("all", "20x", {"scan2": counts | {"R1": 0}}),
    ):
        (root / "distributions/S" / level).mkdir(parents=True, exist_ok=True)
        (root / "distributions/S" / level / f"{scan}.json").write_text(json.dumps(content))
    both = DiagSetFormat(root, Ingest()).index
    assert set(both.split) == {0}
    assert any("choose with --partition" in n for n in both.notes)
    index = DiagSetFormat(root, Ingest(partition="DiagSet-A.2")).index
    assert [index.split[index.group.index(f"scan{i}")] for i in range(3)] == [0, 1, 3]
    about = [n for n in index.notes if "the blobs hold" in n]
    assert about == [
        "scan2: distributions/S/20x/all.json says 0 patches of R1, the blobs hold 6",
        "scan1: distributions/S/20x/scan1.json says 7 patches of N, the blobs hold 5",
    ]
    assert any("1 scans without blobs here (scan9, say)" in n for n in index.notes)
    with pytest.raises(InputRefused, match=r"has no partition 'x'; it has DiagSet-A\.1, DiagSet-A\.2"):
        DiagSetFormat(root, Ingest(partition="x"))


def test_pannuke_tissue_and_background(tmp_path: Path) -> None:
    root = write_pannuke(tmp_path / "p")
    for fold in (1, 3):
        np.save(root / f"fold{fold}" / "types.npy", np.array(["Breast", "Colon", "Skin", f"Bile{fold}"]))
    reader = PanNukeFormat(root, Ingest(non_tumor=("background",)))
    assert reader.index.extra["tissue"] == [
        "Breast",
        "Colon",
        "Skin",
        "Bile1",
        *[""] * 4,
        "Breast",
        "Colon",
        "Skin",
        "Bile3",
    ]
    planes = reader.read(0, 4)[1]
    assert planes is not None
    assert np.array_equal(planes[:, 1], np.load(root / "fold1/masks.npy")[..., 5])
    assert len(reader.index.files) == 8


@pytest.mark.real
def test_real_sources(real_data: Path, tmp_path: Path) -> None:
    names = "1=other,2=inflammatory,3=epithelial,4=spindle"
    words = ("ingest", real_data / "consep", "-o", tmp_path / "c.zarr", "--class-map", names, "--json")
    summary = json.loads(done(*words, "--tumor", "epithelial", "--non-tumor", "spindle"))
    assert (summary["format"], summary["patches"], summary["groups"]) == ("pairs", 656, 41)
    index = PairsFormat(real_data / "consep", Ingest(class_map=tuple(names.split(",")))).index
    assert Counter(index.split) == {1: 432, 3: 224}
    assert index.group[index.patch_id.index("train/train_10_003#0")] == "train_10"
    summary = json.loads(done("ingest", real_data / "dsb2018", "-o", tmp_path / "d.zarr", "--json"))
    assert (summary["patches"], summary["height"], summary["width"]) == (4, 256, 320)
    summary = json.loads(done("ingest", real_data / "crc5/training", "-o", tmp_path / "f.zarr", "--dry-run", "--json"))
    assert (summary["format"], summary["patches"]) == ("folder", 1600)
    assert set(summary["classes"].values()) == {320}


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_arrays_of_one_folder_go_together(tmp_path: Path, kind: str) -> None:
    first, second = images(3), images(2)

    def write(name: str, **arrays: np.ndarray) -> Path:
        if kind == "hdf5":
            return h5(tmp_path / f"{name}.h5", **arrays)
        group = zarr.open_group(str(tmp_path / f"{name}.zarr"), mode="w")
        for key, data in arrays.items():
            group.create_array(key, data=data)
        return tmp_path / f"{name}.zarr"

    def read(path: Path, **chosen: object) -> Hdf5Format | ZarrFormat:
        return (Hdf5Format if kind == "hdf5" else ZarrFormat)(path, Ingest(**chosen))

    labels = {"s1/labels": np.array([0, 1, 0]), "s2/labels": np.array([1, 1])}
    reader = read(write("a", **{"s1/images": first, "s2/images": second}, **labels))
    assert reader.index.patch_id == ["a/s1#0", "a/s1#1", "a/s1#2", "a/s2#0", "a/s2#1"]
    assert reader.index.group == ["a/s1"] * 3 + ["a/s2"] * 2
    assert reader.index.label == [0, 1, 0, 1, 1]
    assert np.array_equal(reader.read(0, 5)[0], np.concatenate([first, second]))
    named = read(write("b", **{"s1/t": first, "s2/t": second}, **labels), images="t", labels="labels")
    assert (named.index.label, named.index.group[3]) == ([0, 1, 0, 1, 1], "b/s2")
    # one folder's labels are not another's images'
    with pytest.raises(InputRefused, match="all parts must have labels, or none"):
        read(write("c", **{"s1/images": first, "s2/images": first, "s2/labels": labels["s1/labels"]}))
    with pytest.raises(InputRefused, match="'meta/labels' lies beside no images, which are in s1, s2"):
        read(write("d", **{"s1/images": first, "s2/images": first, "meta/labels": labels["s1/labels"]}))
    # images of one folder only may have partners elsewhere, as long as there is no choice between them
    apart = read(write("e", **{"pixels/images": first, "meta/labels": labels["s1/labels"]}))
    assert (apart.index.label, apart.index.patch_id[0]) == ([0, 1, 0], "e#0")
    with pytest.raises(InputRefused, match=r"cannot tell which of p/labels, q/labels .*name it with --labels"):
        read(write("f", **{"i/images": first, "p/labels": np.arange(3), "q/labels": np.arange(3)}))


def test_folders_of_a_zarr_group_name_its_splits(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    for side, n in (("train", 3), ("test", 2)):
        group.create_array(f"{side}/images", data=images(n))
    index = ZarrFormat(tmp_path / "a.zarr", Ingest()).index
    assert index.split == [3, 3, 1, 1, 1]
    assert index.group == index.patch_id == ["a/test#0", "a/test#1", "a/train#0", "a/train#1", "a/train#2"]


def test_labels_as_text_are_stripped_and_may_be_empty(tmp_path: Path) -> None:
    labels = np.array([b" T", b"T ", b"", b"N", b"  "], dtype="S4")
    path = h5(tmp_path / "d.h5", images=images(5), labels=labels)
    index = Hdf5Format(path, Ingest()).index
    assert (index.classes, index.label) == (["N", "T"], [1, 1, -1, 0, -1])
    assert "2 patches have no label: their text is empty, or nan, None or NA" in index.notes
    chosen = Hdf5Format(path, Ingest(classes=("T", "N"))).index
    assert (chosen.label, chosen.patch_id[-1]) == ([0, 0, 1], "d#3")
    path = h5(tmp_path / "e.h5", images=images(2), labels=np.arange(2), patient=np.array([0.5, 1]))
    with pytest.raises(InputRefused, match="groups are not whole numbers from 0 on"):
        Hdf5Format(path, Ingest())


def test_classes_may_go_with_labels_from_metadata(tmp_path: Path) -> None:
    path = h5(tmp_path / "d.h5", images=images(3))
    (tmp_path / "m.csv").write_text("patch_id,label\nd#0,T\nd#1,N\nd#2,T\n")
    flags = ["--metadata", tmp_path / "m.csv", "--classes", "T,N", "--json"]
    assert json.loads(done("ingest", path, "-o", tmp_path / "o.zarr", *flags))["classes"] == {"T": 2, "N": 1}


def test_a_partition_is_part_of_what_a_store_is(tmp_path: Path) -> None:
    root = write_diagset(tmp_path / "d", scans=2)
    for name, train in (("P.1", "scan0"), ("P.2", "scan1")):
        (root / "partitions" / name).mkdir(parents=True)
        (root / "partitions" / name / "train.csv").write_text(f"scan_id\n{train}\n")
    assert "partition" not in DiagSetFormat(root, Ingest()).index.facts
    first = DiagSetFormat(root, Ingest(partition="P.1")).index.facts["partition"]
    second = DiagSetFormat(root, Ingest(partition="P.2")).index.facts["partition"]
    assert (first["name"], list(first["files"]), second["name"]) == ("P.1", ["train.csv"], "P.2")
    out = tmp_path / "o.zarr"
    done("ingest", root, "-o", out, "--partition", "P.1")
    done("ingest", root, "-o", out, "--partition", "P.1")
    assert run("ingest", root, "-o", out, "--partition", "P.2").code != 0
    (root / "partitions/P.1/train.csv").write_text("scan_id\nscan1\n")
    assert run("ingest", root, "-o", out, "--partition", "P.1").code != 0


def test_corrected_labels_groups_and_masks_are_another_source(tmp_path: Path) -> None:
    x, labels, masks = images(4), np.array([0, 1, 0, 1]), np.zeros((4, 16, 16), np.uint8)
    arrays = {"images": x, "labels": labels, "masks": masks, "patient": np.arange(4)}

    def digest(**changed: np.ndarray) -> str:
        for name, data in (arrays | changed).items():
            np.save(tmp_path / f"{name}.npy", data)
        return NpyFormat(tmp_path, Ingest()).index.digest

    first = digest()
    assert digest() == first
    changes = {"labels": 1 - labels, "patient": np.array([0, 0, 2, 3]), "masks": masks + 1}
    assert len({first, *(digest(**{name: data}) for name, data in changes.items())}) == 4


def test_pannuke_needs_images_to_be_recognised(tmp_path: Path) -> None:
    for fold in ("fold1", "fold2"):
        save(tmp_path / fold / "a.png", images(1)[0])
    assert PanNukeFormat.recognises(tmp_path) is None
    assert recognise(tmp_path, "auto")[0] == "folder"


def test_missing_chunks_are_told_or_refused(tmp_path: Path) -> None:
    x = images(6)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    labels, masks = np.array([1, 1, 2, 2, 1, 1]), np.ones((6, 16, 16), np.uint8)
    for name, data in (("images", x), ("masks", masks), ("labels", labels), ("patient", labels)):
        group.create_array(name, data=data, chunks=(2, *data.shape[1:]))
    assert not [n for n in ZarrFormat(tmp_path / "a.zarr", Ingest()).index.notes if "chunks" in n]
    for name in ("images", "masks"):
        shutil.rmtree(tmp_path / "a.zarr" / name / "c" / "1")
    reader = ZarrFormat(tmp_path / "a.zarr", Ingest())
    assert [n.partition("a.zarr/")[2] for n in reader.index.notes if "chunks" in n] == [
        f"{name}: 1 of 3 chunks are not there and read as 0" for name in ("images", "masks")
    ]
    assert not reader.read(2, 4)[0].any()
    for name, what in (("patient", "groups"), ("labels", "labels")):
        (tmp_path / "a.zarr" / name / "c" / "1").unlink()
        with pytest.raises(InputRefused, match=rf"{name}: 1 of 3 chunks .*a guess for {what}; copy it again"):
            ZarrFormat(tmp_path / "a.zarr", Ingest())


def test_missing_chunks_of_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", (4000, 16, 16, 3), "u1", chunks=(2, 16, 16, 3))[:4] = 7
    index = Hdf5Format(tmp_path / "a.h5", Ingest()).index
    assert any("1998 of 2000 chunks are not there and read as 0" in n for n in index.notes)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("images", (4002, 16, 16, 3), "u1", chunks=(2, 16, 16, 3))[:2] = 7
    with pytest.raises(InputRefused, match="claims 2,001 chunks, of which 1 are there"):
        Hdf5Format(tmp_path / "b.h5", Ingest())


def test_scales_of_ome_images(tmp_path: Path) -> None:
    image = images(1, 64, 64)[0]
    for name, um in (("a", 0.25), ("b", 0.25), ("c", 0.5)):
        write_ome(tmp_path / f"{name}.zarr", image, um)
    with pytest.raises(InputRefused, match=r"c\.zarr: has 0.5 micrometres per px, others 0.25 .*choose with --mpp"):
        ZarrFormat(tmp_path, Ingest(size=32))
    assert ZarrFormat(tmp_path, Ingest(size=16, mpp=0.5)).index.mpp == 0.5
    shutil.rmtree(tmp_path / "c.zarr")
    for gone in (tmp_path / "b.zarr" / "0").glob("0.0.0.1.*"):
        gone.unlink()
    notes = ZarrFormat(tmp_path, Ingest(size=32)).index.notes
    assert any("b.zarr/0: 2 of 4 chunks are not there and read as 0" in n for n in notes)
    attributes = json.loads((tmp_path / "b.zarr" / ".zattrs").read_text())
    for level in attributes["multiscales"][0]["datasets"]:
        del level["coordinateTransformations"]
    (tmp_path / "b.zarr" / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(InputRefused, match=r"b\.zarr: has no scale, others 0.25 .*--mpp says it"):
        ZarrFormat(tmp_path, Ingest(size=32))
    assert ZarrFormat(tmp_path, Ingest(size=32, mpp=0.25)).index.mpp == 0.25


def test_folders_of_pairs_have_images_in_them(tmp_path: Path) -> None:
    save(tmp_path / "a/images/x.png", images(1)[0])
    (tmp_path / "a/annotations").mkdir()
    (tmp_path / "a/annotations/x.geojson").write_text("{}")
    assert PairsFormat.recognises(tmp_path / "a") is None
    (tmp_path / "a/annotations/x.xml").write_text("<a/>")  # of which pairs says what to do
    assert PairsFormat.recognises(tmp_path / "a") == "it has 'images' and 'annotations' folders"
    for name in ("s/images/x.svs", "s/annotations/x.geojson", "s/masks/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert PairsFormat.recognises(tmp_path / "s") is None
    assert recognise(tmp_path / "s", "auto")[0] == "slide"
    save(tmp_path / "m/images/masks/x.png", images(1)[0])
    assert PairsFormat.recognises(tmp_path / "m") is None
