"""OME-Zarr images: one level of a pyramid, cut into tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.ingest.array_checks import as_uint8
from histoxai.ingest.chunk_checks import missing_chunks_note, require_plausible_size
from histoxai.ingest.file_listing import path_in_source, require_utf8_name
from histoxai.ingest.formats.base import PatchIndex, identifier, require_only_settings, require_unique_ids
from histoxai.ingest.tiles import Corner, corners
from histoxai.ingest.zarr_nodes import ZarrArray, ZarrNode, bytes_below, read_node
from histoxai.settings import Ingest
from histoxai.store.records import MAX_ROWS

_SIDE = 256  # of tiles in px, without --size
_MICROMETRES = {"micrometer": 1.0, "micrometre": 1.0, "nanometer": 1e-3, "nanometre": 1e-3, "millimeter": 1e3}
_TOLERANCE = 0.05  # by which the sides of a pixel, or the scales of two images, may differ
_DEFAULT_AXES = ("t", "c", "z", "y", "x")


class Level(NamedTuple):
    """One resolution: its array, axes, px of the first level per px of this one, micrometres per px or None."""

    array: ZarrArray
    axes: tuple[str, ...]
    factor: float
    mpp: float | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.array.shape[self.axes.index("y")], self.array.shape[self.axes.index("x")]


class OmeTiles:
    """Tiles of OME-Zarr images; x, y and extent are in px of the first level, frame and group are the image."""

    def __init__(self, root: Path, settings: Ingest, images: list[ZarrNode]) -> None:
        require_only_settings(root, settings, "zarr, of OME images", "size")
        if settings.classes:
            raise InputRefused(f"{root}: tiles of an image have no classes; leave out --classes")
        side = settings.size or _SIDE
        if settings.overlap >= side:
            raise UsageError(f"--overlap {settings.overlap}: must be less than the side of a tile, {side}")
        self.index = PatchIndex([], settings.mpp, (side, side))
        self.index.facts = {"size": side, "overlap": settings.overlap}
        if settings.size is None:
            self.index.notes.append(f"cut into tiles of {_SIDE} px (--size chooses)")
        self._levels: list[Level] = []
        self._tiles: list[tuple[int, Corner]] = []
        self._overlap = settings.overlap
        for image in images:
            with self.index.skipping_bad(path_in_source(root, image.path), settings):
                self._add_image(root, image, settings.mpp)
        require_unique_ids(root, self.index)

    def _add_image(self, root: Path, image: ZarrNode, mpp: float | None) -> None:
        index, side = self.index, self.index.size[0]
        level = select_level(image, mpp)
        scale = level.mpp or mpp
        first = index.mpp if self._levels else scale
        _require_same_scale(image, scale, first)
        tiles = self._cut(image, level)
        name = path_in_source(root, image.path).removesuffix(".zarr").removesuffix(".ome")
        require_utf8_name(image.path)
        name = identifier(name)
        index.mpp = first
        index.add_patches([f"{name}#{i}" for i in range(len(tiles))], name)
        x, y = ([round(c * level.factor) for c in values] for values in ([t.x for t in tiles], [t.y for t in tiles]))
        index.add_positions(name, x, y, round(side * level.factor))
        index.files.append((path_in_source(root, level.array.path), bytes_below(level.array.path)))
        which = f"level '{level.array.path.name}', {level.mpp:g} micrometres per px" if level.mpp else "no scale known"
        height, width = level.size
        index.notes.append(f"{name}: {width} x {height} px ({which})")
        if note := missing_chunks_note(level.array):
            index.notes.append(note)
        self._tiles += [(len(self._levels), t) for t in tiles]
        self._levels.append(level)

    def _cut(self, image: ZarrNode, level: Level) -> list[Corner]:
        (height, width), (side, _) = level.size, self.index.size
        step = side - self._overlap
        if (height // step + 1) * (width // step + 1) > MAX_ROWS:
            raise InputRefused(f"{image.path}: claims {width:,} x {height:,} px; is it damaged?")
        tiles = corners(level.size, side, self._overlap)
        if not tiles:
            raise InputRefused(f"{image.path}: is {width} x {height} px, smaller than a tile; choose a smaller --size")
        return tiles

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return images (n, H, W, 3) uint8, and None: labels of OME-Zarr are not read."""
        return np.stack([self._read_tile(*tile) for tile in self._tiles[start:stop]]), None

    def _read_tile(self, number: int, corner: Corner) -> np.ndarray:
        level, (side, _) = self._levels[number], self.index.size
        region = {"y": slice(corner.y, corner.y + side), "x": slice(corner.x, corner.x + side), "c": slice(None)}
        pixels = level.array.take(tuple(region.get(axis, 0) for axis in level.axes))
        axes = [axis for axis in level.axes if axis in region]
        return as_uint8(np.transpose(pixels, [axes.index(axis) for axis in "yxc"]), level.array.path)


def multiscales(image: ZarrNode) -> dict[str, Any] | None:
    """Return the first pyramid that a group describes (OME-NGFF 0.1 to 0.5), or None."""
    ome = image.attributes.get("ome")
    pyramids = (ome if isinstance(ome, dict) else image.attributes).get("multiscales")
    return pyramids[0] if isinstance(pyramids, list) and pyramids and isinstance(pyramids[0], dict) else None


class _Pyramid(NamedTuple):
    """Metadata of a pyramid: path of each level, its scales along y and x as written, and micrometres per unit."""

    axes: tuple[str, ...]
    paths: list[str]
    y_scales: list[float | None]
    x_scales: list[float | None]
    y_unit: float | None
    x_unit: float | None


def select_level(image: ZarrNode, mpp: float | None) -> Level:
    """Return the first level, or the one nearest to `mpp` where scales are known.

    Raises InputRefused for damaged metadata and for anything but one plane of three channels.
    """
    try:
        pyramid = _read_pyramid(multiscales(image) or {})
        first = pyramid.y_scales[0]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InputRefused(f"{image.path}: its multiscales are damaged ({error!r}); convert it again") from error
    unit = pyramid.y_unit
    levels_mpp = [s * unit if s and unit else None for s in pyramid.y_scales]
    known = [k for k, m in enumerate(levels_mpp) if m and 0.01 < m < 100]
    number = min(known, key=lambda k: abs(np.log((levels_mpp[k] or 1) / mpp))) if mpp and known else 0
    name, scale = pyramid.paths[number], pyramid.y_scales[number]
    node = read_node(image.path / name) if ".." not in Path(name).parts and not Path(name).is_absolute() else None
    if node is None or not node.is_array:
        raise InputRefused(f"{image.path}: its level '{name}' is not there; copy it again from the source")
    factor = scale / first if scale and first else 1.0
    level = Level(ZarrArray(node), pyramid.axes, factor, levels_mpp[number] if number in known else None)
    _require_plane(level)
    _require_square_pixels(level, pyramid, number)
    return level


def _read_pyramid(metadata: dict[str, Any]) -> _Pyramid:
    entries = metadata.get("axes", _DEFAULT_AXES)
    named = [e if isinstance(e, dict) else {"name": e} for e in entries]
    axes, units = tuple(str(e["name"]) for e in named), {str(e["name"]): str(e.get("unit", "")) for e in named}
    datasets = metadata["datasets"]
    paths = [str(d["path"]) for d in datasets]
    y_scales, x_scales = ([_scale(d, metadata, axes, axis) for d in datasets] for axis in "yx")
    y_unit, x_unit = (_MICROMETRES.get(units.get(axis, "")) for axis in "yx")
    return _Pyramid(axes, paths, y_scales, x_scales, y_unit, x_unit)


def _scale(dataset: dict[str, Any], pyramid: dict[str, Any], axes: tuple[str, ...], axis: str) -> float | None:
    product = None
    for transforms in (dataset.get("coordinateTransformations", []), pyramid.get("coordinateTransformations", [])):
        for transform in transforms:
            if transform.get("type") == "scale":
                product = (product or 1.0) * float(transform["scale"][axes.index(axis)])
    if product is not None and not 1e-9 < product < 1e9:
        raise ValueError(f"scale {product}")
    return product


def _require_plane(level: Level) -> None:
    array, axes = level.array, level.axes
    if len(array.shape) != len(axes) or not {"y", "x"} <= set(axes) or not set(axes) <= set("tczyx"):
        raise InputRefused(f"{array.path}: has shape {array.shape} for axes {', '.join(axes)}; expected t, c, z, y, x")
    if array.never_written:
        raise InputRefused(f"{array.path}: has a header but no data; copy it again from the source")
    require_plausible_size(array)
    sizes = dict(zip(axes, array.shape, strict=True))
    if sizes.get("c") != 3:
        raise InputRefused(f"{array.path}: has {sizes.get('c', 1)} channels; expected 3, red, green and blue")
    if several := [a for a in ("t", "z") if sizes.get(a, 1) != 1]:
        raise InputRefused(
            f"{array.path}: has {sizes[several[0]]} planes along {several[0]}; save the one that is meant"
        )


def _require_square_pixels(level: Level, pyramid: _Pyramid, number: int) -> None:
    height, width = pyramid.y_scales[number], pyramid.x_scales[number]
    ratio = (pyramid.x_unit or pyramid.y_unit) / pyramid.y_unit if pyramid.y_unit else 1.0  # of the axes' units
    if height and width and abs(width * ratio / height - 1) > _TOLERANCE:
        raise InputRefused(
            f"{level.array.path}: has pixels of {width * ratio:g} x {height:g}, which are no squares; resample it"
        )


def _require_same_scale(image: ZarrNode, scale: float | None, first: float | None) -> None:
    if (scale is None) != (first is None):
        remedy = "--mpp says it of images that do not"
    elif scale and first and abs(scale / first - 1) > _TOLERANCE:
        remedy = "choose with --mpp"
    else:
        return
    raise InputRefused(f"{image.path}: has {_scale_text(scale)}, others {_scale_text(first)}; {remedy}")


def _scale_text(mpp: float | None) -> str:
    return "no scale" if mpp is None else f"{mpp:g} micrometres per px"
