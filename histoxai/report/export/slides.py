"""Export maps and masks of slides as files that QuPath opens: GeoJSON objects and OME-TIFF pyramids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

import numpy as np

from histoxai.core.progress import Progress
from histoxai.report.export.qupath import Classification, GeoJson, PatchFrame, file_stems, ome_tiff, region, tile
from histoxai.report.figures.style import OVERLAY_COLOURS
from histoxai.report.lineage import Lineage
from histoxai.report.slides import Slide, maps_on, masks_on, paste
from histoxai.report.wording import hyphenated
from histoxai.score.summary.scores import Scores
from histoxai.statistics.numbers import or_none

MAX_PIXELS = 1_000_000_000  # of an OME-TIFF, all channels together
MAX_GEOJSON_BYTES = 200_000_000  # after which no regions are added; viewers open no larger files
_NAMESPACE = UUID("6f1c1f0e-6b0c-5b0e-9a53-1b6a3f1f2c11")
_MASKS = ("tumor", "non_tumor")


@dataclass(frozen=True)
class OverlaySource:
    """Inputs of overlays: stores, scores in the corrected profile, the primary measure, a key of OVERLAY_COLOURS."""

    lineage: Lineage
    scores: Scores
    primary: str
    colours: str


def overlay_files(slides: Sequence[Slide], source: OverlaySource, progress: Progress) -> Iterator[tuple[str, bytes]]:
    """Yield a GeoJSON and an OME-TIFF of every slide, by their path in an export.

    Needs the libraries of `qupath.require_libraries`.
    """
    progress.start("slide overlays", sum(len(s.rows) for s in slides))
    for slide, stem in zip(slides, file_stems([s.name for s in slides]), strict=True):
        yield f"slides/{stem}.geojson", _geojson(slide, source, progress)
        yield f"slides/{stem}.ome.tif", _tiff(slide, source.lineage)
    progress.stop()


def _geojson(slide: Slide, source: OverlaySource, progress: Progress) -> bytes:
    # encoded feature by feature: text takes a fraction of the memory of lists
    text, left_out = bytearray(b'{"type":"FeatureCollection","features":['), 0
    which, probability = range(len(slide.rows)), source.lineage.column("probability")
    for k, masks in zip(which, masks_on(slide, source.lineage, which), strict=True):
        features = [_tile(slide, k, source, float(probability[slide.rows[k]]))]
        if len(text) < MAX_GEOJSON_BYTES:
            features += _regions(slide, k, masks, source)
        else:
            left_out += 1
        for feature in features:
            text += b"," if text[-1:] != b"[" else b""
            text += json.dumps(feature, separators=(",", ":")).encode()
        progress.advance()
    if left_out:
        progress.warn(
            f"{slide.name}: its GeoJSON has {MAX_GEOJSON_BYTES / 1e6:.0f} MB: masks and maps of {left_out:,} patches "
            "are left out of it; the OME-TIFF has them"
        )
    return bytes(text + b"]}")


def _tile(slide: Slide, k: int, source: OverlaySource, probability: float) -> GeoJson:
    scores, patches, row = source.scores, source.lineage.patches, int(slide.rows[k])
    measurements = {"probability": probability, "case": int(scores.case[row])}
    for (i, j), value in np.ndenumerate(scores.of(source.primary)[row]):
        if (defined := or_none(float(value))) is not None:
            name = f"{source.primary}: {list(scores.methods)[i]}, {hyphenated(scores.masks[j])}"
            measurements[name] = defined
    code, patch_id, (height, width) = int(scores.prediction[row]), str(scores.patch_id[row]), patches.size
    outline = _frame(slide, k, width).outline(width, height)
    predicted = Classification.of_class(code, patches.classes[code])
    return tile(_uuid(slide.name, patch_id), patch_id, outline, predicted, measurements)


def _regions(slide: Slide, k: int, masks: np.ndarray, source: OverlaySource) -> list[GeoJson]:
    # both masks, and each method's map above its threshold; null models would be noise, and most of the file
    lineage, scores, palette = source.lineage, source.scores, OVERLAY_COLOURS[source.colours]
    threshold, patch_id = lineage.map_threshold, str(scores.patch_id[slide.rows[k]])
    planes = {f"{hyphenated(m)} mask": (masks[..., i], palette[m]) for i, m in enumerate(_MASKS)}
    for method in (m for m, facts in scores.methods.items() if not facts.null):
        above = next(maps_on(slide, lineage, method, [k])) > threshold
        planes[f"{method} > {threshold:g}"] = above, palette["map"]
    frame, regions = _frame(slide, k, lineage.patches.size[1]), []
    for name, (plane, colour) in planes.items():
        regions += region(_uuid(slide.name, patch_id, name), plane, frame, Classification(name, colour))
    return regions


def _frame(slide: Slide, k: int, width: int) -> PatchFrame:
    x, y, extent = slide.square(k)
    return PatchFrame(x, y, extent / width)


def _uuid(*parts: str) -> str:
    return str(uuid5(_NAMESPACE, "\0".join(parts)))


def _tiff(slide: Slide, lineage: Lineage) -> bytes:
    # channels: maps of each method and both masks, 0..255; at the patches' resolution, or halved until there is room
    methods = lineage.method_names
    names = [*methods, *(f"{hyphenated(m)} mask" for m in _MASKS)]
    full = scale = lineage.patches.size[1] / float(slide.extent.max())
    while len(names) * slide.width * slide.height * scale**2 > MAX_PIXELS:
        scale /= 2
    # memory pages that nothing is pasted on take no memory
    stack = np.zeros((len(names), max(1, round(slide.height * scale)), max(1, round(slide.width * scale))), np.uint8)
    which = range(len(slide.rows))
    for channel, name in enumerate(methods):
        for k, plane in zip(which, maps_on(slide, lineage, name, which), strict=True):
            paste(stack[channel], np.round(255 * np.nan_to_num(plane)).astype(np.uint8), slide.square(k), scale)
    for k, masks in zip(which, masks_on(slide, lineage, which), strict=True):
        for channel, mask in enumerate(np.moveaxis(masks, -1, 0), start=len(methods)):
            paste(stack[channel], 255 * mask.astype(np.uint8), slide.square(k), scale)
    mpp = None if slide.mpp is None else slide.mpp * full / scale
    return ome_tiff(stack, names, mpp, _uuid(slide.name, lineage.scores.digest()))
