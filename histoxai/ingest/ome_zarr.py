"""OME-Zarr images: one level of a pyramid, cut into tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.ingest.arrays import path_in_source
from histoxai.ingest.chunk_checks import missing_chunks_note, require_plausible_size
from histoxai.ingest.file_listing import require_utf8_name
from histoxai.ingest.formats.base import (
    MAX_ROWS,
    PatchIndex,
    as_uint8,
    identifier,
    require_only_settings,
    require_unique_ids,
)
from histoxai.ingest.tiles import Corner, corners
from histoxai.ingest.zarr_nodes import ZarrArray, ZarrNode, bytes_below, read_node
from histoxai.settings import Ingest

_SIDE = 256  # of tiles, where --size does not say
_MICROMETRES = {"micrometer": 1.0, "micrometre": 1.0, "nanometer": 1e-3, "nanometre": 1e-3, "millimeter": 1e3}
_SQUARE = 0.05  # how much a pixel's sides may differ, as of slides
_DEFAULT_AXES = ("t", "c", "z", "y", "x")


class Level(NamedTuple):
    """One resolution: its array, axes, px of the first level per px of this one, micrometres per px or None."""

    array: ZarrArray
    axes: tuple[str, ...]
    factor: float
    mpp: float | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
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
        self.index.extra = {"frame": [], "x": [], "y": [], "extent": []}
        if settings.size is None:
            self.index.notes.append(f"cut into tiles of {_SIDE} px (--size chooses)")
        self._levels: list[Level] = []
        self._tiles: list[tuple[int, Corner]] = []
        self._settings = settings
        for image in images:
            try:
                self._take(root, image, side)
            except InputRefused as error:
                self.index.leave_out(path_in_source(root, image.path), error, settings)
        require_unique_ids(root, self.index)

    def _take(self, root: Path, image: ZarrNode, side: int) -> None:
        index, overlap = self.index, self._settings.overlap
        level = select_level(image, self._settings.mpp)
        here = level.mpp or self._settings.mpp
        first = index.mpp if self._levels else here
        if (here is None) != (first is None):
            raise InputRefused(
                f"{image.path}: has {_scale_of(here)}, others {_scale_of(first)}; --mpp says it of images that do not"
            )
        if here and first and abs(here / first - 1) > 0.05:
            raise InputRefused(f"{image.path}: has {_scale_of(here)}, others {_scale_of(first)}; choose with --mpp")
        height, width = level.size
        if (height // (side - overlap) + 1) * (width // (side - overlap) + 1) > MAX_ROWS:
            raise InputRefused(f"{image.path}: claims {width:,} x {height:,} px; is it damaged?")
        cut = corners(level.size, Ingest(size=side, overlap=overlap))
        if not cut:
            raise InputRefused(f"{image.path}: is {width} x {height} px, smaller than a tile; choose a smaller --size")
        name = path_in_source(root, image.path).removesuffix(".zarr").removesuffix(".ome")
        require_utf8_name(image.path)
        name = identifier(name)
        index.mpp = first
        index.label += [-1] * len(cut)
        index.split += [0] * len(cut)
        index.group += [name] * len(cut)
        index.patch_id += [f"{name}#{i}" for i in range(len(cut))]
        index.extra["frame"] += [name] * len(cut)
        index.extra["x"] += [round(c.x * level.factor) for c in cut]
        index.extra["y"] += [round(c.y * level.factor) for c in cut]
        index.extra["extent"] += [round(side * level.factor)] * len(cut)
        index.files.append((path_in_source(root, level.array.path), bytes_below(level.array.path)))
        at = f"level '{level.array.path.name}', {level.mpp:g} micrometres per px" if level.mpp else "no scale known"
        index.notes.append(f"{name}: {width} x {height} px ({at})")
        if note := missing_chunks_note(level.array):
            index.notes.append(note)
        self._tiles += [(len(self._levels), c) for c in cut]
        self._levels.append(level)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """images (n, H, W, 3) uint8; labels of OME-Zarr are not read."""
        return np.stack([self._tile(*place) for place in self._tiles[start:stop]]), None

    def _tile(self, number: int, corner: Corner) -> np.ndarray:
        level, (side, _) = self._levels[number], self.index.size
        where = {"y": slice(corner.y, corner.y + side), "x": slice(corner.x, corner.x + side), "c": slice(None)}
        pixels = level.array.take(tuple(where.get(axis, 0) for axis in level.axes))
        kept = [axis for axis in level.axes if axis in where]
        return as_uint8(np.transpose(pixels, [kept.index(axis) for axis in "yxc"]), level.array.path)


def multiscales(image: ZarrNode) -> dict[str, Any] | None:
    """The first pyramid that a group describes (OME-NGFF 0.1 to 0.5), or None."""
    ome = image.attributes.get("ome")
    found = (ome if isinstance(ome, dict) else image.attributes).get("multiscales")
    return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else None


def select_level(image: ZarrNode, mpp: float | None) -> Level:
    """The first level, or the one nearest to `mpp` where scales are known.

    Raises InputRefused for damaged metadata and for anything but one plane of three channels.
    """
    pyramid = multiscales(image) or {}
    try:
        axes, units = _axes(pyramid)
        datasets = [(str(d["path"]), _scale(d, pyramid, axes)) for d in pyramid["datasets"]]
        widths = [_scale(d, pyramid, axes, "x") for d in pyramid["datasets"]]
        first = datasets[0][1]
        unit = _MICROMETRES.get(units.get("y", ""))
        scales = [s * unit if s and unit else None for _, s in datasets]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InputRefused(f"{image.path}: its multiscales are damaged ({error!r}); convert it again") from error
    known = [k for k, s in enumerate(scales) if s and 0.01 < s < 100]
    chosen = min(known, key=lambda k: abs(np.log((scales[k] or 1) / mpp))) if mpp and known else 0
    name, scale = datasets[chosen]
    found = read_node(image.path / name) if ".." not in Path(name).parts and not Path(name).is_absolute() else None
    if found is None or not found.is_array:
        raise InputRefused(f"{image.path}: its level '{name}' is not there; copy it again from the source")
    level = Level(
        ZarrArray(found), axes, scale / first if scale and first else 1.0, scales[chosen] if chosen in known else None
    )
    _require_plane(level)
    across = widths[chosen]
    factor = _MICROMETRES.get(units.get("x", ""), unit) / unit if unit else 1.0  # of axes in two units
    if scale and across and abs(across * factor / scale - 1) > _SQUARE:
        raise InputRefused(
            f"{level.array.path}: has pixels of {across * factor:g} x {scale:g}, which are no squares; resample it"
        )
    return level


def _scale_of(mpp: float | None) -> str:
    return "no scale" if mpp is None else f"{mpp:g} micrometres per px"


def _axes(pyramid: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, str]]:
    entries = pyramid.get("axes", _DEFAULT_AXES)
    named = [e if isinstance(e, dict) else {"name": e} for e in entries]
    return tuple(str(e["name"]) for e in named), {str(e["name"]): str(e.get("unit", "")) for e in named}


def _scale(dataset: dict[str, Any], pyramid: dict[str, Any], axes: tuple[str, ...], axis: str = "y") -> float | None:
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
    if many := [a for a in ("t", "z") if sizes.get(a, 1) != 1]:
        raise InputRefused(f"{array.path}: has {sizes[many[0]]} planes along {many[0]}; save the one that is meant")
