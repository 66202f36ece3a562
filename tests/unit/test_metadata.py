"""Metadata of stores: what is flipped is noticed and mended, what is hostile leads nowhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histoxai.errors import Damaged, HistoxaiError, InputRefused
from histoxai.progress import Silent
from histoxai.provenance import header
from histoxai.store.create import create_or_match
from histoxai.store.metadata import documents
from histoxai.store.records import read_item, sealed
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store
from histoxai.store.work import fill
from tests.conftest import Mini, array_files, done, run

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
    fill(store, item, lambda a, b: {k: v[a:b] for k, v in VALUES.items()}, Silent())
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
    for path, text in documents(SPECS).items():
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
    with pytest.raises(InputRefused, match="is lost; the command that made the store writes it again"):
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
    path.write_text(json.dumps(sealed({**old, **facts})))


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


def test_absurd_claims_take_no_memory_and_no_time(tmp_path: Path) -> None:
    whole(tmp_path / "s")
    edit_item(tmp_path / "s", rows=10**12, shard=1)
    assert read_item(tmp_path / "s", "things") is None
    meta = json.loads((tmp_path / "s/row/zarr.json").read_text())
    meta["shape"] = [10**12]
    text = json.dumps(meta)
    record = {k: v for k, v in json.loads((tmp_path / "s/_done/index/0.json").read_text()).items() if k != "checksum"}
    record["metadata"]["row/zarr.json"] = text
    (tmp_path / "s/_done/index/0.json").write_text(json.dumps(sealed(record)))
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
    facts = json.loads((tmp_path / "seg/run.json").read_text())
    (tmp_path / "seg/run.json").write_text(json.dumps(facts | {"recipe": {"width": 10**6}}))
    outcome = run("masks", mini.balanced, "--model", tmp_path / "seg", "-o", tmp_path / "o")
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
