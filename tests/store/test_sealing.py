"""Metadata of stores: what is flipped is noticed and mended, what is hostile leads nowhere."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histoxai.core.errors import Damaged, HistoxaiError, Incomplete, InputRefused
from histoxai.core.progress import Silent
from histoxai.core.provenance import header
from histoxai.store import shards
from histoxai.store.create import create_or_match
from histoxai.store.partial_shards import remove_partial
from histoxai.store.records import read_item, with_checksum
from histoxai.store.schema import ArraySpec
from histoxai.store.sealing import metadata_documents, seal_attributes
from histoxai.store.shards import Item, Store
from tests.conftest import Mini, array_files, done, fill_item, run, without_seal

ROWS, SHARD = 7, 4
SPECS = (ArraySpec("a/x", (ROWS, 300), np.float32, SHARD, float("nan")), ArraySpec("y", (ROWS,), np.int16, SHARD))
INDEX = {"row": np.arange(ROWS, dtype=np.int32), "patch_id": np.array([f"p{i}" for i in range(ROWS)])}
VALUES = {"a/x": np.random.default_rng(0).random((ROWS, 300), np.float32), "y": np.arange(ROWS, dtype=np.int16)}
ATTRS = {"classes": ["A", "B"], "mpp": 0.25}


def opened(root: Path, **extra: Any) -> tuple[Store, Item]:
    item = Item("things", SPECS)
    made = header("patches/2", {"k": 1}, 0, {"source": {"path": "x", "digest": "d"}}, **extra)
    return create_or_match(root, made, INDEX, [item], attrs=ATTRS), item


def whole(root: Path) -> Store:
    store, item = opened(root)
    fill_item(store, item, lambda a, b: {k: v[a:b] for k, v in VALUES.items()}, Silent())
    return store


def read_all(root: Path) -> None:
    store = Store(root)
    assert store.group.attrs["mpp"] == 0.25
    for path, want in {**INDEX, **VALUES}.items():
        assert np.array_equal(store.read(path), want)


def told(root: Path) -> str:
    """Whether a store reads as it was written, or says what of its metadata does not hold."""
    try:
        read_all(root)
    except (Damaged, InputRefused) as error:
        return "noticed" if "zarr.json" in str(error) else str(error)
    return "same"


def test_documents_are_what_zarr_writes(tmp_path: Path) -> None:
    for spec in SPECS:
        spec.create(tmp_path / "z")
    for path, text in metadata_documents(SPECS).items():
        if path != "a/zarr.json":
            assert (tmp_path / "z" / path).read_text() == text


@pytest.mark.parametrize("path", ["zarr.json", "row/zarr.json", "patch_id/zarr.json", "a/x/zarr.json", "y/zarr.json"])
def test_every_byte_of_metadata_counts(tmp_path: Path, path: str) -> None:
    whole(tmp_path / "s")
    good, files = (tmp_path / "s" / path).read_bytes(), array_files(tmp_path / "s")
    outcomes = {"same": 0, "noticed": 0}
    for at in range(0, len(good), 23):
        for bad in (good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], good[:at]):
            (tmp_path / "s" / path).write_bytes(bad)
            outcomes[told(tmp_path / "s")] += 1
            store, item = opened(tmp_path / "s")
            assert not store.missing(item, verify=True)
            assert array_files(tmp_path / "s") == files
            read_all(tmp_path / "s")
            (tmp_path / "s" / path).write_bytes(good)
    # a flip in a part of the root that no reader uses, its indent for one, may go by
    assert outcomes["same"] == 0 or path == "zarr.json"
    assert outcomes["noticed"] > 0.9 * sum(outcomes.values())


def test_a_lost_root_comes_back_with_the_command_that_made_it(tmp_path: Path) -> None:
    digest = whole(tmp_path / "s").digest()
    (tmp_path / "s/zarr.json").unlink()
    with pytest.raises(InputRefused, match=r"is lost; `histoxai.*` writes it again and keeps what is done"):
        Store(tmp_path / "s")
    opened(tmp_path / "s")
    assert Store(tmp_path / "s").digest() == digest
    read_all(tmp_path / "s")


def test_neither_root_nor_record_holds(tmp_path: Path) -> None:
    whole(tmp_path / "s")
    path = tmp_path / "s/zarr.json"
    path.write_text(path.read_text().replace("0.25", "0.35"))
    (tmp_path / "s/_done/index/0.json").unlink()
    with pytest.raises(Damaged, match=r"neither its zarr\.json nor its index's record holds"):
        opened(tmp_path / "s")


def edit_item(root: Path, **facts: Any) -> None:
    """Change an item's facts as somebody would who means harm: with the seal renewed."""
    path = root / "_done/things/item.json"
    old = {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}
    path.write_text(json.dumps(with_checksum({**old, **facts})))


def test_facts_from_elsewhere_write_nowhere_else(tmp_path: Path) -> None:
    whole(tmp_path / "s")
    facts = read_item(tmp_path / "s", "things")
    assert facts is not None
    evil = {"../evil/zarr.json": "x", f"{tmp_path}/evil": "x", "row/zarr.json": "x", "_done/index/0.json": "x"}
    edit_item(tmp_path / "s", metadata={**facts["metadata"], **evil})
    before = array_files(tmp_path / "s")
    opened(tmp_path / "s")
    assert array_files(tmp_path / "s") == before
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_link_in_a_store_is_not_written_through(tmp_path: Path) -> None:
    store = whole(tmp_path / "s")
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(tmp_path / "s/a/x/c")
    (tmp_path / "s/a/x/c").symlink_to(tmp_path / "elsewhere")
    store, item = opened(tmp_path / "s")
    assert store.missing(item) == [0, 1]
    with pytest.raises(InputRefused, match=r"a link in the store leads to .*elsewhere.*, out of it"):
        store.write(item, 0, {k: v[:SHARD] for k, v in VALUES.items()}, 0.0)
    assert not list((tmp_path / "elsewhere").iterdir())
    # a linked store is the store
    (tmp_path / "link").symlink_to(tmp_path / "s")
    (tmp_path / "s/a/x/c").unlink()
    store, item = opened(tmp_path / "link")
    store.write(item, 0, {k: v[:SHARD] for k, v in VALUES.items()}, 0.0)
    assert store.missing(item) == [1]


@pytest.mark.parametrize("place", ["_part", "_part/things", "_done", "_done/things"])
def test_a_link_where_the_work_is_kept_is_refused(tmp_path: Path, place: str) -> None:
    whole(tmp_path / "s")
    (tmp_path / "elsewhere/things/0").mkdir(parents=True)
    (tmp_path / "elsewhere/things/0/precious").touch()
    link = tmp_path / "s" / place
    if link.exists():
        shutil.rmtree(link)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere" / Path(place).relative_to(place.split("/")[0]))
    if place.startswith("_part"):
        remove_partial(tmp_path / "s", "things", 0)
    with pytest.raises(InputRefused, match="is a link; nothing is written through links"):
        opened(tmp_path / "s")
    assert [p.name for p in (tmp_path / "elsewhere").rglob("*")] == ["things", "0", "precious"]


def test_force_on_a_link_makes_the_store_where_it_points_to(tmp_path: Path) -> None:
    whole(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    made = header("patches/2", {"k": 2}, 0, {"source": {"path": "x", "digest": "d"}})
    create_or_match(tmp_path / "link", made, INDEX, [Item("things", SPECS)], attrs=ATTRS, force=True)
    assert (tmp_path / "link").is_symlink()
    assert Store(tmp_path / "real").header["settings"] == {"k": 2}


def edit_record(root: Path, **facts: Any) -> None:
    path = root / "_done/index/0.json"
    path.write_text(json.dumps(with_checksum({**without_seal(path), **facts})))


def test_records_name_nothing_outside_and_nothing_without_an_end(tmp_path: Path) -> None:
    whole(tmp_path / "s")
    good = (tmp_path / "s/_done/index/0.json").read_bytes()
    for path in ("/dev/zero", "../x", "a//b", ""):
        edit_record(tmp_path / "s", files=[{"path": path, "size": 0, "checksum": "x"}])
        with pytest.raises(Incomplete):
            Store(tmp_path / "s").require_complete()
    (tmp_path / "s/_done/index/0.json").write_bytes(good)
    (tmp_path / "s/y/zarr.json").unlink()
    os.mkfifo(tmp_path / "s/y/zarr.json")
    with pytest.raises(Damaged, match=r"y/zarr\.json"):
        Store(tmp_path / "s").read("y")
    (tmp_path / "s/y/zarr.json").unlink()
    opened(tmp_path / "s")
    (tmp_path / "s/y/c/0").unlink()
    os.mkfifo(tmp_path / "s/y/c/0")
    with pytest.raises(HistoxaiError, match="y"):
        Store(tmp_path / "s").read("y")


@pytest.mark.parametrize("bad", [5, {"y/zarr.json": 5}, {"../y": "x"}, {"y/zarr.json": "{"}])
def test_facts_of_the_wrong_kind_are_no_tracebacks(tmp_path: Path, bad: Any) -> None:
    whole(tmp_path / "s")
    edit_item(tmp_path / "s", metadata=bad)
    store = Store(tmp_path / "s")
    assert {"row", "patch_id", "a/x", "y"} <= set(store.arrays())
    store.completeness(verify=True)
    opened(tmp_path / "s")


def test_items_that_are_no_names(tmp_path: Path) -> None:
    for names in (5, ["../x"], ["a/b"], [3]):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        whole(tmp_path / "s")
        meta = json.loads((tmp_path / "s/zarr.json").read_text())
        old = {k: v for k, v in meta["attributes"].pop("histoxai").items() if k != "checksum"} | {"items": names}
        meta["attributes"] = seal_attributes(old, meta["attributes"])
        (tmp_path / "s/zarr.json").write_text(json.dumps(meta))
        with pytest.raises(InputRefused, match=r"zarr\.json is damaged \(items\)"):
            Store(tmp_path / "s")


def test_a_seal_cannot_be_switched_off_by_a_letter(tmp_path: Path) -> None:
    whole(tmp_path / "s")
    for name in ("_done/index/0.json", "_done/things/item.json"):
        path = tmp_path / "s" / name
        path.write_text(path.read_text().replace('"checksum": "', '"checksun": "'))
    assert Store(tmp_path / "s").completeness()["index"]["missing"] == [0]
    assert read_item(tmp_path / "s", "things") is None


def without_seals(root: Path) -> None:
    """A store as earlier versions wrote it."""
    for name in ("_done/index/0.json", "_done/things/item.json"):
        facts = without_seal(root / name)
        for key in ("metadata", "sealed"):
            facts.pop(key, None)
        (root / name).write_text(json.dumps(facts))
    meta = json.loads((root / "zarr.json").read_text())
    del meta["attributes"]["histoxai"]["checksum"]
    (root / "zarr.json").write_text(json.dumps(meta))


def test_a_store_from_before_seals_stays_readable_when_its_record_is_mended(tmp_path: Path) -> None:
    whole(tmp_path / "s")
    without_seals(tmp_path / "s")
    read_all(tmp_path / "s")
    (tmp_path / "s/_done/index/0.json").unlink()
    opened(tmp_path / "s")
    read_all(tmp_path / "s")
    Store(tmp_path / "s").require_complete()


def test_a_lost_document_is_a_gap_that_info_sees(tmp_path: Path) -> None:
    whole(tmp_path / "s")
    (tmp_path / "s/y/zarr.json").unlink()
    with pytest.raises(Incomplete, match=r"y/zarr\.json is not there; `.*` writes it again"):
        Store(tmp_path / "s").read("y")
    assert run("info", tmp_path / "s", "--verify").code == 4
    opened(tmp_path / "s")
    assert run("info", tmp_path / "s", "--verify").code == 0


def test_a_store_that_is_replaced_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(tmp_path / "s")
    real = shards.open_group

    def slow(path: Path) -> Any:
        group = real(path)
        shutil.rmtree(tmp_path / "s")
        made = header("patches/2", {"k": 2}, 0, {"source": {"path": "x", "digest": "d"}})
        monkeypatch.setattr(shards, "open_group", real)
        create_or_match(tmp_path / "s", made, INDEX, [Item("things", SPECS)], attrs=ATTRS)
        return group

    monkeypatch.setattr(shards, "open_group", slow)
    with pytest.raises(HistoxaiError, match="was made again, or removed, while it was read"):
        Store(tmp_path / "s")


def test_permissions_that_change_while_it_is_read_are_no_other_store(tmp_path: Path) -> None:
    store = whole(tmp_path / "s")
    (tmp_path / "s/zarr.json").chmod(0o640)
    os.utime(tmp_path / "s/zarr.json")
    assert np.array_equal(store.read("y"), VALUES["y"])
    (tmp_path / "s/zarr.json").unlink()
    with pytest.raises(HistoxaiError, match="was made again, or removed"):
        store.read("y")


def test_absurd_claims_take_no_memory_and_no_time(tmp_path: Path) -> None:
    whole(tmp_path / "s")
    edit_item(tmp_path / "s", rows=10**12, shard=1)
    assert read_item(tmp_path / "s", "things") is None
    meta = json.loads((tmp_path / "s/row/zarr.json").read_text())
    meta["shape"] = [10**12]
    text = json.dumps(meta)
    record = {k: v for k, v in json.loads((tmp_path / "s/_done/index/0.json").read_text()).items() if k != "checksum"}
    record["metadata"]["row/zarr.json"] = text
    (tmp_path / "s/_done/index/0.json").write_text(json.dumps(with_checksum(record)))
    (tmp_path / "s/row/zarr.json").write_text(text)
    with pytest.raises(InputRefused, match=re.escape("array row claims the shape (1000000000000,); is it damaged?")):
        Store(tmp_path / "s").read("row")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "NaN", '{"fingerprint": "x", "files": [], "n": NaN}']
)
def test_records_of_no_sense_count_for_nothing(tmp_path: Path, text: str) -> None:
    whole(tmp_path / "s")
    for name in ("_done/things/0.json", "_done/things/item.json"):
        (tmp_path / "s" / name).write_text(text)
    store, item = opened(tmp_path / "s")
    assert store.missing(item) == [0]
    (tmp_path / "s/zarr.json").write_text(text)
    with pytest.raises(HistoxaiError, match=r"zarr\.json"):
        Store(tmp_path / "s")


def test_a_recipe_that_asks_for_too_much_takes_no_memory(mini: Mini, tmp_path: Path) -> None:
    shutil.copytree(mini.seg, tmp_path / "seg")
    words, path = ["masks", mini.balanced, "--model", tmp_path / "seg", "-o", tmp_path / "o"], tmp_path / "seg/run.json"
    path.write_text(path.read_text().replace('"width": 4', '"width": 1000000'))
    assert "run.json: is not what was written" in run(*words).err
    path.write_text(json.dumps(without_seal(path)))  # as somebody would who means harm
    outcome = run(*words)
    assert outcome.code == 3
    assert "by the recipe" in outcome.err


def test_info_verify_tells_of_metadata(mini: Mini, tmp_path: Path) -> None:
    shutil.copytree(mini.maps, tmp_path / "maps.zarr")
    path = tmp_path / "maps.zarr/attributions/ig/zarr.json"
    path.write_text(path.read_text().replace("float32", "float16"))
    outcome = run("info", tmp_path / "maps.zarr", "--verify")
    assert outcome.code == 1
    assert "attributions/ig/zarr.json is not what was written; `histoxai explain" in outcome.err
    assert "keeps what is done" in outcome.err
    done("info", mini.maps, "--verify")
