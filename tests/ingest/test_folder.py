"""The folder format: groups and modes, and how bad images are refused."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.folder import FolderFormat
from histoxai.settings import Ingest
from histoxai.store.shards import Store
from tests.conftest import run


def test_folder_groups_and_modes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for path, mode in (("b/s1/x.png", "RGB"), ("b/s2/deep/x.tif", "RGB"), ("a/y.jpg", "RGB"), ("a/z.png", "RGBA")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).convert(mode).save(tmp_path / path)
    reader = FolderFormat(tmp_path, Ingest())
    index = reader.index
    assert index.classes == ["a", "b"]
    assert index.patch_id == ["a/y#0", "a/z#0", "s1/b/x#0", "s2/deep/b/x#0"]
    assert index.group == ["a/y#0", "a/z#0", "s1", "s2/deep"]
    images, _ = reader.read(1, 3)
    assert np.array_equal(images[0], np.asarray(Image.open(tmp_path / "a/z.png").convert("RGB")))
    assert FolderFormat(tmp_path, Ingest(classes=("b",))).index.notes == [
        "group: the folders between class and image, without names of splits and magnifications: 's1' of b/s1/x.png, "
        "say; 2 groups of 2 images",
        "left out: a (choose with --classes)",
    ]


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    for source, words in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "is empty")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        outcome = run("ingest", source, "-o", tmp_path / "o.zarr")
        assert (outcome.code, outcome.out) == (3, "")
        assert words in outcome.err
    (tmp_path / "what").mkdir()
    (tmp_path / "what" / "x.txt").write_text("x")
    assert "not recognised" in run("ingest", tmp_path / "what", "-o", tmp_path / "o.zarr").err
    assert run("ingest", tmp_path / "what", "-o", tmp_path / "o.zarr", "--format", "dicom").code == 2


def five_images(source: Path, broken: int) -> np.random.Generator:
    """A class of five images, one of them cut off behind its header, so that only reading it shows."""
    (source / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(source / "a" / f"{i}.png")
    path = source / "a" / f"{broken}.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return rng


def test_an_image_that_does_not_decode_keeps_finished_shards_only(tmp_path: Path) -> None:
    for broken, kept in ((1, None), (4, [0, 1])):
        source, output = tmp_path / f"src{broken}", tmp_path / f"o{broken}.zarr"
        five_images(source, broken)
        outcome = run("ingest", source, "-o", output, "--shard-size", 2)
        assert outcome.code == 3
        assert f"{broken}.png: does not decode" in outcome.err
        assert output.exists() == (kept is not None)
        if kept is not None:
            assert [r["shard"] for r in Store(output).completeness()["images"]["records"]] == kept


def test_images_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "src"
    rng = five_images(source, 4)
    (source / "a" / "4.png").write_bytes(b"no image")
    assert "is not an image" in run("ingest", source, "-o", tmp_path / "o.zarr").err
    Image.fromarray(rng.integers(0, 255, (64, 32, 3), np.uint8)).save(source / "a" / "4.png")
    assert "32 x 64 px but" in run("ingest", source, "-o", tmp_path / "o.zarr").err
    Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(source / "a" / "4.png")
    assert "expected 8-bit RGB" in run("ingest", source, "-o", tmp_path / "o.zarr").err
    assert run("ingest", source, "-o", tmp_path / "o.zarr", "--classes", "nope").code == 3


def tree(root: Path, *names: str) -> Path:
    """Images of noise at these paths below `root`."""
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(root / name)
    return root


def facts(root: Path, **settings: object) -> dict[str, tuple[str, str, int]]:
    """Class, group and split of each patch, by its id."""
    index = FolderFormat(root, Ingest(**settings)).index  # type: ignore[arg-type]
    columns = zip(index.patch_id, index.label, index.group, index.split, strict=True)
    return {patch: (index.classes[label], group, split) for patch, label, group, split in columns}


def refused(root: Path, **settings: object) -> str:
    with pytest.raises(InputRefused) as error:
        FolderFormat(root, Ingest(**settings))  # type: ignore[arg-type]
    return str(error.value).replace(f"{root}", "ROOT")


def test_folders_of_splits_above_the_classes(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/A/s1/x.png", "train/N/y.png", "stage1_val/A/s2/x.png", "CRC-TEST-7K/N/z.png")
    assert facts(root) == {
        "train/s1/A/x#0": ("A", "s1", 1),
        "stage1_val/s2/A/x#0": ("A", "s2", 2),
        "train/N/y#0": ("N", "train/N/y#0", 1),
        "CRC-TEST-7K/N/z#0": ("N", "CRC-TEST-7K/N/z#0", 3),
    }
    notes = FolderFormat(root, Ingest()).index.notes
    assert "split: 'CRC-TEST-7K' is test, 'stage1_val' is validation, 'train' is train" in notes
    assert {k: v[0] for k, v in facts(root, classes=("N",)).items()} == {"CRC-TEST-7K/N/z#0": "N", "train/N/y#0": "N"}
    named = facts(root, classes=("CRC-TEST-7K", "stage1_val", "train"))  # said to be classes, so that they are
    assert named["N/train/y#0"] == ("train", "N", 0)


def test_folders_of_splits_below_the_classes(tmp_path: Path) -> None:
    root = tree(tmp_path, "A/train/s1/x.png", "A/test/s2/x.png", "N/s3/Validation/x.png")
    assert [(g, s) for _, g, s in facts(root).values()] == [("s2", 3), ("s1", 1), ("s3", 2)]


def test_classes_with_names_of_splits_are_refused(tmp_path: Path) -> None:
    loose = refused(tree(tmp_path / "loose", "train/A/x.png", "train/N/x.png", "test/1.png"))
    assert loose == (
        "ROOT: 'test' has the name of a split, but images lie directly in it (1.png, say); put them into class folders "
        "(test/<class>/) or move them away; if folders with such names are classes, name all classes with --classes"
    )
    mixed = refused(tree(tmp_path / "mixed", "NCT-CRC-HE-100K/ADI/x.png", "CRC-VAL-HE-7K/ADI/x.png"))
    assert mixed == (
        "ROOT: 'CRC-VAL-HE-7K' has the name of a split, and 'NCT-CRC-HE-100K' has none; name all folders above the "
        "classes after train, validation or test, or ingest each of them alone; if folders with such names are "
        "classes, name all classes with --classes"
    )
    words = refused(tree(tmp_path / "words", "train_normal/x.png", "train_tumor/x.png"))
    assert "'train_normal' has the name of a split, but images lie directly in it" in words


def test_a_level_above_the_classes_is_refused(tmp_path: Path) -> None:
    several = tree(
        tmp_path / "several", "siteA/tumor/x.png", "siteA/normal/x.png", "siteB/tumor/x.png", "siteB/normal/x.png"
    )
    assert refused(several) == (
        "ROOT: siteA, siteB hold folders of the same names (normal, tumor): if these are the classes, say --classes "
        "normal,tumor (the folders above them become groups), or name those train, validation and test; if siteA, "
        "siteB are the classes, say --classes siteA,siteB"
    )
    assert {v[0] for v in facts(several, classes=("siteA", "siteB")).values()} == {"siteA", "siteB"}
    deep = tree(
        tmp_path / "deep", "slides/breast/benign/SOB/a/s1/40X/x.png", "slides/breast/malignant/SOB/b/s2/40X/x.png"
    )
    assert refused(deep) == (
        "ROOT: holds one folder, 'slides', and in it benign, malignant: if these are the classes, name "
        "ROOT/slides/breast as the source; if 'slides' is the class, say --classes slides"
    )
    scans = tree(tmp_path / "scans", "A/scan1/x.png", "A/scan2/x.png", "N/scan1/x.png", "N/scan2/x.png")
    assert {g for _, g, _ in facts(scans).values()} == {"scan1", "scan2"}


def test_classes_below_folders_of_patients(tmp_path: Path) -> None:
    names = [f"{p}/{c}/{p}_class{c}_{k}.png" for p in ("10253", "10254", "10255") for c in "01" for k in range(2)]
    root = tree(tmp_path / "idc", *names, "10256/0/x.png")  # as Kaggle's IDC: a patient may lack a class
    assert refused(root) == (
        "ROOT: 10253, 10254, 10255, 10256 hold folders of the same names (0, 1): if these are the classes, say "
        "--classes 0,1 (the folders above them become groups), or name those train, validation and test; if 10253, "
        "10254, 10255, 10256 are the classes, say --classes 10253,10254,10255,10256"
    )
    read = facts(root, classes=("0", "1"))
    assert len(read) == 13
    assert read["10253/1/10253_class1_0#0"] == ("1", "10253", 0)
    assert {(c, g) for c, g, _ in read.values()} == {(p[6], p[:5]) for p in names} | {("0", "10256")}
    notes = FolderFormat(root, Ingest(classes=("0", "1"))).index.notes
    assert notes == [
        "group: the folders above the class and between class and image, without names of splits and magnifications: "
        "'10253' of 10253/0/10253_class0_0.png, say; 4 groups of 13 images"
    ]
    two = tree(tmp_path / "two", "p1/0/x.png", "p1/1/x.png", "p2/0/x.png", "p2/1/x.png")
    assert "--classes 0,1 (the folders above" in refused(two)
    sites = tree(tmp_path / "sites", "siteA/tumor/s1/x.png", "siteA/normal/s2/x.png", "siteB/tumor/s1/x.png")
    assert {v[:2] for v in facts(sites, classes=("tumor", "normal")).values()} == {
        ("tumor", "siteA/s1"),
        ("normal", "siteA/s2"),
        ("tumor", "siteB/s1"),
    }


def test_scans_that_classes_share_are_no_classes(tmp_path: Path) -> None:
    root = tree(tmp_path, *[f"{c}/{s}/x.png" for c in ("0", "1") for s in ("s1", "s2", "s3")])
    assert {(c, g) for c, g, _ in facts(root).values()} == {(c, s) for c in "01" for s in ("s1", "s2", "s3")}
    assert "has no class folder 's9'" in refused(root, classes=("s9",))


def test_magnifications_are_no_part_of_a_group(tmp_path: Path) -> None:
    names = [f"{c}/SOB/{k}/{s}/{m}/{s}-{m}.png" for c, k in (("benign", "x"), ("malignant", "y"))
             for s in (f"{c}-14-1", f"{c}-14-2") for m in ("40X", "100X", "200X", "400X")]  # fmt: skip
    root = tree(tmp_path, *names)
    groups = [group for _, group, _ in facts(root).values()]
    assert sorted(set(groups)) == [
        "SOB/x/benign-14-1",
        "SOB/x/benign-14-2",
        "SOB/y/malignant-14-1",
        "SOB/y/malignant-14-2",
    ]
    assert all(groups.count(g) == 4 for g in groups)
    assert (
        "group: the folders between class and image, without names of splits and magnifications: "
        "'SOB/x/benign-14-1' of benign/SOB/x/benign-14-1/100X/benign-14-1-100X.png, say; 4 groups of 16 images"
    ) in FolderFormat(root, Ingest()).index.notes
    alone = tree(tmp_path / "b", "A/20x/x.png", "N/x20/y.png", "N/mag_40/z.png", "N/level_1/w.png")
    assert {group for _, group, _ in facts(alone).values()} == {
        "20x/A/x#0",
        "x20/N/y#0",
        "mag_40/N/z#0",
        "level_1/N/w#0",
    }


def test_spaces_around_a_name_and_its_spelling_do_not_make_a_class(tmp_path: Path) -> None:
    root = tree(tmp_path, "Tumor/x.png", "Tumor /y.png", "Caf\u00e9/x.png", "Cafe\u0301/y.png")
    index = FolderFormat(root, Ingest()).index
    assert (index.classes, index.label) == (["Caf\u00e9", "Tumor"], [0, 0, 1, 1])
    assert "'Tumor' and 'Tumor ' are one class, 'Tumor'" in index.notes


def test_names_with_commas_can_be_chosen(tmp_path: Path) -> None:
    root = tree(tmp_path / "src", "Tumor, NOS/x.png", "Stroma/y.png", "Other/z.png")
    classes = r"Tumor\, NOS,Stroma"
    assert run("ingest", root, "-o", tmp_path / "o.zarr", "--classes", classes).code == 0
    store = Store(tmp_path / "o.zarr")
    assert store.group.attrs["classes"] == ["Tumor, NOS", "Stroma"]
    command = shlex.split(str(store.header["run"]["command"]))
    assert command[command.index("--classes") + 1] == classes
    outcome = run(*command[1:])  # as recorded
    assert outcome.code == 0, outcome.err


def test_real_folder_of_one_split(real_data: Path) -> None:
    index = FolderFormat(real_data / "crc5", Ingest()).index
    counts = {name: index.label.count(k) for k, name in enumerate(index.classes)}
    assert counts == {"AC": 320, "H": 320, "S": 320, "T": 320, "V": 320}
    assert set(index.split) == {1}
