"""Slides' maps and masks as files that QuPath opens: GeoJSON objects and OME-TIFF pyramids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID, uuid5

import numpy as np

from histoxai.metrics.scores import Scores
from histoxai.metrics.statistics import or_none
from histoxai.models.lineage import Lineage
from histoxai.models.slides import Slide, masks_on, planes_on, put
from histoxai.plots import overlays
from histoxai.plots.figures import OVERLAYS
from histoxai.progress import Progress

ROOM = 150_000_000  # pixels of an overlay file, all channels together
_SPACE = UUID("6f1c1f0e-6b0c-5b0e-9a53-1b6a3f1f2c11")  # of our names


def overlay_files(
    slides: Sequence[Slide], lineage: Lineage, scores: Scores, primary: str, colours: str, progress: Progress
) -> Iterator[tuple[str, bytes]]:
    """Of every slide a GeoJSON and an OME-TIFF, by their path in an export.

    The libraries that write them have to be there (`overlays.require`).
    """
    progress.start("slide overlays", len(slides))
    for slide, stem in zip(slides, overlays.stems([s.name for s in slides]), strict=True):
        features = _features(slide, lineage, scores, primary, colours)
        yield f"slides/{stem}.geojson", json.dumps({"type": "FeatureCollection", "features": features}).encode()
        yield f"slides/{stem}.ome.tif", _tiff(slide, lineage)
        progress.advance()
    progress.stop()


def _features(slide: Slide, lineage: Lineage, scores: Scores, primary: str, colours: str) -> list[dict[str, Any]]:
    threshold = lineage.scores.header["settings"]["map_threshold"]
    # regions of null models would be noise, and most of the file
    methods = [name for name, facts in scores.methods.items() if not facts.null]
    height, width = lineage.patches.size
    classes, palette = lineage.patches.classes, OVERLAYS[colours]
    values, probability = scores.of(primary), lineage.column("probability")
    features = []
    which = range(len(slide.rows))
    maps = {name: planes_on(slide, lineage, name, which) for name in methods}
    for k, masks in zip(which, masks_on(slide, lineage, which), strict=True):
        row = int(slide.rows[k])
        patch_id = str(scores.patch_id[row])
        frame = overlays.Frame(float(slide.x[k]), float(slide.y[k]), float(slide.extent[k]) / width)
        measured = {"probability": float(probability[row]), "case": int(scores.case[row])}
        for i, name in enumerate(scores.methods):
            for j, mask in enumerate(scores.masks):
                if (value := or_none(float(values[row, i, j]))) is not None:
                    measured[f"{primary}: {name}, {mask.replace('_', '-')}"] = value
        colour = overlays.colour_of(int(scores.prediction[row]))
        predicted = classes[int(scores.prediction[row])]
        key = [slide.name, patch_id]
        features.append(overlays.tile(_id(*key), patch_id, frame.box(width, height), predicted, colour, measured))
        for plane, name, key_of in (
            (masks[..., 0], "tumor mask", "tumor"),
            (masks[..., 1], "non-tumor mask", "non_tumor"),
        ):
            features += overlays.region(_id(*key, name), plane, frame, name, palette[key_of])
        for name in methods:
            found = next(maps[name]) > threshold
            words = f"{name} > {threshold:g}"
            features += overlays.region(_id(*key, name), found, frame, words, palette["map"])
    return features


def _id(*parts: str) -> str:
    return str(uuid5(_SPACE, "\0".join(parts)))


def _tiff(slide: Slide, lineage: Lineage) -> bytes:
    # channels: every method's map and both masks, 0..255; at the patches' own resolution, or halved until there is room
    methods, width = lineage.scores.header["axes"]["method"], lineage.patches.size[1]
    names = [*methods, "tumor mask", "non-tumor mask"]
    scale = width / float(slide.extent.max())
    while len(names) * slide.width * slide.height * scale**2 > ROOM:
        scale /= 2
    stack = np.zeros((len(names), max(1, round(slide.height * scale)), max(1, round(slide.width * scale))), np.uint8)
    which = range(len(slide.rows))
    places = [(float(slide.x[k]), float(slide.y[k]), float(slide.extent[k])) for k in which]
    for channel, name in enumerate(methods):
        for plane, place in zip(planes_on(slide, lineage, name, which), places, strict=True):
            put(stack[channel], np.round(255 * np.nan_to_num(plane)).astype(np.uint8), place, scale)
    for masks, place in zip(masks_on(slide, lineage, which), places, strict=True):
        for k in (0, 1):
            put(stack[len(methods) + k], 255 * masks[..., k].astype(np.uint8), place, scale)
    full = None if lineage.patches.mpp is None else lineage.patches.mpp * width / float(slide.extent.max())
    return overlays.ome_tiff(
        stack, names, None if full is None else full / scale, _id(slide.name, lineage.scores.digest())
    )
