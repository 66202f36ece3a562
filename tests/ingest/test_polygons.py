"""Polygons: nested annotations, QuPath's classes with `*`, and cells with nuclei."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.slide import SlideFormat
from histoxai.ingest.polygons import Polygons
from histoxai.settings import Ingest
from tests.ingest.test_slide import ALL, feature, picture, rows, square, write_geojson, write_slide

AREA = (0, 0, 256, 256)


def labels(root: Path, *features: dict[str, Any], **settings: Any) -> dict[tuple[int, int], str]:
    """Class of each tile of 64 px of a slide of 256 x 256 px."""
    path = write_slide(root / "a.tiff", picture(256, 256), levels=1)
    drawn = write_geojson(root / "a.geojson", *features)
    index = (reader := SlideFormat(path, Ingest(annotations=drawn, **settings, **ALL))).index
    return {tile: index.classes[k] for tile, k in zip(rows(reader), index.label, strict=True)}


def cell(name: str, whole: list[tuple[float, float]], nucleus: list[tuple[float, float]] | None) -> dict[str, Any]:
    made = feature(name, whole)
    made["properties"]["objectType"] = "cell"
    return made | ({"nucleusGeometry": feature(name, nucleus)["geometry"]} if nucleus else {})


def test_the_innermost_annotation_labels_a_tile(tmp_path: Path) -> None:
    around = [feature("A gland", square(0, 0, 256)), feature("Tumor", square(0, 0, 128))]
    inner = [feature("Stroma", square(64, 64, 64))]
    want = {(x, y): "A gland" for x in range(0, 256, 64) for y in range(0, 256, 64)}
    want |= {(0, 0): "Tumor", (64, 0): "Tumor", (0, 64): "Tumor", (64, 64): "Stroma"}
    assert labels(tmp_path, *around, *inner) == want
    assert labels(tmp_path, *inner, *reversed(around)) == want  # in any order
    chosen = labels(tmp_path, *around, *inner, classes=("A gland",))
    assert chosen == {k: v for k, v in want.items() if v == "A gland"}


def test_regions_and_ignored_classes_label_nothing_unless_named(tmp_path: Path) -> None:
    drawn = [
        feature("Region*", square(0, 0, 256)),
        feature("Stroma", square(128, 0, 128, 256)),
        feature("Tumor", square(0, 0, 128, 256)),
        feature("Region*", square(0, 0, 64)),  # a region inside of tumor is tumor
        feature("Ignore*", square(64, 0, 64)),  # and what is to be ignored is nothing
    ]
    want = {(x, y): "Tumor" if x < 128 else "Stroma" for x in range(0, 256, 64) for y in range(0, 256, 64)}
    del want[64, 0]
    assert labels(tmp_path, *drawn) == want
    named = labels(tmp_path, *drawn, classes=("Tumor", "Ignore*"))
    assert named == {k: v for k, v in want.items() if v == "Tumor"} | {(64, 0): "Ignore*"}
    with pytest.raises(InputRefused, match=r"no polygon with a class \(1 of Region\*, which labels nothing unless"):
        labels(tmp_path, drawn[0])
    polygons = Polygons(tmp_path / "a.geojson", AREA, named=["Region*"])
    assert polygons.names == ["Region*"]


def test_targets_are_those_of_the_innermost_annotation(tmp_path: Path) -> None:
    drawn = [
        feature("Stroma", square(0, 0, 64)),
        feature("Tumor", square(16, 16, 32)),
        feature("Fold*", square(0, 0, 8)),
    ]
    polygons = Polygons(write_geojson(tmp_path / "a.geojson", *drawn), AREA)
    stroma, tumor = (polygons.plane([name], 0, 0, 64, 64) for name in ("Stroma", "Tumor"))
    assert (tumor.sum(), stroma.sum(), (tumor & stroma).sum()) == (32 * 32, 64 * 64 - 32 * 32 - 8 * 8, 0)
    assert polygons.shares(["Stroma"], np.array([0.0]), np.array([0.0]), 64)[0] == pytest.approx(1 - (1024 + 64) / 4096)
    assert polygons.notes == {
        "cut by annotations inside them: the innermost counts": 1,
        "of Fold*, which labels nothing unless it is named (--classes)": 1,
    }


def test_annotations_drawn_by_hand_lie_in_one_another(tmp_path: Path) -> None:
    halves = [feature("Gland", square(0, 0, 64, 128)), feature("Gland", square(64, 0, 64, 128))]
    tumor = feature("Tumor", square(40, -1, 48))  # in both halves together, and a little above them
    polygons = Polygons(write_geojson(tmp_path / "a.geojson", *halves, tumor), (-8, -8, 256, 256))
    shape = shapely.box(0, 0, 128, 128).difference(shapely.box(40, -1, 88, 47))
    got = polygons.shares(["Gland"], np.array([-8.0]), np.array([-8.0]), 128)[0]
    assert got == pytest.approx(shape.area / 128**2)
    crossing = [feature("Gland", square(0, 0, 64)), feature("Tumor", square(32, 0, 60))]  # neither lies in the other
    both = Polygons(write_geojson(tmp_path / "b.geojson", *crossing), AREA)
    assert both.shares(["Gland"], np.array([0.0]), np.array([0.0]), 64)[0] == 1.0
    assert both.shares(["Tumor"], np.array([32.0]), np.array([0.0]), 60)[0] == 1.0


def test_a_class_that_is_wholly_covered_has_no_tile(tmp_path: Path) -> None:
    drawn = [feature("Gland", square(0, 0, 128, 64)), feature("N", square(0, 0, 64)), feature("T", square(64, 0, 64))]
    assert labels(tmp_path, *drawn, classes=("Gland", "N", "T")) == {(0, 0): "N", (64, 0): "T"}


@pytest.mark.parametrize(("cells", "area"), [("nucleus", 6400), ("cell", 24336)])
def test_cells_count_by_their_nucleus_or_whole(tmp_path: Path, cells: str, area: int) -> None:
    path = write_slide(tmp_path / "a.tiff", picture(256, 256), levels=1)
    drawn = write_geojson(
        tmp_path / "a.geojson",
        feature("Stroma", square(0, 0, 256)),
        cell("Tumor", square(50, 50, 156), square(88, 88, 80)),
    )
    settings = Ingest(
        annotations=drawn, tumor=("Tumor",), non_tumor=("Stroma",), cells=cells, min_overlap=0.1, size=256, min_tissue=0
    )
    reader = SlideFormat(path, settings)
    targets = reader.read(0, 1)[1]
    assert targets is not None
    assert targets.sum(axis=(2, 3)).tolist() == [[area, 256**2]]  # a cell cuts nothing out of what was drawn
    assert reader.index.facts["annotations"]["cells"] == cells
    outline = {
        "nucleus": "their nucleus (--cells cell: by all of it)",
        "cell": "all of it (--cells nucleus: by their nucleus)",
    }
    assert f"annotations: 1 cells counted by {outline[cells]}" in reader.index.notes


def test_cells_without_a_nucleus_are_told(tmp_path: Path) -> None:
    polygons = Polygons(write_geojson(tmp_path / "a.geojson", cell("T", square(0, 0, 64), None)), AREA)
    assert polygons.notes == {"cells without a nucleus, counted whole": 1}
    assert polygons.plane(["T"], 0, 0, 64, 64).all()


def test_spaces_around_a_class_do_not_count(tmp_path: Path) -> None:
    drawn = [
        feature("Tumor ", square(0, 0, 64)),
        feature("Tumor", square(64, 0, 64)),
        feature("a, b", square(0, 64, 64)),
    ]
    assert labels(tmp_path, *drawn) == {(0, 0): "Tumor", (64, 0): "Tumor", (0, 64): "a, b"}
