"""Contact sheets and previews: which patches are on them, where, and what texts become."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from histoxai.ingest.quality import measure_quality
from histoxai.report import contact_sheet
from histoxai.report.contact_sheet import Band, Section, Strip, Tile, draw_sheet, in_two_lines, shorten
from histoxai.settings.train import parse_augmentation
from histoxai.store.patches import Patches
from tests.conftest import CLASSES, done, run, write_diagset

FONT = contact_sheet._font(12, False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of six scans and three classes."""
    root = tmp_path_factory.mktemp("sheets")
    write_diagset(root / "diagset")
    made = ["--classes", ",".join(CLASSES), "--contact-sheet", root / "sheets"]
    done("ingest", root / "diagset", "-o", root / "patches.zarr", *made)
    return root / "patches.zarr"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Sequence[Section]]]:
    """What is handed over for drawing."""
    calls: list[tuple[str, str, Sequence[Section]]] = []

    def spy(title: str, subtitle: str, sections: Sequence[Section]) -> bytes:
        calls.append((title, subtitle, sections))
        return draw_sheet(title, subtitle, sections)

    for module in ("report.split_preview", "stages.sheets"):
        monkeypatch.setattr(f"histoxai.{module}.draw_sheet", spy)
    return calls


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def strips(sections: Sequence[Section]) -> list[Strip]:
    return [strip for section in sections for band in section.bands for strip in band.strips]


def test_tiles_stand_where_they_should_in_their_colours() -> None:
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    tiles = [Tile.of(np.full((64, 64, 3), c, np.uint8), "note", augmented=c[2] == 200) for c in colours]
    page = picture(draw_sheet("title", "", [Section("", [Band("", "", [Strip("id", tiles)])])]))
    side = 144
    for colour, tile in zip(colours, tiles, strict=True):
        assert tile.picture.size == (side, side)
        found = np.argwhere((page == colour).all(axis=2))
        # the frame hides a pixel on each side, of what training made two
        edge = 2 if tile.augmented else 1
        assert len(found) == (side - 2 * edge) ** 2
        assert np.ptp(found, axis=0).tolist() == [side - 2 * edge - 1] * 2
    left = [np.argwhere((page == c).all(axis=2))[:, 1].min() for c in colours]
    assert left == sorted(left)


def test_oblong_patches_keep_their_shape_and_lines_their_order() -> None:
    wide = Tile.of(np.zeros((50, 100, 3), np.uint8))
    assert wide.picture.size == (144, 72)
    many = [Strip(str(k), [wide]) for k in range(20)]
    assert [
        [int(s.name) for s in line]
        for line in contact_sheet._strips_by_line(many, contact_sheet._Canvas(0, 8 * 150 - 6).strips_width)
    ] == [
        list(range(8)),
        list(range(8, 16)),
        list(range(16, 20)),
    ]


def test_long_names_lose_their_middle_and_nothing_crashes() -> None:
    name = "TCGA-G9-6329-01Z-00-DX1/" + "x" * 60 + "/tile_128_256#7@270"
    short = shorten(name, 200, FONT)
    assert FONT.getlength(short) <= 200
    head, tail = short.split("…")
    assert name.startswith(head)
    assert name.endswith(tail)
    assert shorten("scan/p#1", 200, FONT) == "scan/p#1"
    assert in_two_lines("scan/p#1", 144, FONT) == ["scan/p#1"]
    first, second = in_two_lines(name, 144, FONT)
    assert name.startswith(first)
    assert name.endswith(second.removeprefix("…"))
    assert "".join(in_two_lines("scan-a/b/c/d/e/f/tile#7", 100, FONT)) == "scan-a/b/c/d/e/f/tile#7"
    for odd in ("病理/スライド#0", "лимфома", "a\nb\x00", "\udcff\udcfe", "🔬" * 80, ""):
        tile = Tile.of(np.zeros((8, 8, 3), np.uint8), odd)
        assert draw_sheet(odd, odd, [Section(odd, [Band(odd, odd, [Strip(odd, [tile])])])]).startswith(b"\x89PNG")
    assert shorten("a\nb", 200, FONT) == "a\ufffdb"


def test_ingest_draws_a_sheet_of_each_class_for_new_and_for_old_stores(
    store: Path, tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histoxai.stages.sheets.MOST", 5)
    source = store.parent / "diagset"
    line = ["ingest", source, "-o", store, "--classes", ",".join(CLASSES), "--json"]
    summary = json.loads(done(*line, "--contact-sheet", tmp_path / "sheets"))
    assert summary["contact_sheets"] == [str(tmp_path / "sheets" / f"{c}.png") for c in CLASSES]
    patches = Patches(store)
    # the command on record gives the store again, with or without shards; pictures are no part of it
    assert "--contact-sheet" not in patches.store.header["run"]["command"]
    for label, (title, subtitle, sections) in enumerate(drawn):
        assert title == f"{CLASSES[label]} in patches.zarr"
        assert subtitle == f"5 of {24 + 6 * label} patches, 64 x 64 px at 0.5 µm/px"
        rows = patches.rows("all", 5)
        expected = patches.patch_id[rows[patches.label[rows] == label]].tolist()
        assert [strip.name for strip in strips(sections)] == expected
        assert (tmp_path / "sheets" / f"{CLASSES[label]}.png").read_bytes() == draw_sheet(title, subtitle, sections)


def test_quality_numbers_stand_under_their_patch(store: Path, tmp_path: Path, drawn: list[Any]) -> None:
    from histoxai.core.progress import Silent
    from histoxai.stages.sheets import contact_sheets

    done("ingest", store.parent / "diagset", "-o", tmp_path / "q.zarr", "--classes", "A")
    contact_sheets(tmp_path / "q.zarr", tmp_path / "sheets", Silent())
    patches = Patches(tmp_path / "q.zarr")
    row = int(patches.rows("all", 48)[3])
    blur, pen, background, _ = measure_quality(patches.read([row])[0]).tolist()
    wanted = f"blur {blur:.2f}  pen {pen:.2f}\nbackground {background:.2f}"
    assert strips(drawn[0][2])[3].tiles[0].note == wanted


def test_names_of_sheets_are_safe_and_of_one_class_each() -> None:
    from histoxai.stages.sheets import _file_names

    classes = ["A", "a", "x/y", "Gleason 3+4", "病理", "..", "*", "z" * 250]
    assert _file_names(classes) == ["A", "a-2", "x_y", "Gleason_3_4", "病理", "_", "_-2", "z" * 60]


def test_preview_shows_copies_as_they_are_stored_and_what_training_makes_of_them(
    store: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    from histoxai.train.augmentation import Augmenter

    done("augment", store, "-o", tmp_path / "b.zarr")
    done("augment", tmp_path / "b.zarr", "--preview", tmp_path / "stored.png", "--with", "light")
    done("augment", store, "--preview", tmp_path / "planned.png", "--with", "light")
    assert drawn[0][1] == "split by group; copies as stored; blue: what training makes of them, epoch by epoch"
    stored, planned = ([(s.name, len(s.tiles)) for s in strips(call[2])] for call in drawn)
    assert stored == planned
    patches = Patches(tmp_path / "b.zarr")
    place = {name: row for row, name in enumerate(patches.patch_id.tolist())}
    light = parse_augmentation("light")
    assert light is not None
    for section in drawn[0][2]:
        split = section.heading.split(":")[0]
        assert [band.label for band in section.bands] == list(CLASSES)
        for strip in strips([section]):
            kept = [tile for tile in strip.tiles if not tile.augmented]
            for tile in kept:
                turn = tile.note.removesuffix("°")
                row = place[strip.name + (f"@{turn}" if turn != "0" else "")]
                assert patches.split[row] == ["train", "validation", "test"].index(split) + 1
                assert np.array_equal(tile.picture, Tile.of(patches.images[row]).picture)
            made = [tile.note for tile in strip.tiles if tile.augmented]
            assert made == ([f"epoch {k}" for k in (1, 2, 3, 4)] if split == "train" else [])
    first = strips(drawn[0][2])[0]
    row = place[first.name + {"0°": "", "90°": "@90", "180°": "@180", "270°": "@270"}[first.tiles[0].note]]
    import torch

    batch = torch.from_numpy(patches.images[row]).permute(2, 0, 1)[None].float() / 255
    third, _ = Augmenter(light, 0)(batch, torch.zeros(1), 2, [patches.patch_id[row]])
    expected = (third[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(first.tiles[-2].picture, Tile.of(expected).picture)


def test_preview_beside_writing_and_the_same_every_time(store: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        text = done("augment", store, "-o", tmp_path / "b.zarr", "--preview", tmp_path / f"{name}.png", "--json")
        assert json.loads(text)["output"] == str(tmp_path / "b.zarr")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    done("augment", store, "--preview", tmp_path / "three.png", "--dry-run")
    assert not (tmp_path / "three.png").exists()


def test_places_where_no_picture_goes(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    source = [store.parent / "diagset", "-o", store, "--classes", ",".join(CLASSES)]
    for line, code, words in (
        (["augment", store, "--preview", tmp_path / "x.jpg"], 2, "name it .png"),
        (["augment", store, "--preview", tmp_path / "folder.png"], 3, "is a folder"),
        (["augment", store, "--preview", store / "x.png"], 3, "lies in the store"),
        (["augment", store, "--plan", "--with", "light"], 2, "says what --preview shows"),
        (["augment", store, "--preview", tmp_path / "x.png", "--with", "mixup"], 2, "--with mixup"),
        (["augment", store], 2, "--plan or --preview"),
        (["ingest", *source, "--contact-sheet", tmp_path / "file"], 3, "is a file"),
        (["ingest", *source, "--contact-sheet", store / "sheets"], 3, "is or lies in"),
        (["ingest", *source, "--contact-sheet", source[0]], 3, "is or lies in"),
        (["ingest", *source, "--contact-sheet", tmp_path / "s", "--shard", "0"], 2, "a whole store"),
    ):
        outcome = run(*line)
        assert outcome.code == code, line
        assert words in " ".join(outcome.err.split())
    assert (tmp_path / "file").read_text() == "mine"
