"""Work items at work: shares, kept pieces, what killed tasks leave, worker processes' parts."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histoxai.core import provenance, signals
from histoxai.core.errors import HistoxaiError, Interrupted, UsageError
from histoxai.core.progress import Silent
from histoxai.core.slurm import array_block
from histoxai.settings import Work
from histoxai.store import partial_shards
from histoxai.store.create import create_or_match
from histoxai.store.jobs.runner import Task, parse_shards, run_shards
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store
from histoxai.store.storage import files
from tests.conftest import array_files, fill_item

SPEC = ArraySpec("maps", (10, 3, 16, 16), np.float32, 4)
DATA = np.random.default_rng(0).random(SPEC.shape, np.float32)
ITEM = Item("ig", (SPEC,), {"method": "ig"}, rows_per_step=1)


def make(path: Path, *items: Item) -> Store:
    header = provenance.header("maps/1", {}, 0, {"patches": {"path": "x", "digest": "d"}})
    return create_or_match(path, header, {"patch_id": np.array([str(i) for i in range(10)])}, items or [ITEM])


def rows(start: int, stop: int) -> dict[str, np.ndarray]:
    return {"maps": DATA[start:stop]}


def task(path: Path, compute: object = rows) -> Task:
    return Task(
        [ITEM],
        lambda: make(path),
        (lambda: Store(path)) if path.exists() else None,
        lambda store: {"ig": compute},  # type: ignore[dict-item]
        lambda **_: {},
        {"threads": 1},
    )


@pytest.mark.parametrize(("text", "want"), [("1", [0]), ("10", [9]), ("2-4,9", [1, 2, 3, 8])])
def test_one_indexed_shards(text: str, want: list[int]) -> None:
    assert parse_shards(text, 10, one_indexed=True) == want


@pytest.mark.parametrize("text", ["0", "0-3", "11"])
def test_one_indexed_shards_out_of_range(text: str) -> None:
    with pytest.raises(UsageError, match="there are 10 shards, 1-10"):
        parse_shards(text, 10, one_indexed=True)


def test_one_indexed_names(tmp_path: Path) -> None:
    ask = {"progress": Silent()}
    assert run_shards(task(tmp_path / "s"), work=Work(only="count"), **ask)["shards"] == "0-2"
    assert run_shards(task(tmp_path / "s"), work=Work(only="count", one_indexed=True), **ask)["shards"] == "1-3"
    run_shards(task(tmp_path / "s"), work=Work(shard="2", one_indexed=True), **ask)
    assert run_shards(task(tmp_path / "s"), work=Work(only="missing", one_indexed=True), **ask)["shards"] == "1,3"
    assert run_shards(task(tmp_path / "s"), work=Work(only="missing"), **ask)["shards"] == "0,2"
    assert run_shards(task(tmp_path / "s"), work=Work(only="missing", shard="1-2"), **ask)["shards"] == "2"


def test_a_task_looks_at_its_own_shards_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "s")
    seen: list[int] = []
    real = Store.missing

    def spy(self: Store, item: Item, wanted: object = None, verify: bool = False) -> list[int]:
        seen.extend(wanted)  # type: ignore[call-overload]
        return real(self, item, wanted, verify)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "missing", spy)
    run_shards(task(tmp_path / "s"), Silent(), Work(shard="1"))
    assert set(seen) == {1}


def test_an_interrupted_shard_goes_on_at_the_patch_where_it_stopped(tmp_path: Path) -> None:
    store, calls = make(tmp_path / "s"), []

    def stops(start: int, stop: int) -> dict[str, np.ndarray]:
        if start == 6:
            raise Interrupted("stopped by SIGTERM")
        calls.append((start, stop))
        return rows(start, stop)

    with pytest.raises(Interrupted):
        fill_item(store, ITEM, stops, Silent())
    assert store.missing(ITEM) == [1, 2]
    assert [p.name for p in (tmp_path / "s/_part/ig/1").iterdir()] == ["0-2.part"]

    def goes_on(start: int, stop: int) -> dict[str, np.ndarray]:
        calls.append((start, stop))
        return rows(start, stop)

    fill_item(store, ITEM, goes_on, Silent())
    assert calls == [(i, i + 1) for i in range(10)]  # each patch once
    assert np.array_equal(store.read("maps"), DATA)
    assert not (tmp_path / "s/_part").exists()
    whole = make(tmp_path / "t")
    fill_item(whole, ITEM, rows, Silent())
    assert store.digest() == whole.digest()


def test_pieces_are_written_as_time_passes_so_that_a_kill_costs_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_shards, "SAVE_INTERVAL", 0.0)
    store = make(tmp_path / "s")
    seen: list[list[str]] = []

    def slow(start: int, stop: int) -> dict[str, np.ndarray]:
        if start == 3:
            seen.append(sorted(p.name for p in (tmp_path / "s/_part/ig/0").iterdir()))
        return rows(start, stop)

    fill_item(store, ITEM, slow, Silent())
    assert seen == [["0-1.part", "1-2.part", "2-3.part"]]
    assert not (tmp_path / "s/_part").exists()


def test_pieces_that_are_torn_or_of_other_settings_count_for_nothing(tmp_path: Path) -> None:
    store = make(tmp_path / "s")
    buffer = {"maps": np.zeros((4, 3, 16, 16), np.float32)}
    one = partial_shards.PartialShard(store.path, "ig", 0, store.fingerprint(ITEM), buffer)
    one.add(0, {"maps": DATA[0:1] + 5})  # were it taken over, it would show
    one.flush()
    path = tmp_path / "s/_part/ig/0/0-1.part"
    good = path.read_bytes()
    other = partial_shards.PartialShard(store.path, "ig", 0, "0" * 32, dict(buffer))
    assert not other.have.any()
    for bad in (b"", good[:40], good[:-1], good[:100] + b"x" + good[101:], b"garbage" * 100):
        path.write_bytes(bad)
        assert not partial_shards.PartialShard(store.path, "ig", 0, store.fingerprint(ITEM), dict(buffer)).have.any()
    path.write_bytes(good)
    (path.parent / "nonsense.part").write_bytes(good)
    (path.parent / "3-9.part").write_bytes(good)
    again = partial_shards.PartialShard(store.path, "ig", 0, store.fingerprint(ITEM), dict(buffer))
    assert again.have.tolist() == [True, False, False, False]
    assert again.seconds > 0
    path.write_bytes(good[:-1])
    fill_item(store, ITEM, rows, Silent())
    assert np.array_equal(store.read("maps"), DATA)
    assert not (tmp_path / "s/_part").exists()


def test_a_full_disk_while_stopping_does_not_hide_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "s")

    def full(path: Path, data: bytes, durable: bool = True) -> None:
        raise HistoxaiError("full")

    def stops(start: int, stop: int) -> dict[str, np.ndarray]:
        if start == 1:
            monkeypatch.setattr(partial_shards, "write_atomically", full)
            raise Interrupted("stopped by SIGTERM")
        return rows(start, stop)

    with pytest.raises(Interrupted):
        fill_item(store, ITEM, stops, Silent())


TARGETS = Item("predictions", (ArraySpec("targets", (10,), np.int16, 4),), read_back=True)


def _two_items(path: Path, write_behind: bool, threads: set[str]) -> Task:
    """Targets, and maps that read the targets of their shard from the store."""

    def produce(store: Store) -> dict[str, object]:
        def maps(start: int, stop: int) -> dict[str, np.ndarray]:
            assert store.read("targets", start, stop).tolist() == list(range(start, stop))
            return rows(start, stop)

        return {"predictions": lambda a, b: {"targets": np.arange(a, b, dtype=np.int16)}, "ig": maps}

    def create() -> Store:
        store = make(path, TARGETS, ITEM)
        write = store.write

        def noted(*arguments: Any, **facts: Any) -> None:
            threads.add(f"{arguments[0].name}: {threading.current_thread().name.split('_')[0]}")
            write(*arguments, **facts)

        store.write = noted  # type: ignore[method-assign]
        return store

    return Task([TARGETS, ITEM], create, None, produce, lambda **_: {}, {"threads": 1}, write_behind)  # type: ignore[arg-type]


def test_shards_written_behind_the_work_have_the_same_bytes(tmp_path: Path) -> None:
    threads: dict[bool, set[str]] = {False: set(), True: set()}
    for behind, used in threads.items():
        run_shards(_two_items(tmp_path / str(behind), behind, used), Silent(), Work())
    assert threads[False] == {"predictions: MainThread", "ig: MainThread"}
    assert threads[True] == {"predictions: MainThread", "ig: writer"}
    assert array_files(tmp_path / "True") == array_files(tmp_path / "False")
    assert Store(tmp_path / "True").completeness()["ig"]["rows"] == 10


@pytest.mark.parametrize("shard", [0, 2])
def test_a_refused_write_behind_the_work_ends_it_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    write = Store.write

    def full(self: Store, item: Item, k: int, *arguments: Any, **facts: Any) -> None:
        if item.name == "ig" and k == shard:
            raise HistoxaiError("no space left")
        write(self, item, k, *arguments, **facts)

    path = tmp_path / "store"
    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", full)
        with pytest.raises(HistoxaiError, match="no space left"):
            run_shards(replace(task(path), write_behind=True), Silent(), Work())
    computed: list[int] = []

    def again(start: int, stop: int) -> dict[str, np.ndarray]:
        computed.append(start)
        return rows(start, stop)

    fill_item(Store(path), ITEM, again, Silent())
    # the rows of shard 1, which were computed while shard 0 was refused, were saved in pieces
    assert computed == {0: [0, 1, 2, 3, 8, 9], 2: [8, 9]}[shard]
    assert np.array_equal(Store(path).read("maps"), DATA)


def test_a_signal_that_a_destructor_swallowed_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_received", [])
    store, calls = make(tmp_path / "s"), []

    def hears_nothing(start: int, stop: int) -> dict[str, np.ndarray]:
        calls.append(start)
        signals._received.append("stopped by SIGUSR1")
        return rows(start, stop)

    with pytest.raises(Interrupted, match="SIGUSR1"):
        fill_item(store, ITEM, hears_nothing, Silent())
    assert calls == [0]


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_behind(folder: Path, name: str, host: str, pid: int) -> Path:
    path = folder / f".{name}@{host}@{pid}-0123abcd.tmp"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    return path


def test_what_killed_tasks_left_is_swept_and_what_lives_is_not(tmp_path: Path) -> None:
    store = make(tmp_path / "s")
    fill_item(store, ITEM, rows, Silent())
    here, gone = platform.node(), dead_process()
    folders = [
        tmp_path,
        tmp_path / "s/_done",
        tmp_path / "s/_done/ig",
        tmp_path / "s/maps/c/1/0/0",
        tmp_path / "s/_part/ig/1",
    ]
    dead = [left_behind(folder, "x", here, gone) for folder in folders]
    alive = left_behind(tmp_path / "s/maps/c/2/0/0", "0", here, os.getppid())
    elsewhere = left_behind(tmp_path / "s/maps/c/2/0/0", "0", "another-host", gone)
    old = left_behind(tmp_path / "s/maps/c/2/0/0", "1", "another-host", gone)
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    (tmp_path / ".s@nobody").write_bytes(b"not ours")
    make(tmp_path / "s")
    assert run_shards(task(tmp_path / "s"), Silent(), Work())["done"] == {"ig": 0}
    assert not [p for p in [*dead, old] if p.exists()]
    assert alive.exists()
    assert elsewhere.exists()
    assert (tmp_path / ".s@nobody").exists()
    assert not (tmp_path / "s/_part").exists()


def test_a_task_whose_file_was_swept_writes_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, swept = os.replace, []

    def sweep_first(source: Path, target: Path) -> None:
        if len(swept) < 2:
            swept.append(source)
            os.unlink(source)
        real(source, target)

    monkeypatch.setattr(os, "replace", sweep_first)
    files.write_atomically(tmp_path / "f", b"data")
    assert (tmp_path / "f").read_bytes() == b"data"
    assert len(swept) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_folder_that_goes_just_after_it_was_found_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the folder of pieces does when another task has finished the shard."""
    folder, real = tmp_path / "o.zarr" / "0", Path.is_dir
    folder.mkdir(parents=True)
    gone: list[Path] = []

    def is_dir(path: Path) -> bool:  # what mkdir(exist_ok=True) asks last
        if path == folder and not gone:
            gone.append(path)
            path.rmdir()
        return real(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    files.write_atomically(folder / "x", b"data", durable=False)
    assert gone
    assert (folder / "x").read_bytes() == b"data"
    with pytest.raises(HistoxaiError, match=r"cannot be written: (File exists|Not a directory)"):
        files.write_atomically(folder / "x" / "y", b"data")


@pytest.mark.parametrize("number", [28, 122, 30])
def test_a_refused_write_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    store = make(tmp_path / "s")
    monkeypatch.setattr(os, "fsync", refuse)
    words = "run the same command again" if number != 30 else "choose an output that can be written to"
    with pytest.raises(HistoxaiError, match=f"cannot be written: {os.strerror(number)}; .*{words}"):
        fill_item(store, ITEM, rows, Silent())
    monkeypatch.undo()
    assert not list((tmp_path / "s").rglob("*.tmp"))
    assert fill_item(store, ITEM, rows, Silent()) == 3


def test_verify_redoes_what_has_the_right_size_and_the_wrong_bytes(tmp_path: Path) -> None:
    store = make(tmp_path / "s")
    fill_item(store, ITEM, rows, Silent())
    path = tmp_path / "s" / SPEC.file(1)
    good = path.read_bytes()
    path.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    assert store.missing(ITEM) == []
    assert store.missing(ITEM, verify=True) == [1]
    assert store.completeness(verify=True)["ig"]["failed"] == [1]
    assert run_shards(task(tmp_path / "s"), Silent(), Work())["done"] == {"ig": 0}
    assert run_shards(task(tmp_path / "s"), Silent(), Work(verify=True)) == {"shards": "1", "done": {"ig": 1}}
    assert path.read_bytes() == good


def test_an_items_facts_that_are_torn_are_made_again(tmp_path: Path) -> None:
    fill_item(make(tmp_path / "s"), ITEM, rows, Silent())
    for bad in ("", "[]", "{}", '{"fingerprint": 3}'):
        (tmp_path / "s/_done/ig/item.json").write_text(bad)
        assert Store(tmp_path / "s").completeness()["ig"]["missing"] == [0]
        assert run_shards(task(tmp_path / "s"), Silent(), Work())["done"] == {"ig": 0}
        assert Store(tmp_path / "s").completeness()["ig"]["missing"] == []


def test_records_say_who_did_what(tmp_path: Path) -> None:
    store = make(tmp_path / "s")

    def holds(start: int, stop: int) -> dict[str, np.ndarray]:
        np.ones(50_000_000, np.uint8)
        return rows(start, stop)

    fill_item(store, ITEM, holds, Silent())
    state = store.completeness()["ig"]
    assert state["hosts"] == {platform.node(): 3}
    assert [r["shard"] for r in state["records"]] == [0, 1, 2]
    assert all(r["seconds"] >= 0 and 30 < r["peak_memory_mb"] < 10_000 for r in state["records"])
    assert state["seconds"] == pytest.approx(sum(r["seconds"] for r in state["records"]), abs=0.01)


def test_an_array_block_has_room_for_its_slowest_task() -> None:
    block = array_block("histoxai explain p --model c -o m", 100, 10.0, 3000, 4, False)
    assert "#SBATCH --array=0-4\n" in block  # two hours a task
    assert "#SBATCH --time=03:05:00\n" in block  # 20 of 100 shards: 2 h, half as much again, and start-up
    assert "#SBATCH --mem=6G\n" in block
    assert "gpu" not in block
    assert block.endswith("exec histoxai explain p --model c -o m --shard auto\n")
    assert "--array=0-0\n" in array_block("c", 1, 30.0, 1, 1, True)
    assert "--array=0-999\n" in array_block("c", 5000, 10_000.0, 1, 1, False)
    assert "--gres=gpu:1" in array_block("c", 1, 1.0, 1, 1, True)
