"""Contact sheets: patches side by side, for people to look at. Arrays in, PNG bytes out.

A sheet has sections, a section bands (one a class), a band strips. A strip is one patch with all that becomes of it,
its id above; strips stand side by side while there is room.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from histoxai.report.figures.figures import BLUE, GREY

COLUMNS = 8  # tiles side by side
_SIDE = 144  # of a tile, px
_GAP, _APART, _MARGIN, _LABEL = 6, 16, 28, 112
_INK, _LINE = "#1a1a1a", "#d9d9d9"
_TITLE, _HEAD, _BODY, _NOTE = 22, 17, 13, 12
_ROW = 17  # of small text, px


@dataclass(frozen=True)
class Tile:
    """A picture of a patch and the lines of text under it; made: in a blue frame, for it is not stored like that."""

    picture: Image.Image
    note: str = ""
    made: bool = False

    @classmethod
    def of(cls, image: np.ndarray, note: str = "", made: bool = False) -> Tile:
        """A tile of a patch (H, W, 3) uint8, which is brought to the sheet's size at once: patches may be large."""
        full = Image.fromarray(image)
        scale = _SIDE / max(full.size)
        size = (max(1, round(full.width * scale)), max(1, round(full.height * scale)))
        filter = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        return cls(full.resize(size, filter), note, made)


@dataclass(frozen=True)
class Strip:
    """One patch: its id, and its tiles in order."""

    name: str
    tiles: Sequence[Tile]

    @property
    def width(self) -> int:
        return len(self.tiles) * (_SIDE + _GAP) - _GAP


@dataclass(frozen=True)
class Band:
    """Strips under one label, which stands on their left with a line of detail."""

    label: str
    detail: str
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Section:
    """Bands under one heading."""

    heading: str
    bands: Sequence[Band]


def draw_sheet(title: str, subtitle: str, sections: Sequence[Section]) -> bytes:
    """A sheet as PNG; its height follows from what is on it. Text that is too long loses its middle."""
    labelled = any(band.label for section in sections for band in section.bands)
    left = _MARGIN + (_LABEL if labelled else 0)
    strips = [strip for section in sections for band in section.bands for strip in band.strips]
    across = max([COLUMNS * (_SIDE + _GAP) - _GAP, *(strip.width for strip in strips)])
    page = _Page(left, across)
    page.text((_MARGIN, _MARGIN), title, _TITLE, across, bold=True)
    page.text((_MARGIN, _MARGIN + 32), subtitle, _BODY, left + across - _MARGIN, colour=GREY)
    top = _MARGIN + 62
    for section in sections:
        top = _draw_section(page, section, top)
    return page.png(top + _MARGIN - _APART)


def _draw_section(page: _Page, section: Section, top: int) -> int:
    # draws a section from `top` on; gives where the next one begins
    if section.heading:
        page.rule(top)
        page.text((_MARGIN, top + 10), section.heading, _HEAD, page.width - 2 * _MARGIN, bold=True)
        top += 44
    for band in section.bands:
        page.text((_MARGIN, top + 18), band.label, _HEAD, _LABEL - _GAP, bold=True)
        page.text((_MARGIN, top + 42), band.detail, _NOTE, _LABEL - _GAP, colour=GREY)
        for strips in _lines(band.strips, page.across):
            top = _draw_line(page, strips, top)
    return top


def _lines(strips: Sequence[Strip], across: int) -> list[list[Strip]]:
    # strips as they fit side by side
    lines: list[list[Strip]] = [[]]
    used = 0
    for strip in strips:
        if lines[-1] and used + strip.width > across + (len(lines[-1]) * (_APART - _GAP)):
            lines.append([])
            used = 0
        lines[-1].append(strip)
        used += strip.width + _APART
    return lines


def _draw_line(page: _Page, strips: Sequence[Strip], top: int) -> int:
    # names, tiles and notes of strips side by side; gives where the next line begins
    names = [in_lines(strip.name, strip.width, _font(_NOTE, False)) for strip in strips]
    tiles = [tile for strip in strips for tile in strip.tiles]
    above = _ROW * max(len(name) for name in names) + 2
    below = top + above + max(tile.picture.height for tile in tiles) + 3
    left = page.left
    for strip, name in zip(strips, names, strict=True):
        page.lines((left, top + above - 2 - _ROW * len(name)), name, strip.width)
        for tile in strip.tiles:
            page.tile((left, top + above), tile)
            page.lines((left, below), tile.note.splitlines(), _SIDE, BLUE if tile.made else GREY)
            left += _SIDE + _GAP
        left += _APART - _GAP
    return below + _ROW * max(len(tile.note.splitlines()) for tile in tiles) + _APART


class _Page:
    """A white page that grows downwards. left, across: where strips begin, and how wide they may be, px."""

    def __init__(self, left: int, across: int) -> None:
        # strips of one tile have wider gaps than tiles of one strip
        self.left, self.across = left, across
        self.width = left + across + (COLUMNS - 1) * (_APART - _GAP) + _MARGIN
        self._canvas = Image.new("RGB", (self.width, 1024), "white")

    def _draw(self, bottom: int) -> ImageDraw.ImageDraw:
        if bottom > self._canvas.height:
            taller = Image.new("RGB", (self.width, max(bottom, 2 * self._canvas.height)), "white")
            taller.paste(self._canvas)
            self._canvas = taller
        return ImageDraw.Draw(self._canvas)

    def text(
        self, at: tuple[int, int], text: str, size: int, width: int, *, bold: bool = False, colour: str = _INK
    ) -> None:
        font = _font(size, bold)
        self._draw(at[1] + 2 * size).text(at, shorten(text, width, font), font=font, fill=colour)

    def lines(self, at: tuple[int, int], lines: Sequence[str], width: int, colour: str = _INK) -> None:
        for k, line in enumerate(lines):
            self.text((at[0], at[1] + k * _ROW), line, _NOTE, width, colour=colour)

    def rule(self, top: int) -> None:
        self._draw(top + 1).line([(_MARGIN, top), (self.width - _MARGIN, top)], fill=_LINE)

    def tile(self, at: tuple[int, int], tile: Tile) -> None:
        draw = self._draw(at[1] + _SIDE)
        self._canvas.paste(tile.picture, at)
        corner = (at[0] + tile.picture.width - 1, at[1] + tile.picture.height - 1)
        # a hairline, since glass is as white as the page
        draw.rectangle([at, corner], outline=BLUE if tile.made else _LINE, width=2 if tile.made else 1)

    def png(self, height: int) -> bytes:
        file = io.BytesIO()
        self._canvas.crop((0, 0, self.width, height)).save(file, "PNG", optimize=True)
        return file.getvalue()


def shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Text that fits into `width` px: the middle goes, for ids differ at their ends."""
    text = _drawable(text)
    if font.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 2 and font.getlength(_without_middle(text, kept)) > width:
        kept -= 1
    return _without_middle(text, kept)


def in_lines(name: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """A name in one line of `width` px or two; of one that is longer still, the beginning and the end."""
    name = _drawable(name)
    if font.getlength(name) <= width:
        return [name]
    kept = len(name)
    while kept > 1 and font.getlength(name[:kept]) > width:
        kept -= 1
    rest = name[kept:]
    if font.getlength(rest) <= width:
        return [name[:kept], rest]
    while len(rest) > 1 and font.getlength("…" + rest) > width:
        rest = rest[1:]
    return [name[:kept], "…" + rest]


def _drawable(text: str) -> str:
    # control characters and broken surrogates, which no font draws, as replacement characters
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _without_middle(text: str, kept: int) -> str:
    return text[: kept // 2] + "…" + text[len(text) - (kept + 1) // 2 :]


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    # the one that comes with matplotlib: the same picture on every machine
    wanted = font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    # without Raqm, which is not everywhere and sets other distances
    return ImageFont.truetype(font_manager.findfont(wanted), size, layout_engine=ImageFont.Layout.BASIC)
