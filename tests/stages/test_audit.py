"""The leakage firewall end to end: a planted set in which every relative is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from histoxai.split.leaks import families_of
from histoxai.store.patches import Patches
from histoxai.store.shards import Store
from tests.conftest import Mini, done, run

ROTATED, DUPLICATES, OVERLAPPING = 30, 20, 15
FIRST = "scan0/A/scan0.blob.0#0"
SCANS, SIZE = 20, 32


@dataclass(frozen=True)
class Planted:
    """A folder source, its metadata, and pairs of patch ids that are relatives, by kind."""

    root: Path
    metadata: Path
    pairs: dict[str, list[tuple[str, str]]]


def field(seed: int, size: int) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(size, size, 3)).astype(np.float32), (0, 0), 2)
    return ((noise - noise.min()) / (noise.max() - noise.min()) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """200 tiles of 20 scans, two classes; 65 more that are relatives of one of them, each in another scan."""
    folder = tmp_path_factory.mktemp("planted")
    root, count = folder / "source", iter(range(10_000))

    def save(image: np.ndarray, scan: int) -> str:
        label, name = "ab"[scan % 2], f"t{next(count):04}"
        place = root / label / f"s{scan:02}" / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
        return f"s{scan:02}/{label}/{name}#0"

    base = [(field(k, SIZE), k % SCANS) for k in range(200)]
    ids = [save(*b) for b in base]
    pairs: dict[str, list[tuple[str, str]]] = {"rotated": [], "duplicate": [], "overlap": []}
    for k in range(ROTATED):  # all seven turns and mirrors in turn; another scan, sometimes of the other class
        image, scan = base[k]
        turned = np.rot90(image[:, ::-1] if k % 7 >= 3 else image, (k % 7 + 1) if k % 7 < 3 else k % 7 - 3)
        pairs["rotated"].append((ids[k], save(np.ascontiguousarray(turned), (scan + 1 + k % 3) % SCANS)))
    for k in range(ROTATED, ROTATED + DUPLICATES):
        pairs["duplicate"].append((ids[k], save(base[k][0], (base[k][1] + 2) % SCANS)))
    rows = ["patch_id,frame,x,y,extent,centre"]
    for k in range(OVERLAPPING):
        whole, shift = field(1000 + k, 3 * SIZE), (5 + k, 31 - k)
        corners = [(0, 0), shift]
        tiles = [
            save(np.ascontiguousarray(whole[y : y + SIZE, x : x + SIZE]), (k + 3 * i) % SCANS)
            for i, (x, y) in enumerate(corners)
        ]
        rows += [f"{t},slide{k},{x},{y},{SIZE},north" for t, (x, y) in zip(tiles, corners, strict=True)]
        # a neighbour that shares an edge only
        rows.append(f"{save(field(2000 + k, SIZE), (k + 7) % SCANS)},slide{k},{2 * SIZE},0,{SIZE},north")
        pairs["overlap"].append((tiles[0], tiles[1]))
    metadata = folder / "tiles.csv"
    metadata.write_text("\n".join(rows) + "\n")
    return Planted(root, metadata, pairs)


@pytest.fixture(scope="module")
def store(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "p.zarr"
    done("ingest", planted.root, "-o", path, "--metadata", planted.metadata)
    return path


def test_all_relatives_are_found_and_none_that_are_not(planted: Planted, store: Path) -> None:
    summary = json.loads(done("audit", store, "--json"))
    found = {r["kind"]: r for r in summary["relatives"]}
    for kind, n in (("rotated", ROTATED), ("duplicate", DUPLICATES), ("overlap", OVERLAPPING)):
        assert (found[kind]["sets"], found[kind]["patches"]) == (n, 2 * n)
    assert not summary["leaking"]  # nothing is split yet
    patches = Patches(store)
    family, notes = families_of(patches)
    of = dict(zip(patches.patch_id.tolist(), family.tolist(), strict=True))
    assert all(of[a] == of[b] for pairs in planted.pairs.values() for a, b in pairs)
    # families are what linking scans through exactly these pairs gives
    scan = {p: p.split("/")[0] for p in of}
    groups = {s: s for s in scan.values()}
    for pairs in planted.pairs.values():
        for a, b in pairs:
            old, new = groups[scan[a]], groups[scan[b]]
            groups = {s: new if g == old else g for s, g in groups.items()}
    assert len(set(family.tolist())) == len(set(groups.values()))
    assert len(notes) == 3


def families_without_scans(planted: Planted, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    # scans would link nearly all of the planted set to one family: here every patch is its own group
    flat = tmp_path / "flat"
    for path in planted.root.rglob("*.png"):
        place = flat / path.parts[-3] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    text = planted.metadata.read_text().splitlines()
    short = [text[0], *(line.split("/", 1)[1] for line in text[1:])]
    metadata = tmp_path / "flat.csv"
    metadata.write_text("\n".join(short) + "\n")
    done("ingest", flat, "-o", tmp_path / "p.zarr", "--metadata", metadata)
    for name, options in (
        ("fractions", []),
        ("folds", ["--folds", 4, "--fold", 1]),
        ("near", ["--near", 2]),
    ):
        done("augment", tmp_path / "p.zarr", "-o", tmp_path / f"{name}.zarr", *options)
        yield name, tmp_path / f"{name}.zarr"


def test_the_firewall_keeps_each_family_together(planted: Planted, tmp_path: Path) -> None:
    for name, path in families_without_scans(planted, tmp_path):
        patches = Patches(path)
        sides: dict[str, set[int]] = {}
        for patch_id, split in zip(patches.patch_id.tolist(), patches.split.tolist(), strict=True):
            sides.setdefault(patch_id.split("@")[0], set()).add(split)
        short = {k: [(a.split("/", 1)[1], b.split("/", 1)[1]) for a, b in p] for k, p in planted.pairs.items()}
        for pairs in short.values():
            for a, b in pairs:  # balancing may have left one of them out
                assert len(sides.get(a, set()) | sides.get(b, set())) <= 1, (name, a, b)
        assert not json.loads(done("audit", path, "--json"))["leaking"]
        assert {1, 2, 3} == set(patches.split.tolist())


def test_the_studys_rule_is_counted_right(store: Path, tmp_path: Path) -> None:
    audit = json.loads(done("audit", store, "--json"))["study_rule"]
    done("augment", store, "-o", tmp_path / "b.zarr", "--split-by", "patch", "--fractions", "0.5,0.2,0.3")
    patches = Patches(tmp_path / "b.zarr")
    parent = patches.store.read("parent")
    train = set(parent[patches.split == 1].tolist())
    test = parent[patches.split == 3].tolist()
    assert audit["test"] == len(test)
    assert audit["copy"] == sum(p in train for p in test)
    assert audit["copy_share"] == pytest.approx(0.875, abs=0.06)
    ours = json.loads(done("audit", tmp_path / "b.zarr", "--json"))
    counted = {r["kind"]: r["patches"] for r in ours["leaks"] if (r["held_out"], r["seen_in"]) == ("test", "train")}
    assert counted["copy"] == audit["copy"]
    assert counted["any"] == audit["any"] >= audit["scan"] > 0
    assert counted["rotated"] < counted["copy"] / 2  # copies are none
    assert ours["study_rule"] == audit  # of the store behind it
    assert ours["leaking"]
    text = done("audit", tmp_path / "b.zarr")
    assert f"{counted['copy']} ({counted['copy'] / len(test):.1%})" in text


def test_a_leaking_store_is_refused_unless_one_says_so(mini: Mini, tmp_path: Path) -> None:
    done("augment", mini.patches, "-o", tmp_path / "b.zarr", "--split-by", "patch")
    refused = run("train-cls", tmp_path / "b.zarr", "-o", tmp_path / "cls", "--epochs", 1)
    assert refused.code == 3
    assert "its splits leak" in refused.err
    assert "--allow-leakage" in refused.err
    assert not (tmp_path / "cls").exists()
    common = ["-o", tmp_path / "cls", "--epochs", 1, "--batch-size", 8]
    done("train-cls", tmp_path / "b.zarr", *common, "--allow-leakage")
    facts = json.loads((tmp_path / "cls/run.json").read_text())
    assert any("rotated copies of one patch" in line for line in facts["leaks"])
    worth = json.loads(done("audit", tmp_path / "b.zarr", "--run", tmp_path / "cls", "--json"))["run"]
    patches, stored = Patches(tmp_path / "b.zarr"), Store(tmp_path / "cls/predictions.zarr")
    parent, rows = patches.store.read("parent"), stored.read("row")
    right = stored.read("prediction") == stored.read("label")
    leaked = np.isin(parent[rows], parent[patches.split == 1])
    (copy,) = [k for k in worth["kinds"] if k["kind"] == "copy"]
    assert 0 < leaked.sum() < len(rows)
    assert copy["leaked"]["patches"] == leaked.sum()
    assert copy["leaked"]["accuracy"] == pytest.approx(right[leaked].mean())
    assert "6 groups" in copy["leaked"]["withheld"]
    assert copy["clean"] is copy["difference"] is None  # all scans are on both sides
    other = run("audit", mini.balanced, "--run", tmp_path / "cls")
    assert other.code == 3
    assert "was trained on another store" in other.err
    assert "difference" in done("audit", tmp_path / "b.zarr", "--run", tmp_path / "cls")
    # and the report says it
    done("masks", tmp_path / "b.zarr", "--model", mini.seg, "-o", tmp_path / "masks")
    chosen = ["--method", "gradcam", "--per-class", 4]
    done("explain", tmp_path / "b.zarr", "--model", tmp_path / "cls", "-o", tmp_path / "maps", *chosen)
    done("score", tmp_path / "maps", "--masks", tmp_path / "masks", "-o", tmp_path / "scores")
    done("report", tmp_path / "scores", "-o", tmp_path / "report")
    assert "although its splits leak" in (tmp_path / "report/index.html").read_text()


def test_patients_and_sites_join_groups(mini: Mini, tmp_path: Path) -> None:
    rows = ["scan,patient,site"] + [f"scan{k},p{k // 2},{'north' if k < 4 else 'south'}" for k in range(6)]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    source = ["ingest", mini.diagset, "--classes", "A,N,R1", "--metadata", tmp_path / "m.csv"]
    summary = json.loads(done(*source, "-o", tmp_path / "p.zarr", "--json"))
    assert summary["patches"] == 90
    patches = Patches(tmp_path / "p.zarr")
    assert set(patches.group.tolist()) == {"p0", "p1", "p2"}
    assert set(patches.store.read("scan").tolist()) == {f"scan{k}" for k in range(6)}
    everywhere = run("augment", tmp_path / "p.zarr", "-o", tmp_path / "x.zarr", "--hold-out", "north,south")
    assert everywhere.code == 3
    assert "leaves no patch to train on" in everywhere.err
    done("augment", tmp_path / "p.zarr", "-o", tmp_path / "s.zarr", "--hold-out", "south")
    held = Patches(tmp_path / "s.zarr")
    site = held.store.read("site")
    assert set(site[held.split == 3].tolist()) == {"south"}
    assert set(site[held.split != 3].tolist()) == {"north"}
    group = held.group
    assert not set(group[held.split == 1]) & set(group[held.split == 2])
    wrong = run("augment", tmp_path / "p.zarr", "-o", tmp_path / "x.zarr", "--hold-out", "west")
    assert (wrong.code, "the sites of" in wrong.err) == (3, True)
    none = run("augment", mini.patches, "-o", tmp_path / "x.zarr", "--split-by", "site")
    assert none.code == 3
    assert "knows no site" in none.err
    assert "--metadata" in none.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scan,patient\nscan0,a\nscan0,b\n", "scan 'scan0' has two rows that differ"),
        ("name,patient\nscan0,a\n", "has no column of"),
        ("scan,age\nscan0,7\n", "says nothing that is used here"),
        ("scan,patient\nother,a\n", "none of its scan is in the source"),
        ("scan,label\nscan0,A\n", "has labels, and so has the source"),
        ("scan,x,y\nscan0,1,2\n", "has coordinates by scan"),
        (f"patch_id,x\n{FIRST},1\n", "has x but not x and y"),
        (f"patch_id,x,y\n{FIRST},1,one\n", "y 'one' is no number"),
        (f"patch_id,x,y\n{FIRST},1,2.5\n", "y '2.5' is no whole number"),
        (f"patch_id,x,y\n{FIRST},1,{10**23}\n", "is no place or size in a slide"),
        (f"patch_id,x,y,extent\n{FIRST},1,2,nan\n", "extent 'nan' is no place or size"),
        (f"patch_id,x,y,extent\n{FIRST},1,2,-4\n", "extent '-4' is no side"),
        ("scan,patient\nscan0\n", "row 2 has not as many cells"),
        ("scan,patient,patient\nscan0,a,b\n", "two columns of one name"),
        ("scan,patient\n,a\n", "row 2 has an empty scan"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(mini: Mini, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    refused = run("ingest", mini.diagset, "-o", tmp_path / "p.zarr", "--metadata", tmp_path / "m.csv")
    assert refused.code == 3
    assert said in refused.err
    assert not (tmp_path / "p.zarr").exists()


def test_quality_and_tissue(mini: Mini, tmp_path: Path) -> None:
    source = tmp_path / "source" / "a"
    source.mkdir(parents=True)
    for k in range(6):
        image = np.full((32, 32, 3), 250, np.uint8)
        image[: 6 * k] = field(k, 32)[: 6 * k] // 5 + np.array([190, 110, 150], np.uint8)
        Image.fromarray(image).save(source / f"{k}.png")
    done("ingest", source.parent, "-o", tmp_path / "all.zarr")
    background = Patches(tmp_path / "all.zarr").store.read("quality")[:, 2]
    assert background.tolist() == pytest.approx([1 - 6 * k / 32 for k in range(6)], abs=0.05)
    summary = json.loads(done("ingest", source.parent, "-o", tmp_path / "some.zarr", "--min-tissue", "0.5", "--json"))
    assert summary["patches"] == 3
    assert any("3 of 6 patches with less than 0.5 tissue" in n for n in summary["notes"])
    # again is nothing to do, and needs no second look
    assert (
        json.loads(done("ingest", source.parent, "-o", tmp_path / "some.zarr", "--min-tissue", "0.5", "--json"))[
            "patches"
        ]
        == 3
    )
    other = run("ingest", source.parent, "-o", tmp_path / "some.zarr", "--min-tissue", "0.2")
    assert other.code == 3
    assert "min_tissue = 0.5" in other.err


def test_bad_files_are_left_out_and_listed(tmp_path: Path) -> None:
    source = tmp_path / "source" / "a"
    source.mkdir(parents=True)
    for k in range(6):
        Image.fromarray(field(k, 32)).save(source / f"{k}.png")
    data = (source / "3.png").read_bytes()
    (source / "3.png").write_bytes(data[: len(data) // 2])
    refused = run("ingest", source.parent, "-o", tmp_path / "p.zarr")
    assert refused.code == 3
    assert "3.png" in refused.err
    outcome = run("ingest", source.parent, "-o", tmp_path / "p.zarr", "--skip-bad", "--json", "--shard-size", 2)
    assert outcome.code == 0
    summary = json.loads(outcome.out)
    assert summary["patches"] == 5
    assert "left out: a/3#0" in outcome.err
    assert [r["what"] for r in summary["left_out"]] == ["a/3#0"]
    store = Patches(tmp_path / "p.zarr")
    assert [row[0] for row in store.store.group.attrs["left_out"]] == ["a/3#0"]
    assert store.patch_id.tolist() == [f"a/{k}#0" for k in (0, 1, 2, 4, 5)]
    kept = [field(k, 32) for k in (0, 1, 2, 4, 5)]
    assert np.array_equal(store.read(np.arange(5)), np.stack(kept))
    # shards by two processes are the same
    done("ingest", source.parent, "-o", tmp_path / "q.zarr", "--skip-bad", "--shard-size", 2, "--workers", 2)
    assert Patches(tmp_path / "q.zarr").digest == store.digest


def leaking(path: Path) -> bool:
    return bool(json.loads(done("audit", path, "--json"))["leaking"])


@pytest.mark.parametrize(
    ("known", "options", "said"),
    [
        pytest.param("every second patch", [], None, id="patients of some patches"),
        pytest.param("scans 0 to 2", ["--split-by", "patient"], None, id="patients of some scans"),
        pytest.param("scans 0 to 2", ["--split-by", "site"], None, id="sites of some scans"),
        pytest.param("pairs", ["--split-by", "site"], None, id="patients at two sites"),
        pytest.param("pairs", ["--split-by", "scan"], "patients are on several sides", id="scans on request"),
    ],
)
def test_no_level_parts_a_scan_or_a_patient(
    mini: Mini, tmp_path: Path, known: str, options: list[str], said: str | None
) -> None:
    rows = ["patch_id,patient,site"]
    for k, patch_id in enumerate(Patches(mini.patches).patch_id.tolist()):
        scan = int(patch_id[4])
        if known == "pairs":
            rows.append(f"{patch_id},p{scan % 3},{'north' if scan < 3 else 'south'}")
        elif (known == "every second patch" and k % 2) or (known == "scans 0 to 2" and scan < 3):
            rows.append(f"{patch_id},scan{scan + 1},site{scan}")  # a patient that is called as another scan is
    (tmp_path / "m.csv").write_text("\n".join(rows))
    source = ["ingest", mini.diagset, "--classes", "A,N,R1", "--metadata", tmp_path / "m.csv"]
    done(*source, "-o", tmp_path / "p.zarr")
    outcome = run("augment", tmp_path / "p.zarr", "-o", tmp_path / "b.zarr", *options)
    assert outcome.code == 0
    assert leaking(tmp_path / "b.zarr") == (said is not None)
    assert said is None or said in outcome.err
    patches = Patches(tmp_path / "b.zarr")
    scan = patches.store.read("scan")
    assert all(len(set(patches.split[scan == s].tolist())) == 1 for s in set(scan.tolist()))


def test_patches_of_unknown_site_are_not_trained_on(mini: Mini, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("scan,site\nscan0,north\nscan1,north\nscan2,south\nscan3,south\n")
    done(*("ingest", mini.diagset, "--classes", "A,N,R1", "--metadata", tmp_path / "m.csv"), "-o", tmp_path / "p.zarr")
    outcome = run("augment", tmp_path / "p.zarr", "-o", tmp_path / "b.zarr", "--hold-out", "north")
    assert outcome.code == 0
    assert "30 patches are left out: nobody knows their site" in outcome.err
    assert set(Patches(tmp_path / "b.zarr").store.read("site").tolist()) == {"north", "south"}


def test_places_of_some_patches_are_places_of_those_alone(mini: Mini, tmp_path: Path) -> None:
    ids = [i for i in Patches(mini.patches).patch_id.tolist() if i.startswith("scan0/")]
    # as pandas writes whole numbers of a column with gaps; the key is patch_id, wherever it stands
    rows = ["slide,patch_id,x,y", f"a,{ids[0]},0.0,0.0", f"a,{ids[1]},32.0,0.0", f"a,{ids[2]},,"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    done(*("ingest", mini.diagset, "--classes", "A,N,R1", "--metadata", tmp_path / "m.csv"), "-o", tmp_path / "p.zarr")
    found = {r["kind"]: r for r in json.loads(done("audit", tmp_path / "p.zarr", "--json"))["relatives"]}
    assert found["overlap"]["patches"] == 2


def test_skipping_bad_files_is_a_setting_of_the_store(tmp_path: Path) -> None:
    source = tmp_path / "source" / "a"
    source.mkdir(parents=True)
    for k in range(10):
        Image.fromarray(field(k, 32)).save(source / f"{k}.png")
    data = (source / "7.png").read_bytes()
    (source / "7.png").write_bytes(data[: len(data) // 2])
    begin = ["ingest", source.parent, "-o", tmp_path / "p.zarr", "--shard-size", 2]
    assert run(*begin).code == 3  # shards 0 to 2 are done and stay
    differs = run(*begin, "--skip-bad")
    assert differs.code == 3
    assert "skip_bad = False, asked for True" in differs.err
    done(*begin, "--skip-bad", "--force")
    assert run(*begin).code == 3
    assert done(*begin, "--skip-bad", "--count-shards") == "0-4\n"
    done("ingest", source.parent, "-o", tmp_path / "q.zarr", "--shard-size", 2, "--skip-bad", "--shard", 1)
    done("ingest", source.parent, "-o", tmp_path / "q.zarr", "--shard-size", 2, "--skip-bad")
    p, q = Patches(tmp_path / "p.zarr"), Patches(tmp_path / "q.zarr")
    assert p.digest == q.digest
    assert np.array_equal(q.read(np.arange(9)), np.stack([field(k, 32) for k in range(10) if k != 7]))


def test_tiles_of_a_large_image_are_surveyed_with_one_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from histoxai.ingest.formats import folder

    (tmp_path / "source/a").mkdir(parents=True)
    Image.fromarray(field(0, 512) // 5 + np.array([190, 110, 150], np.uint8)).save(tmp_path / "source/a/large.png")
    decoded = []
    plain = folder.decode
    monkeypatch.setattr(folder, "decode", lambda path: decoded.append(path) or plain(path))
    summary = json.loads(
        done("ingest", tmp_path / "source", "-o", tmp_path / "p.zarr", "--size", 32, "--min-tissue", 0.1, "--json")
    )
    assert summary["patches"] == 256
    assert len(decoded) <= 2
