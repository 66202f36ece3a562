"""Draw contact sheets as PNG: patches side by side, with their ids and notes.

A sheet has sections, a section has bands (one per class), a band has strips. A strip is one patch with its variants;
strips stand side by side while there is room.
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

from histoxai.report.figures.style import BLUE, GREY

COLUMNS = 8  # tiles side by side
# px
_TILE_SIDE = 144
_TILE_GAP, _STRIP_GAP, _MARGIN, _LABEL_WIDTH = 6, 16, 28, 112
_TITLE_SIZE, _HEAD_SIZE, _BODY_SIZE, _NOTE_SIZE = 22, 17, 13, 12
_NOTE_HEIGHT = 17
_INK, _LINE = "#1a1a1a", "#d9d9d9"


@dataclass(frozen=True)
class Tile:
    """An image of a patch and the lines of text below it; augmented images are not stored, and have a blue frame."""

    picture: Image.Image
    note: str = ""
    augmented: bool = False

    @classmethod
    def of(cls, image: np.ndarray, note: str = "", augmented: bool = False) -> Tile:
        """Make a tile of a patch (H, W, 3) uint8, resized at once: patches may be large."""
        full = Image.fromarray(image)
        scale = _TILE_SIDE / max(full.size)
        size = (max(1, round(full.width * scale)), max(1, round(full.height * scale)))
        filter = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        return cls(full.resize(size, filter), note, augmented)


@dataclass(frozen=True)
class Strip:
    """One patch: its id, and its tiles in order."""

    name: str
    tiles: Sequence[Tile]

    @property
    def width(self) -> int:
        """Width in px."""
        return len(self.tiles) * (_TILE_SIDE + _TILE_GAP) - _TILE_GAP


@dataclass(frozen=True)
class Band:
    """Strips beside a label and a line of detail."""

    label: str
    detail: str
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Section:
    """Bands below a heading."""

    heading: str
    bands: Sequence[Band]


def draw_sheet(title: str, subtitle: str, sections: Sequence[Section]) -> bytes:
    """Draw a sheet as PNG, as high as its content; texts that are too long lose their middle."""
    labelled = any(band.label for section in sections for band in section.bands)
    left = _MARGIN + (_LABEL_WIDTH if labelled else 0)
    strips = [strip for section in sections for band in section.bands for strip in band.strips]
    strips_width = max([COLUMNS * (_TILE_SIDE + _TILE_GAP) - _TILE_GAP, *(strip.width for strip in strips)])
    canvas = _Canvas(left, strips_width)
    canvas.text((_MARGIN, _MARGIN), title, _TITLE_SIZE, strips_width, bold=True)
    canvas.text((_MARGIN, _MARGIN + 32), subtitle, _BODY_SIZE, left + strips_width - _MARGIN, colour=GREY)
    top = _MARGIN + 62
    for section in sections:
        top = _draw_section(canvas, section, top)
    return canvas.png(top + _MARGIN - _STRIP_GAP)


def _draw_section(canvas: _Canvas, section: Section, top: int) -> int:
    # draws from `top` on, and returns the top of the next section
    if section.heading:
        canvas.rule(top)
        canvas.text((_MARGIN, top + 10), section.heading, _HEAD_SIZE, canvas.width - 2 * _MARGIN, bold=True)
        top += 44
    for band in section.bands:
        canvas.text((_MARGIN, top + 18), band.label, _HEAD_SIZE, _LABEL_WIDTH - _TILE_GAP, bold=True)
        canvas.text((_MARGIN, top + 42), band.detail, _NOTE_SIZE, _LABEL_WIDTH - _TILE_GAP, colour=GREY)
        for strips in _strips_by_line(band.strips, canvas.strips_width):
            top = _draw_strips(canvas, strips, top)
    return top


def _strips_by_line(strips: Sequence[Strip], width: int) -> list[list[Strip]]:
    lines: list[list[Strip]] = [[]]
    used = 0
    for strip in strips:
        if lines[-1] and used + strip.width > width + (len(lines[-1]) * (_STRIP_GAP - _TILE_GAP)):
            lines.append([])
            used = 0
        lines[-1].append(strip)
        used += strip.width + _STRIP_GAP
    return lines


def _draw_strips(canvas: _Canvas, strips: Sequence[Strip], top: int) -> int:
    # draws names, tiles and notes of one line, and returns the top of the next line
    names = [in_two_lines(strip.name, strip.width, _font(_NOTE_SIZE, False)) for strip in strips]
    tiles = [tile for strip in strips for tile in strip.tiles]
    names_height = _NOTE_HEIGHT * max(len(name) for name in names) + 2
    notes_top = top + names_height + max(tile.picture.height for tile in tiles) + 3
    left = canvas.left
    for strip, name in zip(strips, names, strict=True):
        canvas.lines((left, top + names_height - 2 - _NOTE_HEIGHT * len(name)), name, strip.width)
        for tile in strip.tiles:
            canvas.tile((left, top + names_height), tile)
            colour = BLUE if tile.augmented else GREY
            canvas.lines((left, notes_top), tile.note.splitlines(), _TILE_SIDE, colour)
            left += _TILE_SIDE + _TILE_GAP
        left += _STRIP_GAP - _TILE_GAP
    return notes_top + _NOTE_HEIGHT * max(len(tile.note.splitlines()) for tile in tiles) + _STRIP_GAP


class _Canvas:
    """A white page that grows downwards; left, strips_width: where strips begin, and how wide they may be, in px."""

    def __init__(self, left: int, strips_width: int) -> None:
        self.left, self.strips_width = left, strips_width
        # strips of one tile have wider gaps than the tiles of one strip
        self.width = left + strips_width + (COLUMNS - 1) * (_STRIP_GAP - _TILE_GAP) + _MARGIN
        self._image = Image.new("RGB", (self.width, 1024), "white")

    def _draw(self, bottom: int) -> ImageDraw.ImageDraw:
        if bottom > self._image.height:
            taller = Image.new("RGB", (self.width, max(bottom, 2 * self._image.height)), "white")
            taller.paste(self._image)
            self._image = taller
        return ImageDraw.Draw(self._image)

    def text(
        self, at: tuple[int, int], text: str, size: int, width: int, *, bold: bool = False, colour: str = _INK
    ) -> None:
        font = _font(size, bold)
        self._draw(at[1] + 2 * size).text(at, shorten(text, width, font), font=font, fill=colour)

    def lines(self, at: tuple[int, int], lines: Sequence[str], width: int, colour: str = _INK) -> None:
        for k, line in enumerate(lines):
            self.text((at[0], at[1] + k * _NOTE_HEIGHT), line, _NOTE_SIZE, width, colour=colour)

    def rule(self, top: int) -> None:
        self._draw(top + 1).line([(_MARGIN, top), (self.width - _MARGIN, top)], fill=_LINE)

    def tile(self, at: tuple[int, int], tile: Tile) -> None:
        draw = self._draw(at[1] + _TILE_SIDE)
        self._image.paste(tile.picture, at)
        corner = (at[0] + tile.picture.width - 1, at[1] + tile.picture.height - 1)
        # every tile has a thin frame, since glass is as white as the page
        draw.rectangle([at, corner], outline=BLUE if tile.augmented else _LINE, width=2 if tile.augmented else 1)

    def png(self, height: int) -> bytes:
        file = io.BytesIO()
        self._image.crop((0, 0, self.width, height)).save(file, "PNG", optimize=True)
        return file.getvalue()


def shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Fit a text into `width` px by cutting its middle, since ids differ at their ends."""
    text = _drawable(text)
    if font.getlength(text) <= width:
        return text
    length = len(text) - 1
    while length > 2 and font.getlength(_without_middle(text, length)) > width:
        length -= 1
    return _without_middle(text, length)


def in_two_lines(name: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Break a name into at most two lines of `width` px; a longer one keeps its beginning and its end."""
    name = _drawable(name)
    if font.getlength(name) <= width:
        return [name]
    length = len(name)
    while length > 1 and font.getlength(name[:length]) > width:
        length -= 1
    rest = name[length:]
    if font.getlength(rest) <= width:
        return [name[:length], rest]
    while len(rest) > 1 and font.getlength("…" + rest) > width:
        rest = rest[1:]
    return [name[:length], "…" + rest]


def _drawable(text: str) -> str:
    # no font draws control characters and broken surrogates
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _without_middle(text: str, length: int) -> str:
    return text[: length // 2] + "…" + text[len(text) - (length + 1) // 2 :]


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    # from matplotlib, and without Raqm, whose letter distances differ: the same picture on every machine
    properties = font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return ImageFont.truetype(font_manager.findfont(properties), size, layout_engine=ImageFont.Layout.BASIC)
