"""Odd and broken sources of every format: handled as docs/ingest.md says, or refused with the file and the remedy."""

from __future__ import annotations

import json
import os
import pickle
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from histoxai.ingest.images import decode_image, image_size
from histoxai.settings import Ingest
from tests.conftest import run, write_diagset, write_pannuke

RNG = np.random.default_rng(1)
PICTURE = RNG.integers(0, 256, (24, 32, 3), np.uint8)
GOOD = RNG.integers(0, 256, (2, 24, 32, 3), np.uint8)


def png(width: int, height: int, bits: int = 8, colour: int = 2, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG with any header over any data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(data)) + extra + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + end


def save(path: Path, image: Image.Image | np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def folder(root: Path) -> Path:
    """Two good images; the tests put a third between them."""
    save(root / "a/s/1.png", GOOD[0])
    save(root / "a/s/9.png", GOOD[1])
    return root


def refused(source: Path, *flags: object) -> str:
    """The one line of a refusal by the command; no output is left."""
    output = source.parent / "never.zarr"
    outcome = run("ingest", source, "-o", output, *flags)
    assert outcome.code == 3, outcome.err
    assert outcome.out == ""
    line = outcome.err.strip().splitlines()[-1]
    assert line.startswith("histoxai: ")
    assert not output.exists()
    return line


# Image files that a folder may hold: what makes one, its ending, what the refusal says.
BAD_IMAGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "empty": (lambda p: p.write_bytes(b""), "png", "remove or replace"),
    "text": (lambda p: p.write_text("no image"), "png", "no PNG, JPEG, TIFF or BMP"),
    "magic alone": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "png", "remove or replace"),
    "jpeg magic alone": (lambda p: p.write_bytes(b"\xff\xd8\xff\xe0"), "jpg", "remove or replace"),
    "tiff cut in its directory": (lambda p: p.write_bytes(b"II*\0\x08\0\0\0\x05\0"), "tif", "remove or replace"),
    "gif by another name": (lambda p: save(p, Image.fromarray(PICTURE), format="GIF"), "png", "remove or replace"),
    "postscript": (lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "png", "no PNG"),
    "bomb": (lambda p: p.write_bytes(png(60000, 60000)), "png", "larger than 100 megapixels"),
    "bomb below Pillow's limit": (lambda p: p.write_bytes(png(12000, 9000)), "png", "(12000 x 9000 px); cut it"),
    "no pixel": (lambda p: p.write_bytes(png(0, 24)), "png", "remove or replace"),
    "grayscale": (lambda p: save(p, PICTURE[..., 0]), "png", "is grayscale; H&E needs colour"),
    "gray and alpha": (lambda p: save(p, Image.fromarray(PICTURE).convert("LA")), "png", "is grayscale"),
    "one bit": (lambda p: save(p, Image.fromarray(PICTURE).convert("1")), "png", "is grayscale"),
    "cmyk": (lambda p: save(p, Image.fromarray(PICTURE).convert("CMYK")), "jpg", "is CMYK; convert it to RGB"),
    "cmyk tiff": (lambda p: save(p, Image.fromarray(PICTURE).convert("CMYK")), "tif", "is CMYK; convert it to RGB"),
    "lab": (lambda p: save(p, Image.fromarray(PICTURE).convert("LAB")), "tif", "convert it to RGB"),
    "16-bit rgb": (lambda p: p.write_bytes(png(32, 24, bits=16)), "png", "16 bits a channel"),
    "16-bit gray": (lambda p: save(p, PICTURE[..., 0].astype(np.uint16)), "png", "16 bits a channel"),
    "float": (lambda p: save(p, PICTURE[..., 0].astype(np.float32)), "tif", "expected 8-bit RGB"),
    "two pages": (
        lambda p: save(p, PICTURE, save_all=True, append_images=[Image.fromarray(PICTURE)]),
        "tif",
        "2 pages or frames; save each",
    ),
    "animated": (
        lambda p: save(p, PICTURE, save_all=True, append_images=[Image.fromarray(255 - PICTURE)]),
        "png",
        "pages or frames",
    ),
    "other size": (lambda p: save(p, PICTURE[:20]), "png", "32 x 20 px but"),
    "turned to another size": (lambda p: save(p, PICTURE, exif=turned(6)), "jpg", "24 x 32 px but"),
    "broken link": (lambda p: p.symlink_to("nowhere.png"), "png", "No such file"),
    "link to itself": (lambda p: p.symlink_to(p.name), "png", "symbolic links"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused_by_header_or_left_out(tmp_path: Path, name: str) -> None:
    make, ending, words = BAD_IMAGES[name]
    root = folder(tmp_path / "src")
    path = root / f"a/s/5.{ending}"
    make(path)
    line = refused(root)
    assert str(path) in line
    assert words in line
    reader = FolderFormat(root, Ingest(skip_bad=True))
    assert [what for what, _ in reader.index.left_out] == [f"a/s/5.{ending}"]
    assert words in reader.index.left_out[0][1]
    assert reader.index.patch_id == ["s/a/1#0", "s/a/9#0"]
    assert np.array_equal(reader.read(0, 2)[0], GOOD)


def cut(path: Path, **options: Any) -> None:
    save(path, PICTURE, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp"])
def test_truncated_images_are_refused_when_read(tmp_path: Path, ending: str) -> None:
    root = folder(tmp_path / "src")
    cut(root / f"a/s/5.{ending}")
    line = refused(root)
    assert f"5.{ending}: " in line
    assert "remove or replace" in line


def test_a_png_whose_data_is_shorter_than_its_header_says(tmp_path: Path) -> None:
    root = folder(tmp_path / "src")
    (root / "a/s/5.png").write_bytes(png(32, 24, data=b"\0" * 50))
    assert "5.png: does not decode" in refused(root)


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    (tmp_path / "src/a").mkdir(parents=True)
    (tmp_path / "src/a/1.png").write_bytes(b"")
    assert "nothing that can be used is left; without --skip-bad the first reason is shown" in refused(
        tmp_path / "src", "--skip-bad"
    )


def test_no_flipped_byte_ends_in_a_traceback(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    outcomes = {"read": 0, "refused": 0}
    for ending, options in (("png", {}), ("jpg", {"exif": turned(6)}), ("tif", {}), ("bmp", {})):
        save(tmp_path / f"good.{ending}", PICTURE, **options)
        good = (tmp_path / f"good.{ending}").read_bytes()
        path = tmp_path / f"bad.{ending}"
        for _ in range(60):
            data = bytearray(good)
            for at in rng.integers(0, min(len(good), 200), 3):
                data[at] ^= 1 << rng.integers(8)
            path.write_bytes(data)
            try:
                assert decode_image(path).shape == (*image_size(path), 3)
                outcomes["read"] += 1
            except InputRefused:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def alpha(path: Path) -> np.ndarray:
    a = np.zeros((24, 32, 1), np.uint8)
    a[:, :16] = 255
    save(path, np.concatenate([PICTURE, a], axis=-1))
    return np.where(a > 0, PICTURE, 255)


def palette(path: Path) -> np.ndarray:
    image = Image.fromarray(PICTURE).quantize(16)
    save(path, image)
    return np.asarray(image.convert("RGB"))


def palette_transparent(path: Path) -> np.ndarray:
    image = Image.fromarray(PICTURE).quantize(16)
    save(path, image, transparency=3)
    want = np.asarray(image.convert("RGB")).copy()
    want[np.asarray(image) == 3] = 255
    return want


def upside_down(path: Path) -> np.ndarray:
    save(path, PICTURE, exif=turned(3))
    return PICTURE[::-1, ::-1]


def on_its_side(path: Path) -> np.ndarray:
    save(path, np.ascontiguousarray(np.rot90(PICTURE)), exif=turned(6))  # 6: turn it clockwise to see it
    return PICTURE


def late_exif(path: Path) -> np.ndarray:
    body = turned(6).tobytes().removeprefix(b"Exif\0\0")
    tail = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    rows = b"".join(b"\0" + row.tobytes() for row in PICTURE)
    path.write_bytes(png(32, 24, data=rows, extra=tail))
    return PICTURE


def linked(path: Path) -> np.ndarray:
    save(path.parents[3] / "elsewhere.png", PICTURE)
    path.symlink_to(path.parents[3] / "elsewhere.png")
    return PICTURE


@pytest.mark.parametrize(
    ("make", "ending"),
    [
        (alpha, "png"),
        (palette, "png"),
        (palette, "bmp"),
        (palette_transparent, "png"),
        (upside_down, "png"),
        (upside_down, "tif"),
        (on_its_side, "png"),
        (on_its_side, "tif"),
        (late_exif, "png"),
        (linked, "png"),
    ],
)
def test_odd_images_have_the_pixels_that_are_seen(tmp_path: Path, make: Callable, ending: str) -> None:
    root = folder(tmp_path / "src")
    want = make(root / f"a/s/5.{ending}")
    reader = FolderFormat(root, Ingest())
    assert reader.index.size == (24, 32)
    assert np.array_equal(reader.read(0, 3)[0], np.stack([GOOD[0], want, GOOD[1]]))


def test_names_in_unicode_and_long_names(tmp_path: Path) -> None:
    root = folder(tmp_path / "src")
    decomposed, long = unicodedata.normalize("NFD", "schnitt é ü"), "n" * 250
    for name in (decomposed, long, "組織 1"):
        save(root / f"a/s/{name}.png", PICTURE)
    summary = run("ingest", root, "-o", tmp_path / "o.zarr")
    assert summary.code == 0, summary.err
    ids = zarr.open_group(str(tmp_path / "o.zarr"), mode="r", use_consolidated=False)["patch_id"][:].tolist()
    want = [f"s/a/{n}#0" for n in ("1", "9", long, "schnitt é ü", "組織 1")]
    assert sorted(ids) == sorted(want)


def test_two_names_that_become_one_id(tmp_path: Path) -> None:
    root = folder(tmp_path / "src")
    save(root / "a/s/1.bmp", PICTURE)
    assert "two files would both be patch 's/a/1#0'; rename one" in refused(root)
    (root / "a/s/1.bmp").unlink()
    for form in ("NFC", "NFD"):
        save(root / f"a/s/{unicodedata.normalize(form, 'é')}.png", PICTURE)
    assert "two files would both be patch 's/a/é#0'" in refused(root)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    root = folder(tmp_path / "src")
    save(root / "good.png", PICTURE)
    try:
        os.rename(root / "good.png", os.fsencode(root / "a/s") + b"/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    line = refused(root)
    assert "caf\\udce9.png: the name is not UTF-8" in line
    assert "rename it" in line
    assert FolderFormat(root, Ingest(skip_bad=True)).index.left_out[0][0] == "a/s/caf\\udce9.png"


def test_folders_whose_names_are_not_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    try:
        os.mkdir(odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert "caf\\udce9: the name is not UTF-8" in refused(Path(odd))
    root = folder(tmp_path / "src")
    os.rename(odd, root / Path(odd).name)
    save(root / Path(odd).name / "x.png", PICTURE)
    assert "caf\\udce9: the name is not UTF-8" in refused(root)
    assert FolderFormat(root, Ingest(classes=("a",))).index.notes[-1].startswith("left out: caf\\udce9")


def test_link_loops_end_and_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "src")
    (root / "a/s/up").symlink_to(root)
    (root / "a/s/self").symlink_to(root / "a/s/self")
    (root / "b").symlink_to(root / "a")
    (tmp_path / "out").mkdir()
    save(tmp_path / "out/7.png", PICTURE)
    (tmp_path / "out/back").symlink_to(tmp_path / "out")
    (root / "a/far").symlink_to(tmp_path / "out")
    index = FolderFormat(root, Ingest(classes=("a",))).index
    assert index.patch_id == ["far/a/7#0", "s/a/1#0", "s/a/9#0"]
    told = sorted(n.split(": ")[0].removeprefix(f"{root}/") for n in index.notes if "is a link to a folder" in n)
    assert told == ["a/far/back", "a/s/up", "b"]


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    root = folder(tmp_path / "src")
    (root / "a/s/._1.png").write_bytes(b"\0\5\x16\7")
    save(root / "a/.ipynb_checkpoints/1.png", PICTURE)
    assert len(FolderFormat(root, Ingest()).index) == 2


def test_images_outside_of_classes_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "src")
    save(root / "cover.png", PICTURE)
    index = FolderFormat(root, Ingest()).index
    assert (len(index), index.notes[0]) == (2, "1 images lie in no class folder: left out (cover.png, say)")


def test_settings_of_other_formats_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "src")
    for flags in (
        ["--masks", "gt"],
        ["--tumor", "x"],
        ["--class-map", "1=x"],
        ["--magnification", "40x"],
        ["--min-overlap", "0.5"],
    ):
        assert f"{flags[0]} means nothing to sources of format 'folder'" in refused(root, *flags)
    assert "choose a --size of at most 24" in refused(root, "--size", 64)


# --- .npy ---------------------------------------------------------------------------------------------------------


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1") + data


ROWS = RNG.integers(0, 256, (4, 8, 8, 3), np.uint8)
HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 3), }"
WRAPS = "{'descr': '|u1', 'fortran_order': False, 'shape': (18446744073709551617, 8, 8, 3), }"


def with_nan() -> np.ndarray:
    data = ROWS.astype(np.float32)
    data[2, 0, 0, 0] = np.nan
    return data


def object_file(path: Path) -> None:
    np.save(path, np.array([{"a": 1}, 2], dtype=object), allow_pickle=True)


def trap(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(path.with_suffix(".sprung")),)

    path.write_bytes(pickle.dumps(Trap()))


BAD_NPY: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "is not a .npy file"),
    "wrong magic": (lambda p: p.write_bytes(b"PK\3\4" + b"\0" * 99), "export it with numpy.save"),
    "version of the future": (lambda p: p.write_bytes(b"\x93NUMPY\x09\x00" + b"\0" * 99), "copy it again"),
    "header cut": (lambda p: p.write_bytes(header(HUGE)[:40]), "copy it again"),
    "header is code": (lambda p: p.write_bytes(header("__import__('os').getcwd()")), "copy it again"),
    "header is noise": (lambda p: p.write_bytes(header("\xff\x00([{'")), "copy it again"),
    "header nests": (lambda p: p.write_bytes(header("(" * 5000)), "copy it again"),
    "10^12 rows claimed": (lambda p: p.write_bytes(header(HUGE, b"\0" * 999)), "copy it again"),
    "rows past 64 bits": (lambda p: p.write_bytes(header(WRAPS, b"\0" * 999)), "copy it again"),
    "negative rows": (lambda p: p.write_bytes(header(HUGE.replace("1000000000000", "-4"))), ""),
    "truncated": (lambda p: (np.save(p, ROWS), p.write_bytes(p.read_bytes()[:-100])), "copy it again"),
    "pickled objects": (object_file, "never loaded; save it again as a plain array"),
    "bare pickle": (trap, "is not a .npy file"),
    "fortran": (lambda p: np.save(p, np.asfortranarray(ROWS)), "save numpy.ascontiguousarray"),
    "no rows": (lambda p: np.save(p, ROWS[:0]), "holds no patch"),
    "no pixels": (lambda p: np.save(p, ROWS[:, :0]), "holds no patch"),
    "channels first": (lambda p: np.save(p, np.ascontiguousarray(np.moveaxis(ROWS, -1, 1))), "save numpy.moveaxis"),
    "grayscale": (lambda p: np.save(p, ROWS[..., 0]), "H&E needs colour"),
    "rgba": (lambda p: np.save(p, np.repeat(ROWS, 2, -1)[..., :4].copy()), "blend it on white"),
    "text": (lambda p: np.save(p, np.full((4, 8, 8, 3), "a")), "expected numbers from 0 to 255"),
    "complex": (lambda p: np.save(p, ROWS.astype(np.complex64)), "expected numbers from 0 to 255"),
    "0 to 1": (lambda p: np.save(p, ROWS / 255), "multiply them by 255 and round"),
    "nan": (lambda p: np.save(p, with_nan()), "holds NaN or infinity; replace them"),
    "16 bits": (lambda p: np.save(p, ROWS.astype(np.uint16) * 257), "divide them by 257"),
    "negative": (lambda p: np.save(p, ROWS.astype(np.int16) - 128), "scale and round them first"),
}


@pytest.mark.parametrize("name", BAD_NPY)
def test_bad_npy_files_are_refused(tmp_path: Path, name: str) -> None:
    make, words = BAD_NPY[name]
    path = tmp_path / "images.npy"
    make(path)
    line = refused(path)
    assert f"{path}: " in line
    assert words in line
    assert not path.with_suffix(".sprung").exists()


def npy(root: Path, **arrays: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, array in ({"images": ROWS} | arrays).items():
        np.save(root / f"{name}.npy", array)
    return root


@pytest.mark.parametrize(
    ("arrays", "flags", "file", "words"),
    [
        ({"labels": np.arange(3)}, [], "labels.npy", "must have the same number of rows"),
        ({"labels": np.eye(4)}, [], "labels.npy", "save numpy.argmax of one-hot labels"),
        ({"labels": np.array([0, 1, 0.5, 1])}, [], "labels.npy", "not whole numbers"),
        ({"labels": np.array([0, 1, np.nan, 1])}, [], "labels.npy", "not whole numbers"),
        ({"labels": np.array([0, 1, -1, 1])}, [], "labels.npy", "not whole numbers from 0 on"),
        ({"labels": np.array([0, 1, 2, 1])}, ["--classes", "a,b"], "labels.npy", "has label 2, but --classes names 0"),
        ({"labels": np.array([b"a", b"\xe9", b"a", b"b"])}, [], "labels.npy", "text that is not UTF-8"),
        ({"labels": np.array(list("abca"))}, ["--classes", "a,z"], "labels.npy", "has no label 'z'; it has a, b, c"),
        ({}, ["--classes", "a,b"], "images.npy", "no labels to go with --classes"),
        ({}, ["--labels", "grades"], "", "has no array 'grades' for --labels"),
        ({"masks": np.zeros((4, 8, 9))}, [], "masks.npy", "expected (4, 8, 8) class numbers"),
        ({"masks": np.zeros((4, 8, 8, 6))}, [], "masks.npy", "for PanNuke name the folder that holds the folds"),
        ({"masks": np.full((4, 8, 8), 0.5)}, [], "masks.npy", "save class numbers"),
        ({"masks": np.full((4, 8, 8), -1)}, [], "masks.npy", "expected 0 for background"),
        ({"masks": np.full((4, 8, 8), 7)}, ["--class-map", "1=tumor"], "masks.npy", "add 7=other"),
        ({"masks": np.ones((4, 8, 8))}, ["--tumor", "gland"], "", "add <number>=gland"),
    ],
)
def test_arrays_that_do_not_go_together(tmp_path: Path, arrays: dict, flags: list, file: str, words: str) -> None:
    line = refused(npy(tmp_path / "src", **arrays), *flags)
    assert str(tmp_path / "src" / file) in line
    assert words in line


def test_bad_parts_are_left_out(tmp_path: Path) -> None:
    npy(tmp_path / "src/train")
    npy(tmp_path / "src/test", labels=np.arange(3))
    npy(tmp_path / "src/val", images=np.asfortranarray(ROWS))
    index = NpyFormat(tmp_path / "src", Ingest(skip_bad=True)).index
    assert [w for w, _ in index.left_out] == ["val/images.npy", "test/images"]
    assert index.patch_id == [f"train/images#{i}" for i in range(4)]


def test_a_class_map_that_is_none(tmp_path: Path) -> None:
    outcome = run("ingest", npy(tmp_path / "src"), "-o", tmp_path / "o", "--class-map", "tumor")
    assert outcome.code == 2
    assert "as in 3=epithelial" in outcome.err


# --- HDF5 ---------------------------------------------------------------------------------------------------------


def hdf5(path: Path, fill: Callable[[h5py.File], Any]) -> None:
    with h5py.File(path, "w") as file:
        fill(file)


def external_data(file: h5py.File) -> None:
    file.create_dataset("images", (4, 8, 8, 3), "u1", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4, 8, 8, 3), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(4, 8, 8, 3))
    file.create_virtual_dataset("images", layout)


def objects(file: h5py.File) -> None:
    file["images"] = ROWS
    file.create_dataset("labels", (4,), h5py.vlen_dtype(np.int32))


def damaged_chunk(path: Path) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("images", data=ROWS, chunks=(4, 8, 8, 3), compression="gzip", fletcher32=True)
        where = data.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[where.byte_offset + where.size // 2] ^= 0xFF
    path.write_bytes(content)


def claims(file: h5py.File) -> None:
    file.create_dataset("images", (10**12, 8, 8, 3), "u1", chunks=(1, 8, 8, 3))[0] = 1


def truncated_h5(path: Path) -> None:
    hdf5(path, lambda f: f.create_dataset("images", data=ROWS))
    path.write_bytes(path.read_bytes()[:-200])


BAD_HDF5: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "copy it again"),
    "text": (lambda p: p.write_text("no HDF5"), "copy it again"),
    "truncated": (truncated_h5, "copy it again"),
    "no dataset": (lambda p: hdf5(p, lambda f: f.create_group("images")), "holds no dataset of numbers"),
    "no images": (
        lambda p: hdf5(p, lambda f: f.create_dataset("y", data=[1, 2])),
        "with --images: y (2,) int64",
    ),
    "two of them": (
        lambda p: hdf5(p, lambda f: (f.create_dataset("p", data=ROWS), f.create_dataset("q", data=ROWS))),
        "cannot tell which array holds the images; name it with --images: p (4, 8, 8, 3)",
    ),
    "link to another file": (
        lambda p: hdf5(p, lambda f: f.__setitem__("images", h5py.ExternalLink("/etc/passwd", "/x"))),
        "link to another file, which is never followed; copy the data",
    ),
    "link in a group": (
        lambda p: hdf5(p, lambda f: f.create_group("g").__setitem__("x", h5py.ExternalLink("o.h5", "/x"))),
        "never followed",
    ),
    "data in another file": (lambda p: hdf5(p, external_data), "keeps its data in other files"),
    "virtual over another file": (lambda p: hdf5(p, virtual), "keeps its data in other files"),
    "objects": (lambda p: hdf5(p, objects), "holds objects, which are never loaded"),
    "never written": (
        lambda p: hdf5(p, lambda f: f.create_dataset("images", (4, 8, 8, 3), "u1")),
        "has a header but no data",
    ),
    "10^12 rows claimed": (lambda p: hdf5(p, claims), "claims 1,000,000,000,000 patches"),
    "damaged chunk": (damaged_chunk, "copy it again"),
    "labels of another length": (
        lambda p: hdf5(p, lambda f: (f.create_dataset("x", data=ROWS), f.create_dataset("y", data=[0]))),
        "same number of rows",
    ),
    "0 to 1": (lambda p: hdf5(p, lambda f: f.create_dataset("x", data=ROWS / 255)), "multiply them by 255"),
}


@pytest.mark.parametrize("name", BAD_HDF5)
def test_bad_hdf5_files_are_refused(tmp_path: Path, name: str) -> None:
    make, words = BAD_HDF5[name]
    path = tmp_path / "data.h5"
    make(path)
    line = refused(path)
    assert str(path) in line
    assert words in line


def test_files_still_compressed(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    hdf5(tmp_path / "src/train_x.h5", lambda f: f.create_dataset("x", data=ROWS))
    (tmp_path / "src/train_y.h5.gz").write_bytes(b"\x1f\x8b")
    assert f"{tmp_path / 'src/train_y.h5.gz'}: is compressed; unpack it first (`gunzip`)" in refused(tmp_path / "src")
    (tmp_path / "src/train_x.h5").unlink()
    assert "is compressed; unpack it first" in refused(tmp_path / "src")
    hdf5(tmp_path / "src/train_y.h5", lambda f: f.create_dataset("y", data=np.arange(4)))
    assert "train_y.h5.gz" not in refused(tmp_path / "src")


def test_a_file_of_labels_without_images(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name in ("train_y", "train_mask", "test_x", "test_y"):
        data = ROWS if name.endswith("_x") else np.arange(4)
        hdf5(tmp_path / f"src/{name}.h5", lambda f, d=data: f.create_dataset("d", data=d))
    line = refused(tmp_path / "src")
    assert "no file of images beside it (*_x.h5)" in line
    index = Hdf5Format(tmp_path / "src", Ingest(skip_bad=True)).index
    assert index.patch_id == [f"test_x#{i}" for i in range(4)]
    assert [w for w, _ in index.left_out] == ["train_mask.h5"]


# --- Zarr ---------------------------------------------------------------------------------------------------------


def plain_zarr(path: Path, version: int = 2) -> None:
    array = zarr.create_array(str(path), shape=ROWS.shape, chunks=(2, 8, 8, 3), dtype="u1", zarr_format=version)
    array[:] = ROWS


def edit(path: Path, name: str, **changes: Any) -> None:
    plain_zarr(path)
    content = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(content | changes))


def multi(path: Path, pyramid: Any, shape: tuple[int, ...] = (1, 3, 1, 300, 300)) -> None:
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("0", data=np.ones(shape, np.uint8))
    group.attrs["multiscales"] = [pyramid]


def scaled(path: Path, scale: list[float]) -> None:
    transform = {"type": "scale", "scale": scale}
    multi(path, {"axes": list("tczyx"), "datasets": [{"path": "0", "coordinateTransformations": [transform]}]})


def chunk_cut(path: Path) -> None:
    plain_zarr(path)
    chunk = path / "0.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:20])


def chunks_gone(path: Path) -> None:
    plain_zarr(path)
    for chunk in path.glob("?.0.0.0"):
        chunk.unlink()


def own_store(path: Path) -> None:
    assert run("ingest", folder(path.parent / "own"), "-o", path).code == 0


BAD_ZARR: dict[str, tuple[Callable[[Path], Any], str]] = {
    "metadata is no JSON": (lambda p: (plain_zarr(p), (p / ".zarray").write_text("{")), "is not JSON"),
    "metadata is a list": (lambda p: (plain_zarr(p), (p / ".zarray").write_text("[]")), "is not a JSON object"),
    "metadata is empty": (lambda p: (plain_zarr(p), (p / ".zarray").write_text("{}")), "cannot be opened as Zarr"),
    "unknown codec": (lambda p: edit(p, ".zarray", compressor={"id": "nope"}), "convert it"),
    "codec that unpickles": (
        lambda p: edit(p, ".zarray", filters=[{"id": "pickle"}]),
        "objects, which are never",
    ),
    "objects": (
        lambda p: edit(p, ".zarray", dtype="|O", filters=[{"id": "pickle"}]),
        "objects, which are never",
    ),
    "10^12 rows claimed": (lambda p: edit(p, ".zarray", shape=[10**12, 8, 8, 3]), "claims 1,000,000,000,000 patches"),
    "1 of 10^5 chunks": (
        lambda p: edit(p, ".zarray", shape=[200_000, 8, 8, 3]),
        "claims 100,000 chunks, of which 2 are there",
    ),
    "1 of 10^7 chunks": (
        lambda p: edit(p, ".zarray", shape=[20_000_000, 8, 8, 3]),
        "claims 10,000,000 chunks, of which 2 are there",
    ),
    "all rows in one chunk": (
        lambda p: edit(p, ".zarray", shape=[40_000_000, 8, 8, 3], chunks=[40_000_000, 8, 8, 3]),
        "claims 7,680,000,000 bytes, of which",
    ),
    "pixels that are no squares": (lambda p: scaled(p, [1, 1, 1, 0.5, 0.54]), "has pixels of 0.54 x 0.5, which are no"),
    "a scale that is too short": (lambda p: scaled(p, [1, 1, 1, 0.5]), "its multiscales are damaged"),
    "chunk cut": (chunk_cut, "does not decode"),
    "no chunk": (chunks_gone, "has a header but no data"),
    "empty group": (lambda p: zarr.open_group(str(p), mode="w"), "name it with --images: none"),
    "own store": (own_store, "is a store of histoxai already"),
    "plate": (lambda p: zarr.open_group(str(p), mode="w").attrs.__setitem__("plate", {}), "name one of the images"),
    "no datasets": (lambda p: multi(p, {"axes": list("tczyx")}), "its multiscales are damaged"),
    "level missing": (lambda p: multi(p, {"datasets": [{"path": "5"}]}), "its level '5' is not there"),
    "level outside": (lambda p: multi(p, {"datasets": [{"path": "../../0"}]}), "is not there"),
    "one channel": (lambda p: multi(p, {"datasets": [{"path": "0"}]}, (1, 1, 1, 300, 300)), "1 channels; expected 3"),
    "five times": (lambda p: multi(p, {"datasets": [{"path": "0"}]}, (5, 3, 1, 300, 300)), "5 planes along t"),
    "axes of another array": (lambda p: multi(p, {"axes": ["y", "x"], "datasets": [{"path": "0"}]}), "for axes y, x"),
    "smaller than a tile": (lambda p: multi(p, {"datasets": [{"path": "0"}]}, (1, 3, 1, 99, 99)), "a smaller --size"),
}


@pytest.mark.parametrize("name", BAD_ZARR)
def test_bad_zarr_is_refused(tmp_path: Path, name: str) -> None:
    make, words = BAD_ZARR[name]
    path = tmp_path / "data.zarr"
    make(path)
    line = refused(path, "--format", "zarr")
    assert str(path) in line
    assert words in line


# --- pairs --------------------------------------------------------------------------------------------------------


def pairs(root: Path) -> Path:
    for name in ("f_1_1", "f_1_2", "f_2_1"):
        save(root / f"images/{name}.png", PICTURE)
        save(root / f"masks/{name}.png", np.ones((24, 32), np.uint8))
    return root


BAD_PAIRS: dict[str, tuple[Callable[[Path], Any], str, str, list[str]]] = {
    "mask missing": (
        lambda r: (r / "masks/f_1_2.png").unlink(),
        "images/f_1_2.png",
        "has no mask; looked in",
        [],
    ),
    "image missing": (lambda r: (r / "images/f_1_2.png").unlink(), "masks/f_1_2.png", "is a mask of no image", []),
    "two masks": (lambda r: save(r / "masks/f_1_2.bmp", PICTURE[..., 0]), "images/f_1_2.png", "has 2 masks", []),
    "mask of another size": (
        lambda r: save(r / "masks/f_1_2.png", np.ones((24, 24), np.uint8)),
        "masks/f_1_2.png",
        "is 24 x 24 px but its image f_1_2.png is 32 x 24; export both at one size",
        [],
    ),
    "turned mask": (
        lambda r: save(r / "masks/f_1_2.png", np.ones((24, 32), np.uint8), exif=turned(8)),
        "masks/f_1_2.png",
        "is 24 x 32 px",
        [],
    ),
    "float mask": (
        lambda r: ((r / "masks/f_1_2.png").unlink(), save(r / "masks/f_1_2.tif", np.ones((24, 32), np.float32))),
        "masks/f_1_2.tif",
        "expected a label image",
        [],
    ),
    "mask is no image": (lambda r: (r / "masks/f_1_2.png").write_bytes(b"x"), "masks/f_1_2.png", "replace it", []),
    "coloured mask": (lambda r: save(r / "masks/f_1_2.png", PICTURE), "masks/f_1_2.png", "save class numbers", []),
    "truncated mask": (
        lambda r: (save(r / "masks/f_1_2.png", PICTURE[..., 0]), os.truncate(r / "masks/f_1_2.png", 300)),
        "masks/f_1_2.png",
        "does not decode",
        [],
    ),
    "value without a name": (
        lambda r: save(r / "masks/f_1_2.png", np.full((24, 32), 3, np.uint8)),
        "masks/f_1_2.png",
        "has mask value 3, which --class-map does not name; add 3=other",
        ["--class-map", "1=tumor"],
    ),
    "mask as JPEG": (
        lambda r: ((r / "masks/f_1_2.png").unlink(), save(r / "masks/f_1_2.jpg", np.ones((24, 32), np.uint8))),
        "masks/f_1_2.jpg",
        "is compressed as JPEG, which makes up values",
        [],
    ),
    "mask as JPEG in a TIFF": (
        lambda r: (
            (r / "masks/f_1_2.png").unlink(),
            save(r / "masks/f_1_2.tif", np.ones((24, 32), np.uint8), compression="jpeg"),
        ),
        "masks/f_1_2.tif",
        "is compressed as JPEG, which makes up values",
        [],
    ),
    "three channels of 16 bits": (
        lambda r: (r / "masks/f_1_2.png").write_bytes(png(32, 24, 16, 2, bytes(24 * (1 + 32 * 6)))),
        "masks/f_1_2.png",
        "has three channels of 16 bits",
        [],
    ),
    "no masks at all": (lambda r: (r / "masks").rename(r / "other"), "", "name their folder or ending: --masks", []),
    "sizes that differ": (
        lambda r: (save(r / "images/f_1_2.png", PICTURE[:20]), save(r / "masks/f_1_2.png", PICTURE[:20, :, 0])),
        "images/f_1_2.png",
        "--size",
        [],
    ),
}
SEEN_WHEN_READ = ("coloured mask", "truncated mask", "value without a name", "no masks at all")


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_bad_pairs_are_refused_or_left_out(tmp_path: Path, name: str) -> None:
    make, file, words, flags = BAD_PAIRS[name]
    root = pairs(tmp_path / "src")
    make(root)
    line = refused(root, "--format", "pairs", *flags)
    assert str(root / file) in line
    assert words in line
    if name in SEEN_WHEN_READ:
        return
    reader = PairsFormat(root, Ingest(skip_bad=True))
    assert reader.index.patch_id == ["f_1_1#0", "f_2_1#0"]
    assert len(reader.index.left_out) == 1
    assert "f_1_2" in reader.index.left_out[0][0]


# --- DiagSet and PanNuke ------------------------------------------------------------------------------------------


def partition(root: Path, train: bytes, test: bytes = b"scan_id\nscan1\n") -> None:
    (root / "partitions/P").mkdir(parents=True)
    (root / "partitions/P/train.csv").write_bytes(train)
    (root / "partitions/P/test.csv").write_bytes(test)


BAD_CSV = {
    "scan in two": (b"scan_id\nscan0\nscan1\n", "test.csv", "'scan1' is in two partitions; keep it in one"),
    "not UTF-8": (b"scan_id\nscan\xe9\n", "train.csv", "save it again as UTF-8"),
    "no column": (b"scan\nscan0\n", "train.csv", "has no column scan_id"),
    "empty": (b"", "train.csv", "has no column scan_id"),
    "binary": (b"scan_id\n\0\0\0\n", "train.csv", "train.csv"),
    "blank scan": (b"scan_id,n\nscan0,1\n,2\n", "train.csv", "row 3 has no scan_id"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_partitions_are_refused(tmp_path: Path, name: str) -> None:
    root = write_diagset(tmp_path / "src", scans=2)
    content, file, words = BAD_CSV[name]
    partition(root, content)
    if name == "binary":  # Python takes NUL bytes for text from 3.11 on: no such scan, then
        assert run("ingest", root, "-o", tmp_path / "o.zarr", "--dry-run").code in (0, 3)
        return
    line = refused(root)
    assert f"partitions/P/{file}" in line
    assert words in line


def test_partitions_with_a_mark_and_a_scan_named_twice(tmp_path: Path) -> None:
    root = write_diagset(tmp_path / "src", scans=2)
    partition(root, b"\xef\xbb\xbfscan_id\r\nscan0\r\nscan0\r\n")
    index = DiagSetFormat(root, Ingest()).index
    assert [index.split[index.group.index(f"scan{i}")] for i in (0, 1)] == [1, 3]


def test_distributions_that_are_no_json_are_told(tmp_path: Path) -> None:
    root = write_diagset(tmp_path / "src", scans=1)
    (root / "distributions/S/20x").mkdir(parents=True)
    for name, text in (("scan0", "{"), ("x", "[1, 2]"), ("y", "[" * 100_000)):
        (root / f"distributions/S/20x/{name}.json").write_text(text)
    notes = [n for n in DiagSetFormat(root, Ingest()).index.notes if "is not JSON" in n]
    assert [Path(n.split(": ")[0]).name for n in notes] == ["scan0.json", "y.json"]


def test_bad_blobs_are_left_out(tmp_path: Path) -> None:
    root = write_diagset(tmp_path / "src", scans=2)
    blob = root / "blobs/S/20x/scan0/A/scan0.blob.0.npy"
    np.save(blob, ROWS[:0])
    (root / "blobs/S/20x/scan1/N/scan1.blob.0.npy").write_bytes(b"")
    line = refused(root)
    assert f"{blob}: holds no patch; remove it" in line
    index = DiagSetFormat(root, Ingest(skip_bad=True)).index
    assert [w for w, _ in index.left_out] == [
        "blobs/S/20x/scan0/A/scan0.blob.0.npy",
        "blobs/S/20x/scan1/N/scan1.blob.0.npy",
    ]
    assert len(index) == 4 + 5 + 6 * 2


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (np.array(["a", "b"]), "has shape (2,); expected (4,)"),
        (np.arange(4), "save astype(str) of them"),
        (np.array([b"\xe9"] * 4), "text that is not UTF-8"),
    ],
)
def test_bad_tissue_names_are_refused(tmp_path: Path, types: np.ndarray, words: str) -> None:
    root = write_pannuke(tmp_path / "src")
    np.save(root / "fold2/types.npy", types)
    line = refused(root)
    assert f"{root / 'fold2/types.npy'}: " in line
    assert words in line
    index = PanNukeFormat(root, Ingest(skip_bad=True)).index
    assert ([w for w, _ in index.left_out], index.group) == (["fold2"], ["fold1"] * 4 + ["fold3"] * 4)


def test_pickled_tissue_names_are_refused(tmp_path: Path) -> None:
    root = write_pannuke(tmp_path / "src")
    object_file(root / "fold1/types.npy")
    assert "types.npy: holds pickled objects, which are never loaded; save it again as a plain array" in refused(root)


def test_a_source_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    assert "is neither a folder nor a file" in refused(tmp_path / "pipe.npy")
    (tmp_path / "notes.txt").write_text("x")
    assert "not recognised" in refused(tmp_path / "notes.txt")
    for name in ("diagset", "pannuke", "folder", "pairs", "zarr"):
        assert "is a file; expected a folder" in refused(tmp_path / "notes.txt", "--format", name)
    with pytest.raises(InputRefused, match=r"is not a \.npy file"):
        NpyFormat(tmp_path / "notes.txt", Ingest())
