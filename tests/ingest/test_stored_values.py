"""Masks as they are stored: inverted and stretched grey values, orientation, and lossy compression."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.folder import FolderFormat
from histoxai.ingest.formats.pairs import PairsFormat
from histoxai.ingest.images import decode_image, decode_mask, image_size, mask_size
from histoxai.ingest.label_masks import read_mask
from histoxai.settings import Ingest

RNG = np.random.default_rng(0)


def write_tiff(path: Path, values: np.ndarray, bits: int, photometric: int) -> Path:
    """A grey TIFF with these numbers in the file, of so many bits each; 0: 0 is white (ImageJ), 1: 0 is black."""
    height, width = values.shape
    if bits == 16:
        data = values.astype("<u2").tobytes()
    else:
        planes = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        data = np.packbits(planes.reshape(height, width * bits).astype(np.uint8), axis=1).tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(data)))
    offset = 8 + len(data) + len(data) % 2
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, offset)
    path.write_bytes(head + data + b"\0" * (len(data) % 2) + table + b"\0\0\0\0")
    return path


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_masks_have_the_numbers_that_are_stored(tmp_path: Path, bits: int, photometric: int) -> None:
    values = RNG.integers(0, 2**bits, (16, 24))
    path = write_tiff(tmp_path / "a.tif", values, bits, photometric)
    if bits not in (2, 4):  # another reader of the same file, which needs one more package for these
        assert np.array_equal(tifffile.imread(path), values)
    assert mask_size(path) == (16, 24)
    assert np.array_equal(decode_mask(path), values)
    assert np.array_equal(read_mask(path), values)  # of a whole slide


@pytest.mark.parametrize("kind", [np.uint8, bool])
def test_compressed_masks_in_which_0_is_white(tmp_path: Path, kind: type) -> None:
    values = np.zeros((64, 64), kind)
    values[10:30, 10:40] = 1 if kind is bool else 255
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite", compression=None if kind is bool else "zlib")
    assert np.array_equal(decode_mask(tmp_path / "a.tif"), values)
    assert np.array_equal(read_mask(tmp_path / "a.tif"), values)


def test_imagej_masks_become_the_targets_that_were_drawn(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(RNG.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "images/a.png")
    values = np.zeros((64, 64), np.uint8)
    values[10:30, 10:40] = 255
    tifffile.imwrite(tmp_path / "masks/a.tif", values, photometric="miniswhite")
    planes = PairsFormat(tmp_path, Ingest()).read(0, 1)[1]
    assert planes is not None
    assert np.array_equal(planes[0], np.stack([values > 0, np.zeros_like(values)]))
    assert planes.sum() == 600


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_numbers_below_0_are_refused(tmp_path: Path, kind: type, compression: str | None) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(RNG.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "images/a.png")
    values = np.zeros((64, 64), kind)
    values[10:30, 10:40] = 100
    path = tmp_path / "masks/a.tif"
    tifffile.imwrite(path, values, compression=compression)
    planes = PairsFormat(tmp_path, Ingest()).read(0, 1)[1]
    assert planes is not None
    assert np.array_equal(planes[0, 0], values > 0)
    values[40:] = -1  # not annotated
    tifffile.imwrite(path, values, compression=compression)
    assert np.array_equal(decode_mask(path), values)
    assert np.array_equal(read_mask(path), values)
    for settings in (Ingest(), Ingest(mask_threshold=1), Ingest(class_map=("100=tumor",)), Ingest(tumor=("100",))):
        with pytest.raises(InputRefused, match=r"masks/a\.tif: has mask value -1; expected 0 for background and more"):
            PairsFormat(tmp_path, settings).read(0, 1)


OBJECT = np.zeros((64, 64), np.uint8)
OBJECT[10:30, 10:40] = 255  # 600 px


def quantized(path: Path) -> None:
    """White on black in every viewer, but Pillow puts white first: the object is index 0."""
    Image.fromarray(np.dstack([OBJECT] * 3)).quantize(2).save(path)


def red_first(path: Path) -> None:
    image = Image.fromarray((OBJECT == 0).astype(np.uint8))
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.save(path)


def white_first_bmp(path: Path) -> None:
    """A bitmap of one bit whose colour table is white, black."""
    Image.fromarray(OBJECT).convert("1").save(path)
    data = bytearray(path.read_bytes())
    data[54:62] = bytes([255, 255, 255, 0, 0, 0, 0, 0])
    data[62:] = bytes(255 - value for value in data[62:])
    path.write_bytes(data)


@pytest.mark.parametrize(("write", "ending", "colour"), [
    (quantized, "png", "255, 255, 255"),
    (quantized, "tif", "255, 255, 255"),
    (red_first, "png", "255, 0, 0"),
    (red_first, "bmp", "255, 0, 0"),
    (red_first, "tif", "255, 0, 0"),
    (white_first_bmp, "bmp", "255, 255, 255"),
])  # fmt: skip
def test_palettes_whose_index_0_is_not_black_need_a_class_map(
    tmp_path: Path, write: Callable[[Path], None], ending: str, colour: str
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(RNG.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "images/a.png")
    write(tmp_path / f"masks/a.{ending}")
    with Image.open(tmp_path / f"masks/a.{ending}") as drawn:
        assert np.array_equal(np.asarray(drawn.convert("RGB"))[..., 0], OBJECT)  # as it looks
    for settings in (Ingest(), Ingest(mask_threshold=1), Ingest(tumor=("1",))):
        with pytest.raises(
            InputRefused, match=rf"masks/a\.{ending}: its palette draws index 0 .*\({colour}\)"
        ) as error:
            PairsFormat(tmp_path, settings)
        assert "--class-map 1=tumor" in str(error.value)
    planes = PairsFormat(tmp_path, Ingest(class_map=("1=tumor",))).read(0, 1)[1]
    assert planes is not None
    assert np.array_equal(planes[0, 0], OBJECT == 0)  # index 1, as is said


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_palettes_whose_index_0_is_black_are_numbers(tmp_path: Path, ending: str) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(RNG.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "images/a.png")
    image = Image.fromarray((OBJECT > 0).astype(np.uint8) * 2)
    image.putpalette([3, 2, 3, 255, 255, 255, 0, 160, 0])  # nearly black, as quantizing gives
    image.save(tmp_path / f"masks/a.{ending}")
    planes = PairsFormat(tmp_path, Ingest()).read(0, 1)[1]
    assert planes is not None
    assert np.array_equal(planes[0], np.stack([OBJECT > 0, np.zeros_like(OBJECT)]))


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_masks_of_slides_are_turned_as_others_are(tmp_path: Path, orientation: int, ending: str) -> None:
    values = RNG.integers(0, 9, (12, 20)).astype(np.uint8)
    image, exif = Image.fromarray(values), Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    image.save(path, exif=exif)
    want = {1: values, 3: values[::-1, ::-1], 6: np.rot90(values, -1), 8: np.rot90(values)}[orientation]
    assert np.array_equal(read_mask(path), want)
    assert np.array_equal(read_mask(path), decode_mask(path))


@pytest.mark.parametrize(("name", "options"), [
    ("a.webp", {"lossless": True}),
    ("a.jp2", {}),
    ("a.j2k", {}),
])  # fmt: skip
def test_images_that_pillow_reads_exactly(tmp_path: Path, name: str, options: dict[str, bool]) -> None:
    values = RNG.integers(0, 256, (40, 24, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / name, **options)
    assert image_size(tmp_path / name) == (40, 24)
    assert np.array_equal(decode_image(tmp_path / name), values)


def test_jfif_is_jpeg(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (40, 24, 3), np.uint8)).save(tmp_path / "a.jfif", format="JPEG")
    with Image.open(tmp_path / "a.jfif") as image:
        assert np.array_equal(decode_image(tmp_path / "a.jfif"), np.asarray(image))


def test_loss_is_refused(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (40, 24, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.webp", quality=80)
    with pytest.raises(
        InputRefused, match=r"a\.webp: is WebP with loss, which decoders read differently; save it as PNG"
    ):
        image_size(tmp_path / "a.webp")
    grey = Image.fromarray(values[..., 0])
    grey.save(tmp_path / "m.jp2")
    grey.convert("RGB").save(tmp_path / "m.webp", quality=80)
    grey.save(tmp_path / "m.jpg")
    grey.save(tmp_path / "m.tif", compression="jpeg")
    for name, kind in (("m.jp2", "JPEG 2000"), ("m.webp", "lossy WebP"), ("m.jpg", "JPEG"), ("m.tif", "JPEG")):
        with pytest.raises(InputRefused, match=f"{name}: is compressed as {kind}, which makes up values"):
            decode_mask(tmp_path / name)
    with pytest.raises(InputRefused, match=r"m\.tif: is compressed as JPEG, which makes up values; save masks as PNG"):
        read_mask(tmp_path / "m.tif")


def test_decoders_run_for_their_own_endings_only(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.webp", lossless=True)
    (tmp_path / "a.webp").rename(tmp_path / "a.png")
    with pytest.raises(InputRefused, match="no PNG, JPEG, TIFF or BMP"):
        image_size(tmp_path / "a.png")


def test_16_bits_of_jpeg_2000_are_refused(tmp_path: Path) -> None:
    # Pillow writes no such file: the sizes of an 8-bit one are changed, which the header alone tells
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.jp2")
    data = bytearray((tmp_path / "a.jp2").read_bytes())
    start = data.index(b"\xff\x4f\xff\x51") + 2
    for k in range(3):
        data[start + 40 + 3 * k] = 15
    (tmp_path / "a.jp2").write_bytes(data)
    with pytest.raises(InputRefused, match=r"a\.jp2: has 16 bits a channel"):
        image_size(tmp_path / "a.jp2")


def test_endings_that_are_not_read_are_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    for name in ("a.png", "b.webp"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "A" / name, lossless=True)
    for name in ("c.gif", "d.gif", "e.HEIC", "notes.txt", ".hidden.gif"):
        (tmp_path / "A" / name).write_bytes(b"x")
    index = FolderFormat(tmp_path, Ingest()).index
    assert index.patch_id == ["A/a#0", "A/b#0"]
    assert "left out: 3 files with endings that are not read: 2 .gif, 1 .heic (A/c.gif, say)" in index.notes
