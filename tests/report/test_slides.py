"""Maps and masks back on their slides: in the right place, the right way round, and in forms that QuPath opens."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label as components

from histoxai.core.progress import Silent
from histoxai.report import slides
from histoxai.report.export import slides as slide_export
from histoxai.report.export.qupath import MIN_REGION_PIXELS, Classification, PatchFrame, file_stems, region
from histoxai.report.export.slides import OverlaySource, overlay_files
from histoxai.report.lineage import Lineage, resolve_lineage
from histoxai.report.slides import find_slides, paste, patch_positions
from histoxai.score.scores_store import read
from tests.conftest import FAST, Mini, done, patch

shapely = pytest.importorskip("shapely", reason="shapely is not installed (`pip install .[slides]`)")
tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed (`pip install .[slides]`)")

MAP = Classification("map > 0.3", [0, 158, 115])


def area(features: list[dict]) -> float:
    return sum(shapely.from_geojson(json.dumps(f["geometry"])).area for f in features)


def test_regions_have_the_pixels_of_the_plane() -> None:
    rng = np.random.default_rng(0)
    plane = np.zeros((40, 60), bool)
    plane[5:25, 10:40] = True
    plane[10:14, 15:20] = False  # a hole
    plane[30:34, 50:54] = True  # just large enough
    specks = plane.copy()
    specks[1, 1], specks[36:39, 2:7] = True, True  # 1 and 15 pixels
    found = region("k", specks, PatchFrame(100.0, 200.0, 2.0), MAP)
    shape = shapely.from_geojson(json.dumps(found[0]["geometry"]))
    assert shape.is_valid
    assert shape.area == plane.sum() * 4
    assert shape.bounds == (120.0, 210.0, 208.0, 268.0)
    noise = rng.random((50, 50)) > 0.4
    numbers, n = components(noise)
    large = sum(int((numbers == k).sum()) for k in range(1, n + 1) if (numbers == k).sum() >= MIN_REGION_PIXELS)
    assert area(region("k", noise, PatchFrame(0, 0, 1), MAP)) == large
    assert region("k", np.zeros((9, 9), bool), PatchFrame(0, 0, 1), MAP) == []


def test_patches_are_put_where_they_lie() -> None:
    canvas = np.zeros((50, 80), np.float32)
    paste(canvas, np.arange(16, dtype=np.float32).reshape(4, 4), (40, 20, 8), 0.5)
    assert np.array_equal(canvas[10:14, 20:24], np.arange(16).reshape(4, 4))
    assert np.count_nonzero(canvas) == 15
    paste(canvas, np.full((4, 4), 9, np.float32), (156, -4, 8), 0.5)  # partly outside
    assert np.array_equal(canvas[0:2, 78:80], np.full((2, 2), 9))
    for place in ((-20, 8, 8), (8, -20, 8), (400, 8, 8), (8, 400, 8)):  # wholly
        paste(canvas, np.full((4, 4), 77, np.float32), place, 0.5)
    assert not (canvas == 77).any()


def test_file_names_of_slides_are_safe_and_unlike() -> None:
    assert file_stems(["a/b", "a-b", "../x", "A/B"]) == ["a-b", "a-b-2", "x", "A-B-3"]


@pytest.fixture(scope="module")
def tissue(mini: Mini, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large images of 3 x 2 tiles, ingested in tiles, rotated copies and all, up to the scores."""
    root = tmp_path_factory.mktemp("tissue")
    for k, name in enumerate(("N", "R1")):
        for scan in range(4):
            rng = np.random.default_rng([k, scan])
            tiles = [[patch(rng, 2 * k)[0] for _ in range(3)] for _ in range(2)]
            folder = root / "source" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.vstack([np.hstack(row) for row in tiles])).save(folder / f"s{scan}.png")
    done("ingest", root / "source", "-o", root / "p", "--mpp", 0.5, "--size", 64)
    done("augment", root / "p", "-o", root / "b")
    done("train-cls", root / "b", "-o", root / "cls", "--epochs", 1, "--batch-size", 4)
    done("masks", root / "b", "--model", mini.seg, "-o", root / "masks", "--split", "all")
    explain = ["explain", root / "b", "--model", root / "cls", "-o", root / "maps", *FAST[:2], "--split", "all"]
    done(*explain, "--method", "ig,gradcam,random")
    done("score", root / "maps", "--masks", root / "masks", "-o", root / "s")
    done("report", root / "s", "-o", root / "r", "--export", root / "paper")
    return root


@pytest.fixture(scope="module")
def lineage(tissue: Path) -> Lineage:
    return resolve_lineage(tissue / "s", {})


@pytest.mark.slow
def test_every_place_of_a_slide_is_there_once(lineage: Lineage, tissue: Path) -> None:
    found = find_slides(lineage, patch_positions(lineage))
    assert sum(len(s.rows) for s in found) == len({i.split("@")[0] for i in lineage.column("patch_id").tolist()})
    assert all((s.width, s.height) == (192, 128) for s in found)
    assert any(s.turns.any() for s in found) or len(found) == 8
    text = (tissue / "r/index.html").read_text()
    assert 'id="slides"' in text
    assert text.count("patches, masks, and maps of each method") == 4  # as many as a page shows
    assert "4 other slides" in text


@pytest.mark.slow
def test_overlay_file_has_the_maps_where_patches_lie(lineage: Lineage, tissue: Path) -> None:
    found = find_slides(lineage, patch_positions(lineage))
    for slide, stem in zip(found, file_stems([s.name for s in found]), strict=True):
        with tifffile.TiffFile(tissue / f"paper/slides/{stem}.ome.tif") as file:
            stack, about = file.series[0].asarray(), file.ome_metadata
        assert stack.shape == (5, 128, 192)
        for name in ("ig", "gradcam", "random", "tumor mask", "non-tumor mask"):
            assert f'Name="{name}"' in about
        assert 'PhysicalSizeX="0.5"' in about
        for k, row in enumerate(slide.rows.tolist()):
            x, y, turns = int(slide.x[k]), int(slide.y[k]), int(slide.turns[k])
            here = stack[:, y : y + 64, x : x + 64]
            for channel, name in enumerate(("ig", "gradcam", "random")):
                plane = np.rot90(lineage.rendered_maps(name, [row])[0], -turns)
                assert np.abs(here[channel] - 255 * plane).max() <= 0.51
            tumor, other = lineage.binary_masks([row])[0]
            assert np.array_equal(here[3] == 255, np.rot90(tumor, -turns))
            assert np.array_equal(here[4] == 255, np.rot90(other, -turns))


@pytest.mark.slow
def test_geojson_has_tiles_regions_and_measurements(lineage: Lineage, tissue: Path) -> None:
    found = find_slides(lineage, patch_positions(lineage))
    ids = lineage.column("patch_id").tolist()
    auroc = lineage.column("measures")[:, 0, 0, 0]  # of ig on the tumor mask
    seen: set[str] = set()
    for slide, stem in zip(found, file_stems([s.name for s in found]), strict=True):
        features = json.loads((tissue / f"paper/slides/{stem}.geojson").read_text())["features"]
        tiles = [f for f in features if f["properties"]["objectType"] == "tile"]
        assert [t["properties"]["name"] for t in tiles] == [ids[r] for r in slide.rows.tolist()]
        for tile, row in zip(tiles, slide.rows.tolist(), strict=True):
            measured = tile["properties"]["measurements"]
            if np.isfinite(auroc[row]):
                assert measured["auroc: ig, tumor"] == auroc[row]
            else:
                assert "auroc: ig, tumor" not in measured
            assert shapely.from_geojson(json.dumps(tile["geometry"])).area == 64 * 64
        masks = [f for f in features if f["properties"]["classification"]["name"] == "tumor mask"]
        want = 0
        for row in slide.rows.tolist():
            numbers, n = components(lineage.binary_masks([row])[0, 0])
            want += sum(c for k in range(1, n + 1) if (c := int((numbers == k).sum())) >= MIN_REGION_PIXELS)
        assert area(masks) == want
        kinds = {f["properties"]["classification"]["name"] for f in features}
        assert not any("random" in k for k in kinds)  # null models are not drawn
        keys = [f["id"] for f in features]
        assert len({uuid.UUID(k) for k in keys} | {uuid.UUID(k) for k in seen}) == len(keys) + len(seen)
        seen |= set(keys)


@pytest.mark.slow
def test_the_same_bytes_again_and_without_slides_where_asked(tissue: Path, lineage: Lineage) -> None:
    before = {f"slides/{p.name}": p.read_bytes() for p in (tissue / "paper/slides").iterdir()}
    assert len(before) == 16
    found, scores = find_slides(lineage, patch_positions(lineage)), read(tissue / "s", "corrected", rows=lineage.rows)
    assert dict(overlay_files(found, OverlaySource(lineage, scores, "auroc", "safe"), Silent())) == before
    done("report", tissue / "s", "-o", tissue / "r", "--export", tissue / "again", "--no-slides")
    assert not list((tissue / "again").rglob("*.ome.tif"))


@dataclass(frozen=True)
class Opened:
    """As much of an OpenSlide as says where it begins."""

    properties: dict[str, str]
    dimensions: tuple[int, int] = (1000, 900)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.slow
def test_places_are_counted_from_where_viewers_count(lineage: Lineage, tmp_path: Path) -> None:
    places = patch_positions(lineage)
    assert places is not None
    name = places.names[0]
    edges = {"x": "0", "y": "0", "width": "500", "height": "400"}
    with mock.patch.object(slides, "_slide_files", return_value={name: tmp_path / "a.mrxs"}):
        for corner, seen in (((0, 0), (500, 400)), ((-10, -20), (500, 400)), ((90, 0), None)):
            edges |= {"x": str(corner[0]), "y": str(corner[1])}
            opened = Opened({f"openslide.bounds-{k}": v for k, v in edges.items()})
            with mock.patch.object(slides, "open_slide", return_value=opened):
                found = next(s for s in find_slides(lineage, places) if s.name == name)
            mine = places.which == 0
            assert found.x.tolist() == (places.x[mine] - corner[0]).tolist()
            assert found.y.tolist() == (places.y[mine] - corner[1]).tolist()
            assert seen is None or (found.width, found.height) == seen
            assert found.file == tmp_path / "a.mrxs"
        # a smaller slide of that name is another one
        opened = Opened({}, dimensions=(100, 100))
        with mock.patch.object(slides, "open_slide", return_value=opened):
            found = next(s for s in find_slides(lineage, places) if s.name == name)
        assert (found.file, found.width, found.height) == (None, 192, 128)


def test_a_label_mask_beside_a_slide_is_not_the_slide(tmp_path: Path) -> None:
    for name in ("a.svs", "a.tif", "b.tiff", "c.tif", "c.tiff"):
        (tmp_path / name).touch()
    source = SimpleNamespace(
        path=tmp_path / "p.zarr", store=SimpleNamespace(header={"parents": {"source": {"path": "."}}})
    )
    found = slides._slide_files(source, {"a", "b", "c"})
    assert {k: v.name for k, v in found.items()} == {"a": "a.svs", "b": "b.tiff"}


@pytest.mark.slow
def test_a_geojson_that_grows_too_large_keeps_its_tiles(lineage: Lineage) -> None:
    places = patch_positions(lineage)
    slide, progress = find_slides(lineage, places)[0], Silent()
    scores = read(lineage.scores.path, "corrected")
    with mock.patch.object(slide_export, "MAX_GEOJSON_BYTES", 0):
        files = dict(overlay_files([slide], OverlaySource(lineage, scores, "auroc", "safe"), progress))
    features = json.loads(next(v for k, v in files.items() if k.endswith(".geojson")))["features"]
    assert [f["properties"]["objectType"] for f in features] == ["tile"] * len(slide.rows)
    assert f"masks and maps of {len(slide.rows)} patches are left out" in progress.warnings[0]
