"""Reading straight from the shard format: the Zarr library's values, and every flipped byte noticed."""

from __future__ import annotations

import json
import os
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, GzipCodec

from histoxai.core import provenance
from histoxai.core.errors import Damaged, HistoxaiError
from histoxai.core.progress import Silent
from histoxai.store import shard_reader
from histoxai.store.create import create_or_match
from histoxai.store.records import with_checksum
from histoxai.store.schema import ArraySpec
from histoxai.store.shard_reader import LibraryRows, ShardRows, open_rows
from histoxai.store.shards import Item, Store
from tests.conftest import fill_item

RNG = np.random.default_rng(0)
SPECS = [
    ArraySpec("images", (11, 20, 30, 3), np.uint8, 4),
    ArraySpec("maps", (11, 3, 16, 16), np.float32, 4, float("nan")),
    ArraySpec("counts", (11, 200), np.int64, 4),
    ArraySpec("short", (11,), np.int16, 4, -1),
    ArraySpec("row", (11,), np.int32),
]


def no_absence(shard: int) -> None:
    raise AssertionError(f"file {shard} is missing")


def values(spec: ArraySpec) -> np.ndarray:
    return RNG.integers(1, 200, spec.shape).astype(spec.dtype)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.path)
def test_rows_equal_the_librarys_in_any_order(tmp_path: Path, spec: ArraySpec) -> None:
    data = values(spec)
    zarr.open_group(tmp_path / "z", mode="w")
    spec.create(tmp_path / "z")[...] = data
    array = zarr.open_group(tmp_path / "z", mode="r")[spec.path]
    reader = open_rows(tmp_path / "z" / spec.path, array, no_absence)
    assert isinstance(reader, ShardRows)
    for rows in ([], [0], [10], [3, 4], [10, 0, 5, 5, 9], range(11)):
        at = np.array(rows, np.int64)
        got = reader.take(at)
        assert got.dtype == np.dtype(spec.dtype)
        np.testing.assert_array_equal(got, data[at])
        np.testing.assert_array_equal(LibraryRows(array).take(at), data[at])


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.path)
def test_what_was_never_written_is_fill(tmp_path: Path, spec: ArraySpec) -> None:
    zarr.open_group(tmp_path / "z", mode="w")
    spec.create(tmp_path / "z")
    array = zarr.open_group(tmp_path / "z", mode="r")[spec.path]
    absent: list[int] = []
    got = open_rows(tmp_path / "z" / spec.path, array, absent.append).take(np.arange(11))
    np.testing.assert_array_equal(got, array[:])
    assert absent == list(range(-(-11 // (spec.shard or 11))))  # once each, whatever is read of them
    if spec.shard is None or spec.row_bytes < 1024:
        return
    array = zarr.open_group(tmp_path / "z", mode="r+")[spec.path]
    array[5] = 7  # one chunk of a shard; the others stay empty in its index
    np.testing.assert_array_equal(
        open_rows(tmp_path / "z" / spec.path, array, absent.append).take(np.arange(11)), array[:]
    )


def test_other_layouts_are_left_to_the_library(tmp_path: Path) -> None:
    data = RNG.integers(0, 200, (6, 5)).astype(">i4")
    root = zarr.open_group(tmp_path / "z", mode="w")
    root.create_array("gzip", data=data.astype("<i4"), chunks=(2, 5), compressors=[GzipCodec()])
    root.create_array("tiles", data=data.astype("<i4"), chunks=(2, 3))
    root.create_array("big", data=data, chunks=(2, 5), serializer=BytesCodec(endian="big"))
    root.create_array("text", data=np.array(["ä", "b", "cc"]), chunks=(2,))
    for name in ("gzip", "tiles", "big", "text"):
        reader = open_rows(tmp_path / "z" / name, root[name], no_absence)
        assert isinstance(reader, LibraryRows)
        at = np.array([2, 0, 1])
        assert reader.take(at).tolist() == np.asarray(root[name][:])[at].tolist()


def test_more_files_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_reader, "_open_file", lru_cache(2)(shard_reader._open_file.__wrapped__))
    spec = ArraySpec("images", (40, 20, 30, 3), np.uint8, 2)
    data = values(spec)
    zarr.open_group(tmp_path / "z", mode="w")
    spec.create(tmp_path / "z")[...] = data
    reader = open_rows(tmp_path / "z" / "images", zarr.open_group(tmp_path / "z", mode="r")["images"], no_absence)
    before = len(os.listdir("/proc/self/fd"))
    at = RNG.integers(0, 40, 200)
    assert np.array_equal(reader.take(at), data[at])
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_reader_survives_a_fork(tmp_path: Path) -> None:
    store = make(tmp_path)
    want = store.read("images")
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(store.read("images"), want) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(store.read("images"), want)


def make(root: Path) -> Store:
    """A store with every kind of array, complete."""
    item = Item("images", tuple(s for s in SPECS if s.shard))
    header = provenance.header("patches/2", {}, 0, {"source": {"path": "x", "digest": "d"}})
    header["run"]["command"] = "histoxai ingest x -o s"
    index = {"row": np.arange(11, dtype=np.int32), "patch_id": np.array([f"é/{i}" for i in range(11)])}
    store = create_or_match(root / "s", header, index, [item])
    data = {s.path: values(s) for s in item.specs}
    fill_item(store, item, lambda a, b: {k: v[a:b] for k, v in data.items()}, Silent())
    place = root / "s/_done/images/item.json"
    facts = {k: v for k, v in json.loads(place.read_text()).items() if k != "checksum"}
    place.write_text(json.dumps(with_checksum(facts | {"command": "histoxai ingest x -o s"})))
    return store


def chunk_files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and "c" in p.relative_to(root).parts)


def test_a_flipped_byte_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    make(tmp_path)
    files = chunk_files(tmp_path / "s")
    rng = random.Random(0)
    sizes = [p.stat().st_size for p in files]
    for _ in range(100):
        path = rng.choices(files, sizes)[0]
        good = path.read_bytes()
        at = rng.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :])
        store, array = Store(tmp_path / "s"), path.relative_to(tmp_path / "s").parts[0]
        with pytest.raises(Damaged, match=rf"s: array {array}[ ,].*damaged.*`histoxai ingest x -o \S+/s ") as error:
            store.read(array)
        if array not in ("row", "patch_id"):
            shard = path.relative_to(tmp_path / "s").parts[2]
            assert f"shard {shard}, patch é/" in str(error.value)
            assert str(error.value).endswith(f"--shard {shard} --verify`")
        else:
            assert str(error.value).endswith("--force`")
        path.write_bytes(good)
    assert Store(tmp_path / "s").read("images").shape == SPECS[0].shape


def test_the_patch_that_is_named_is_the_damaged_one(tmp_path: Path) -> None:
    store = make(tmp_path)
    path = tmp_path / "s" / SPECS[0].file(1)
    index = np.frombuffer(path.read_bytes()[-4 * 16 - 4 : -4], "<u8").reshape(4, 2)
    data = bytearray(path.read_bytes())
    data[int(index[2, 0]) + 20] ^= 1
    path.write_bytes(bytes(data))
    store = Store(tmp_path / "s")
    assert store.take("images", [0, 5, 7, 10]).shape[0] == 4
    with pytest.raises(Damaged, match=r"array images, shard 1, patch é/6 \(row 6\) is damaged: its checksum"):
        store.read("images")


@pytest.mark.parametrize("size", [0, 3, 20, -1, -40])
def test_a_truncated_file_is_damage(tmp_path: Path, size: int) -> None:
    make(tmp_path)
    for spec in (SPECS[0], SPECS[3], SPECS[4]):
        path = tmp_path / "s" / spec.file(0)
        good = path.read_bytes()
        path.write_bytes(good[:size])
        with pytest.raises(Damaged, match=f"array {spec.path}"):
            Store(tmp_path / "s").read(spec.path)
        path.write_bytes(good)


def test_a_missing_file_is_damage_where_its_record_has_one(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "s" / SPECS[1].file(2)).unlink()
    with pytest.raises(Damaged, match=r"array maps, shard 2, patch é/8 \(row 8\) is damaged: file missing"):
        Store(tmp_path / "s").read("maps")


def test_what_the_system_refuses_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path)

    def refuse(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", refuse)
    with pytest.raises(HistoxaiError, match="images: cannot be read: Input/output error") as error:
        store.read("images")
    assert not isinstance(error.value, Damaged)
