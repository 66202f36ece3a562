"""Stores of every earlier schema: read where that can be, else refused with the command that makes them again."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from histoxai.store.sealing import seal_attributes
from histoxai.store.shards import Store
from tests.conftest import ROOT, array_files, done, run

STORES = ("patches.zarr", "balanced.zarr", "masks.zarr", "maps.zarr", "scores.zarr", "report")
OLD = {
    "first": {"patches.zarr": "patches/1", "balanced.zarr": "patches/1", "scores.zarr": "scores/1"},
    "second": {"patches.zarr": "patches/1", "balanced.zarr": "patches/1", "scores.zarr": "scores/2"},
    "third": {},
}


@pytest.fixture(params=list(OLD))
def frozen(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    with zipfile.ZipFile(ROOT / "tests/data" / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)  # as the commands on record were typed
    return request.param, tmp_path


def test_looking_works_on_every_version(frozen: tuple[str, Path]) -> None:
    version, place = frozen
    for name in STORES:
        found = json.loads(done("info", place / name, "--verify", "--json"))
        assert found["complete"], name
        assert found["failed"] == []
        if name in OLD[version]:
            assert found["kind"] == OLD[version][name]
    assert json.loads(done("info", place / "seg", "--verify", "--json"))["kind"] == "segmenter"


def test_what_cannot_be_read_says_how_to_make_it_again(frozen: tuple[str, Path]) -> None:
    version, place = frozen
    readers = {
        "patches.zarr": ["augment", "patches.zarr", "-o", "new"],
        "balanced.zarr": ["masks", "balanced.zarr", "--model", "seg", "-o", "new"],
        "scores.zarr": ["report", "scores.zarr", "-o", "new"],
    }
    for name, schema in OLD[version].items():
        command = json.loads(done("info", name, "--json"))["run"]["command"]
        refused = run(*readers[name])
        assert refused.code == 3
        assert f"schema {schema} is of an older histoxai" in refused.err
        assert f"make it again: `{command} --force`" in refused.err
        assert not (place / "new").exists()


def test_maps_and_masks_of_every_version_are_scored(frozen: tuple[str, Path]) -> None:
    version, place = frozen
    if version != "third":
        # names and values that earlier scores have too are the same numbers
        before = Store(place / "scores.zarr").read("counts")
        done("score", "maps.zarr", "--masks", "masks.zarr", "-o", "new.zarr")
        assert np.array_equal(Store(place / "new.zarr").read("counts"), before)
        return
    files = {name: array_files(place / name) for name in STORES}
    done("score", "maps.zarr", "--masks", "masks.zarr", "-o", "scores.zarr")
    assert "masks 0" in done("masks", "balanced.zarr", "--model", "seg", "-o", "masks.zarr")
    done("augment", "patches.zarr", "-o", "balanced.zarr")
    assert {name: array_files(place / name) for name in STORES} == files
    done("score", "maps.zarr", "--masks", "masks.zarr", "-o", "new.zarr")
    for path in ("values", "measures", "counts", "curves"):
        new, old = Store(place / "new.zarr").read(path), Store(place / "scores.zarr").read(path)
        assert np.allclose(new, old, rtol=0, atol=1e-9, equal_nan=True), path


def test_a_store_of_a_later_version_is_refused(frozen: tuple[str, Path]) -> None:
    _, place = frozen
    path = place / "maps.zarr/zarr.json"
    meta = json.loads(path.read_text())
    header = meta["attributes"].pop("histoxai") | {"schema": "maps/99"}
    header.pop("checksum", None)
    meta["attributes"] = seal_attributes(header, meta["attributes"])
    path.write_text(json.dumps(meta))
    refused = run("score", "maps.zarr", "--masks", "masks.zarr", "-o", "new.zarr")
    assert refused.code == 3
    assert "schema maps/99 is newer than this histoxai; upgrade it" in refused.err
