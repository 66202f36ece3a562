"""The shard writer, records, fingerprints and resume rules."""

from __future__ import annotations

import multiprocessing as mp
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from histoxai.core import provenance
from histoxai.core.errors import Damaged, HistoxaiError, Incomplete, InputRefused, SettingsDiffer, UsageError
from histoxai.core.progress import Silent
from histoxai.store.create import add_item, create_or_match
from histoxai.store.jobs.runner import parse_shards
from histoxai.store.patches import Patches
from histoxai.store.records import is_done, record_path, with_checksum
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store, open_store
from histoxai.store.state import format_ranges, with_force, with_output
from histoxai.store.storage.files import read_json, remove_temporary_folder, write_atomically, write_json
from tests.conftest import fill_item, without_seal

SPECS = [
    ArraySpec("images", (10, 40, 30, 3), np.uint8, 4),
    ArraySpec("probability", (10, 2, 40, 30), np.float32, 4),
    ArraySpec("short", (10,), np.int16, 4, -1),
    ArraySpec("weights", (10, 500), np.float32, 4, float("nan")),
    ArraySpec("checks", (10, 3), np.float32, 4, float("nan"), ("a", "b", "c")),
]


def rows(spec: ArraySpec, n: int = 10) -> np.ndarray:
    values = np.random.default_rng(0).integers(1, 200, (n, *spec.shape[1:]))
    return values.astype(spec.dtype)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.path)
def test_a_shard_has_the_bytes_that_zarr_would_write(tmp_path: Path, spec: ArraySpec) -> None:
    """Ordinary rows, rows that are all fill, signed zeros, and shards that are shorter than the others."""
    data = rows(spec)
    data[1], data[8:] = spec.fill, spec.fill
    if data.dtype.kind == "f":
        data[2], data[9] = 0, -0.0
    zarr.open_group(tmp_path / "z", mode="w")
    spec.create(tmp_path / "z")[...] = data
    for k in range(3):
        path = tmp_path / "z" / spec.file(k)
        assert spec.encode(data[4 * k : 4 * k + 4]) == (path.read_bytes() if path.exists() else None)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.path)
def test_every_codec_chain_ends_with_crc32c(tmp_path: Path, spec: ArraySpec) -> None:
    for made in (spec, ArraySpec("small", (5,), np.int16), ArraySpec("text", (5,), str)):
        array = made.create(tmp_path / "z")
        chain = array.metadata.to_dict()["codecs"]
        inner = chain[-1]["configuration"]["codecs"] if chain[-1]["name"] == "sharding_indexed" else chain
        assert inner[-1]["name"] == "crc32c"
        (tmp_path / "z" / made.path / "zarr.json").unlink()


def item(n: int = 10, **what: object) -> Item:
    return Item("images", (ArraySpec("images", (n, 40, 30, 3), np.uint8, 4),), dict(what))


def make(path: Path, *items: Item, seed: int = 0, force: bool = False, **settings: object) -> Store:
    header = provenance.header("patches/2", settings, seed, {"source": {"path": "x", "digest": "d"}})
    index = {"label": np.arange(10, dtype=np.int16), "patch_id": np.array([f"é/{i}" for i in range(10)])}
    return create_or_match(path, header, index, items, attrs={"classes": ["a"], "mpp": None}, force=force)


def compute(start: int, stop: int) -> dict[str, np.ndarray]:
    return {"images": rows(SPECS[0])[start:stop]}


def test_fill_resume_and_digest(tmp_path: Path) -> None:
    store = make(tmp_path / "s", item())
    assert store.missing(item()) == [0, 1, 2]
    with pytest.raises(Incomplete, match=r"'images' lacks shards 0-2; run `histoxai.*`$"):
        store.require_complete()
    assert fill_item(store, item(), compute, Silent()) == 3
    assert fill_item(store, item(), compute, Silent()) == 0
    store.require_complete()
    assert np.array_equal(store.read("images"), rows(SPECS[0]))
    assert store.read("patch_id").tolist()[:2] == ["é/0", "é/1"]
    other = make(tmp_path / "t", item())
    fill_item(other, item(), compute, Silent())
    assert store.digest() == other.digest()
    assert store.digest(["index"]) != store.digest()


def test_shards_in_any_order_give_the_same_files(tmp_path: Path) -> None:
    one, two = make(tmp_path / "s", item()), make(tmp_path / "t", item())
    fill_item(one, item(), compute, Silent())
    for k in (2, 0, 1):
        two.write(item(), k, compute(*item().span(k)), 0.0)
    for k in range(3):
        path = SPECS[0].file(k)
        assert (one.path / path).read_bytes() == (two.path / path).read_bytes()
    assert one.digest() == two.digest()


def test_a_torn_or_lost_shard_is_missing_and_remade(tmp_path: Path) -> None:
    store = make(tmp_path / "s", item())
    fill_item(store, item(), compute, Silent())
    torn, lost = store.path / SPECS[0].file(0), store.path / SPECS[0].file(1)
    torn.write_bytes(torn.read_bytes()[:-7])
    lost.unlink()
    record_path(store.path, "images", 2).write_text("{ torn")
    assert store.missing(item()) == [0, 1, 2]
    fill_item(store, item(), compute, Silent())
    assert np.array_equal(store.read("images"), rows(SPECS[0]))


def test_an_all_fill_shard_is_done_without_a_file(tmp_path: Path) -> None:
    store = make(tmp_path / "s", item())
    fill_item(store, item(), lambda a, b: {"images": np.zeros((b - a, 40, 30, 3), np.uint8)}, Silent())
    assert store.missing(item()) == []
    record = read_json(record_path(store.path, "images", 0))
    assert record["files"] == [{"path": SPECS[0].file(0), "size": None, "all_fill": True}]
    (store.path / SPECS[0].file(0)).parent.mkdir(parents=True, exist_ok=True)
    (store.path / SPECS[0].file(0)).write_bytes(b"something")
    assert not is_done(store.path, record)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path / "s", item(), size=4)
    make(tmp_path / "s", item(), size=4)
    with pytest.raises(SettingsDiffer, match="exists with size = 4, asked for 5"):
        make(tmp_path / "s", item(), size=5)
    with pytest.raises(SettingsDiffer, match="seed = 0, asked for 1"):
        make(tmp_path / "s", item(), seed=1, size=4)
    with pytest.raises(SettingsDiffer, match="steps = None, asked for 3"):
        make(tmp_path / "s", item(steps=3), size=4)
    assert make(tmp_path / "s", item(), size=5, force=True).header["settings"] == {"size": 5}


def test_an_item_can_be_added_later(tmp_path: Path) -> None:
    store = make(tmp_path / "s", item())
    spec = ArraySpec("attributions/new/weights", (10, 500), np.float32, 4)
    added = Item("new", (spec,), {"method": "x"})
    add_item(store, added)
    add_item(Store(store.path), added)
    store.write(added, 0, {spec.path: rows(spec, 4)}, 0.0)
    assert np.array_equal(Store(store.path).read(spec.path, 0, 4), rows(spec, 4))
    assert not list(store.path.rglob("*.tmp"))


def _create(path: Path) -> None:
    store = make(path, item())
    fill_item(store, item(), compute, Silent())


def test_eight_makers_at_once(tmp_path: Path) -> None:
    context = mp.get_context("fork")
    tasks = [context.Process(target=_create, args=(tmp_path / "s",)) for _ in range(8)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join(60)
    assert [t.exitcode for t in tasks] == [0] * 8
    assert np.array_equal(Store(tmp_path / "s").read("images"), rows(SPECS[0]))
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_what_is_no_store_of_the_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no such store"):
        open_store(tmp_path / "none", "patches", "ingest")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputRefused, match=r"has no zarr\.json"):
        open_store(tmp_path / "folder", "patches", "ingest")
    zarr.open_group(tmp_path / "other", mode="w")
    with pytest.raises(InputRefused, match="not made by histoxai"):
        open_store(tmp_path / "other", "patches", "ingest")
    make(tmp_path / "s", item())
    with pytest.raises(InputRefused, match="expected a maps store, as `histoxai explain`"):
        open_store(tmp_path / "s", "maps", "explain")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    with pytest.raises(InputRefused, match=r"has no zarr\.json"):
        make(tmp_path / "precious", item(), force=True)
    assert (tmp_path / "precious" / "file").exists()


def test_a_flipped_byte_is_an_error(tmp_path: Path) -> None:
    store = make(tmp_path / "s", item())
    fill_item(store, item(), compute, Silent())
    path = store.path / SPECS[0].file(0)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(HistoxaiError, match="damaged"):
        store.read("images", 0, 4)


def test_atomic_write_leaves_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "f", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HistoxaiError, match="No space left"):
        write_atomically(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("text", "want"), [(None, None), ("5", [5]), ("0-3", [0, 1, 2, 3]), ("3,9", [3, 9]), ("1,0-2", [0, 1, 2])]
)
def test_shard_numbers(text: str | None, want: list[int] | None) -> None:
    assert parse_shards(text, 10) == want


@pytest.mark.parametrize("text", ["10", "3-1", "x", "", "1,,2", "-1"])
def test_bad_shard_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse_shards(text, 10)


def test_array_tasks_share_all_shards() -> None:
    env = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
    shares = [parse_shards("auto", 8, environ={**env, "SLURM_ARRAY_TASK_ID": str(i)}) for i in (1, 3, 5)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    with pytest.raises(UsageError, match="SLURM_ARRAY_TASK_ID"):
        parse_shards("auto", 8, environ={})
    gaps = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "19", "SLURM_ARRAY_TASK_COUNT": "4"}
    with pytest.raises(UsageError, match="this array has gaps"):
        parse_shards("auto", 24, environ={**gaps, "SLURM_ARRAY_TASK_ID": "17"})
    for name, value in (("STEP", "0"), ("MIN", ""), ("COUNT", "0"), ("ID", "0"), ("ID", "x")):
        with pytest.raises(UsageError, match="make no sense together"):
            parse_shards("auto", 8, environ={**env, "SLURM_ARRAY_TASK_ID": "1", f"SLURM_ARRAY_TASK_{name}": value})


def _adds(path: str, steps: int, barrier: object, answers: mp.Queue) -> None:
    from histoxai.store.create import add_item

    barrier.wait()  # type: ignore[attr-defined]
    spec = ArraySpec("attributions/ig300", (10, steps, 3), np.float32, 4)
    try:
        add_item(Store(Path(path)), Item("ig300", (spec,), {"steps": steps}))
        answers.put(steps)
    except SettingsDiffer:
        answers.put(None)


def test_one_of_several_settings_wins_a_new_name(tmp_path: Path) -> None:
    make(tmp_path / "s", item())
    answers: mp.Queue = mp.Queue()
    for trial in range(8):
        barrier = mp.Barrier(4)
        crew = [mp.Process(target=_adds, args=(str(tmp_path / "s"), 5 + k, barrier, answers)) for k in range(4)]
        for process in crew:
            process.start()
        winners = [a for a in (answers.get(timeout=60) for _ in crew) if a is not None]
        for process in crew:
            process.join()
        assert len(winners) == 1, trial
        assert Store(tmp_path / "s").array("attributions/ig300").shape == (10, winners[0], 3)
        shutil.rmtree(tmp_path / "s" / "_done" / "ig300")
        shutil.rmtree(tmp_path / "s" / "attributions")


def test_a_lost_index_record_is_written_again(tmp_path: Path) -> None:
    store = make(tmp_path / "s", item())
    fill_item(store, item(), compute, Silent())
    before = store.digest()
    shutil.rmtree(tmp_path / "s/_done/index")
    assert Store(tmp_path / "s").completeness()["index"]["missing"] == [0]
    make(tmp_path / "s", item())
    assert Store(tmp_path / "s").digest() == before


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [Path.unlink, _cut, _flip], ids=["gone", "cut", "flipped"])
@pytest.mark.parametrize("path", ["label/c/0", "patch_id/c/0"])
def test_lost_ids_and_labels_are_written_again(tmp_path: Path, path: str, harm: Callable[[Path], None]) -> None:
    store = make(tmp_path / "s", item())
    fill_item(store, item(), compute, Silent())
    before, kept = store.digest(), (tmp_path / "s" / path).read_bytes()
    harm(tmp_path / "s" / path)
    with pytest.raises((Incomplete, Damaged)):
        Store(tmp_path / "s").require_complete()
    assert make(tmp_path / "s", item()).missing(item()) == []
    assert (tmp_path / "s" / path).read_bytes() == kept
    assert Store(tmp_path / "s").digest() == before
    Store(tmp_path / "s").require_complete()


def test_labels_that_somebody_changed_are_not_changed_back(tmp_path: Path) -> None:
    make(tmp_path / "s", item())
    zarr.open_group(tmp_path / "s", mode="r+")["label"][3] = 0  # type: ignore[index]
    edited = (tmp_path / "s/label/c/0").read_bytes()
    with pytest.raises(Damaged, match=r"label is not what this command makes; `histoxai.* --force`"):
        make(tmp_path / "s", item())
    (tmp_path / "s/patch_id/c/0").unlink()  # nor is anything mended beside them
    with pytest.raises(Damaged, match="label is not what this command makes"):
        make(tmp_path / "s", item())
    assert (tmp_path / "s/label/c/0").read_bytes() == edited
    assert not (tmp_path / "s/patch_id/c/0").exists()


def test_lost_ids_of_a_changed_source_are_not_made_up(tmp_path: Path) -> None:
    make(tmp_path / "s", item())
    (tmp_path / "s/label/c/0").unlink()
    header = provenance.header("patches/2", {}, 0, {"source": {"path": "x", "digest": "d"}})
    index = {"label": np.zeros(10, np.int16) + 1, "patch_id": np.array([f"é/{i}" for i in range(10)])}
    with pytest.raises(Damaged, match="label/c/0 is not what this command makes"):
        create_or_match(tmp_path / "s", header, index, [item()], attrs={"classes": ["a"], "mpp": None})
    assert not (tmp_path / "s/label/c/0").exists()


def test_records_of_another_item_stand_for_nothing(tmp_path: Path) -> None:
    names = ("one", "two")
    items = [Item(n, (ArraySpec(n, (10, 40, 30, 3), np.uint8, 4),), {}) for n in names]
    store = make(tmp_path / "s", *items)
    for k, it in enumerate(items):
        fill_item(store, it, lambda a, b, k=k, n=it.name: {n: rows(SPECS[0])[a:b] + np.uint8(k)}, Silent())
    done, before = tmp_path / "s/_done", store.digest()
    (done / "one").rename(done / "t")
    (done / "two").rename(done / "one")
    (done / "t").rename(done / "two")
    assert [Store(tmp_path / "s").missing(it) for it in items] == [[0, 1, 2]] * 2
    again = make(tmp_path / "s", *items)
    shutil.copy(done / "one/1.json", done / "one/0.json")  # nor do those of another shard
    assert again.missing(items[0]) == [0, 1, 2]
    for k, it in enumerate(items):
        fill_item(again, it, lambda a, b, k=k, n=it.name: {n: rows(SPECS[0])[a:b] + np.uint8(k)}, Silent())
    assert Store(tmp_path / "s").digest() == before
    assert not [p for p in (tmp_path / "s").rglob(".*") if p.is_file()]


def test_a_store_from_elsewhere_whose_names_have_line_breaks_is_refused(tmp_path: Path) -> None:
    for k, (classes, ids) in enumerate(((["a\nb"], ["p"]), (["a"], ["p\nq"]))):
        header = provenance.header("patches/2", {}, 0, {})
        index = {"label": np.zeros(1, np.int16), "patch_id": np.array(ids), "group": np.array(["g"])}
        index |= {"split": np.zeros(1, np.uint8)}
        attrs = {"classes": classes, "mpp": None}
        store = create_or_match(tmp_path / f"{k}", header, index, [item(1)], attrs=attrs)
        fill_item(store, item(1), compute, Silent())
        with pytest.raises(InputRefused, match=r": (class 'a\\nb'|patch 'p\\nq'): a line break in a name"):
            Patches(tmp_path / f"{k}")


@pytest.mark.parametrize("value", ["3.11", None, [1], 10**400, -(10**30)])
@pytest.mark.parametrize("key", ["seconds", "peak_memory_mb"])
def test_a_record_whose_numbers_are_none_stands_for_nothing(tmp_path: Path, key: str, value: object) -> None:
    store = make(tmp_path / "s", item())
    fill_item(store, item(), compute, Silent())
    path = tmp_path / "s/_done/images/1.json"
    write_json(path, with_checksum({**without_seal(path), key: value}))
    assert Store(tmp_path / "s").completeness()["images"]["missing"] == [1]
    assert fill_item(store, item(), compute, Silent()) == 1


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("histoxai ingest src -o old --mpp 0.5", "histoxai ingest src -o 'a b' --mpp 0.5"),
        ("histoxai ingest src --output=old", "histoxai ingest src '--output=a b'"),
        ("histoxai ingest src -oold --force", "histoxai ingest src '-oa b'"),
        ("histoxai ingest 'it''s; rm x' -o old", "histoxai ingest 'its; rm x' -o 'a b'"),
        ("rm -rf /", "histoxai info 'a b'"),
        ("histoxai ingest 'unbalanced", "histoxai info 'a b'"),
        ("", "histoxai info 'a b'"),
    ],
)
def test_a_command_on_record_is_shown_for_this_store_and_only_if_it_is_ours(command: str, shown: str) -> None:
    assert with_output(command, Path("a b")) == shown
    assert with_force(shown) == (shown if "info" in shown else f"{shown} --force")


def test_a_store_that_is_removed_at_work_does_not_come_back(tmp_path: Path) -> None:
    store = make(tmp_path / "s", item())
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(HistoxaiError, match="was removed or started over while this task was at work"):
        fill_item(store, item(), compute, Silent())
    assert not (tmp_path / "s").exists()
    store = make(tmp_path / "s", item())
    make(tmp_path / "s", item(), force=True, size=9)
    with pytest.raises(HistoxaiError, match="started over"):
        fill_item(store, item(), compute, Silent())
    (tmp_path / "s/zarr.json").unlink()  # a torso can be replaced
    assert make(tmp_path / "s", item(), force=True).missing(item()) == [0, 1, 2]


def test_ranges_and_seeds() -> None:
    assert format_ranges([3, 17, 18, 19]) == "3,17-19"
    assert format_ranges([]) == ""
    assert provenance.keyed_seed(0, "ig", "a#0") == provenance.keyed_seed(0, "ig", "a#0") < 2**32
    assert len({provenance.keyed_seed(s, m, p) for s in (0, 1) for m in "ab" for p in "cd"}) == 8


def test_a_folder_that_is_still_written_to_is_cleared_away_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".s@host@1-00000000.tmp"
    (folder / "c").mkdir(parents=True)
    remove, late = shutil.rmtree, ["one", "two"]

    def raced(path: Path, ignore_errors: bool) -> None:
        remove(path, ignore_errors)
        if late:  # a thread of zarr's writes once more
            write_atomically(folder / "c" / late.pop(), b"late")

    monkeypatch.setattr("histoxai.store.storage.files.shutil.rmtree", raced)
    remove_temporary_folder(folder)
    assert not late
    assert not list(tmp_path.iterdir())
