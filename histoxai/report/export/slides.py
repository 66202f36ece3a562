"""Slides' maps and masks as files that QuPath opens: GeoJSON objects and OME-TIFF pyramids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID, uuid5

import numpy as np

from histoxai.core.progress import Progress
from histoxai.report.export import qupath
from histoxai.report.figures.figures import OVERLAYS
from histoxai.report.lineage import Lineage
from histoxai.report.slides import Slide, masks_on, planes_on, put
from histoxai.score.summary.scores import Scores
from histoxai.statistics.numbers import or_none

ROOM = 1_000_000_000  # pixels of an overlay file, all channels together
TEXT = 200_000_000  # bytes of a GeoJSON after which no more regions are added; viewers open no larger ones
_SPACE = UUID("6f1c1f0e-6b0c-5b0e-9a53-1b6a3f1f2c11")  # of our names


def overlay_files(
    slides: Sequence[Slide], lineage: Lineage, scores: Scores, primary: str, colours: str, progress: Progress
) -> Iterator[tuple[str, bytes]]:
    """Of every slide a GeoJSON and an OME-TIFF, by their path in an export.

    The libraries that write them have to be there (`overlays.require`).
    """
    progress.start("slide overlays", sum(len(s.rows) for s in slides))
    for slide, stem in zip(slides, qupath.stems([s.name for s in slides]), strict=True):
        yield f"slides/{stem}.geojson", _geojson(slide, lineage, scores, primary, colours, progress)
        yield f"slides/{stem}.ome.tif", _tiff(slide, lineage)
    progress.stop()


def _geojson(slide: Slide, lineage: Lineage, scores: Scores, primary: str, colours: str, progress: Progress) -> bytes:
    # a FeatureCollection, feature by feature: as text they take a fraction of the memory that lists take
    text, left_out = bytearray(b'{"type":"FeatureCollection","features":['), 0
    which, sure = range(len(slide.rows)), lineage.column("probability")
    for k, masks in zip(which, masks_on(slide, lineage, which), strict=True):
        features = [_tile(slide, k, lineage, scores, primary, float(sure[slide.rows[k]]))]
        if len(text) < TEXT:
            features += _regions(slide, k, masks, lineage, scores, colours)
        else:
            left_out += 1
        for feature in features:
            text += b"," if text[-1:] != b"[" else b""
            text += json.dumps(feature, separators=(",", ":")).encode()
        progress.advance()
    if left_out:
        progress.warn(
            f"{slide.name}: its GeoJSON has {TEXT / 1e6:.0f} MB: masks and maps of {left_out:,} patches are left out "
            "of it; the OME-TIFF has them"
        )
    return bytes(text + b"]}")


def _tile(slide: Slide, k: int, lineage: Lineage, scores: Scores, primary: str, probability: float) -> dict[str, Any]:
    row, (height, width) = int(slide.rows[k]), lineage.patches.size
    values = scores.of(primary)[row]
    measured = {"probability": probability, "case": int(scores.case[row])}
    for (i, j), value in np.ndenumerate(values):
        if (known := or_none(float(value))) is not None:
            measured[f"{primary}: {list(scores.methods)[i]}, {scores.masks[j].replace('_', '-')}"] = known
    code, name = int(scores.prediction[row]), str(scores.patch_id[row])
    box = _frame(slide, k, width).box(width, height)
    key = _id(slide.name, name)
    return qupath.tile(key, name, box, lineage.patches.classes[code], qupath.colour_of(code), measured)


def _regions(
    slide: Slide, k: int, masks: np.ndarray, lineage: Lineage, scores: Scores, colours: str
) -> list[dict[str, Any]]:
    # both masks, and every method's map above its threshold; null models would be noise, and most of the file
    threshold, palette = lineage.scores.header["settings"]["map_threshold"], OVERLAYS[colours]
    name, frame = str(scores.patch_id[slide.rows[k]]), _frame(slide, k, lineage.patches.size[1])
    planes = {f"{m.replace('_', '-')} mask": (masks[..., i], palette[m]) for i, m in enumerate(("tumor", "non_tumor"))}
    for method in (m for m, facts in scores.methods.items() if not facts.null):
        found = next(planes_on(slide, lineage, method, [k])) > threshold
        planes[f"{method} > {threshold:g}"] = found, palette["map"]
    made = []
    for words, (plane, colour) in planes.items():
        made += qupath.region(_id(slide.name, name, words), plane, frame, words, colour)
    return made


def _frame(slide: Slide, k: int, width: int) -> qupath.Frame:
    return qupath.Frame(float(slide.x[k]), float(slide.y[k]), float(slide.extent[k]) / width)


def _id(*parts: str) -> str:
    return str(uuid5(_SPACE, "\0".join(parts)))


def _tiff(slide: Slide, lineage: Lineage) -> bytes:
    # channels: every method's map and both masks, 0..255; at the patches' own resolution, or halved until there is room
    methods, width = lineage.scores.header["axes"]["method"], lineage.patches.size[1]
    names = [*methods, "tumor mask", "non-tumor mask"]
    full = scale = width / float(slide.extent.max())
    while len(names) * slide.width * slide.height * scale**2 > ROOM:
        scale /= 2
    # pages that nothing is put on take no memory
    stack = np.zeros((len(names), max(1, round(slide.height * scale)), max(1, round(slide.width * scale))), np.uint8)
    which = range(len(slide.rows))
    places = [(float(slide.x[k]), float(slide.y[k]), float(slide.extent[k])) for k in which]
    for channel, name in enumerate(methods):
        for plane, place in zip(planes_on(slide, lineage, name, which), places, strict=True):
            put(stack[channel], np.round(255 * np.nan_to_num(plane)).astype(np.uint8), place, scale)
    for masks, place in zip(masks_on(slide, lineage, which), places, strict=True):
        for k in (0, 1):
            put(stack[len(methods) + k], 255 * masks[..., k].astype(np.uint8), place, scale)
    mpp = None if slide.mpp is None else slide.mpp * full / scale
    return qupath.ome_tiff(stack, names, mpp, _id(slide.name, lineage.scores.digest()))
