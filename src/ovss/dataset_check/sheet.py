"""The contact sheet: some images beside their labels in the palette of the report, and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ovss.data.images import read_image
from ovss.data.labels import ignored_in, read_label
from ovss.data.layouts import Entry
from ovss.dataset_check.entry import Expected
from ovss.dataset_check.scan import Scan
from ovss.dataset_check.summary import images_per_class
from ovss.report.palette import View

PAIRS, COLUMNS = 12, 3
TILE = (220, 165)
_GAP, _LINE, _SWATCH, _LEGEND_COLUMNS = 12, 22, 14, 5
_INK, _PAPER = (28, 36, 48), (255, 255, 255)
_WIDTH = COLUMNS * (2 * TILE[0] + 3 * _GAP) + _GAP


def choose(scan: Scan, table: npt.NDArray[Any], count: int = PAIRS) -> list[Entry]:
    """Pairs to show: one with each class, the rarest classes first, then others at equal distances; in their order."""
    present = [set(table[list(values)].tolist()) - {ignored_in(table)} for _, values in scan.pairs]
    often = images_per_class(scan, table)
    chosen: dict[int, None] = {}
    shown: set[int] = set()
    for index in sorted(set().union(*present), key=lambda index: (often[index], index)):
        if index not in shown and len(chosen) < count:
            found = next(number for number, classes in enumerate(present) if index in classes)
            chosen[found] = None
            shown |= present[found]
    free = [number for number in range(len(present)) if number not in chosen]
    room = min(count - len(chosen), len(free))
    chosen.update(dict.fromkeys(free[step * len(free) // room] for step in range(room)))
    return [scan.pairs[number][0] for number in sorted(chosen)]


def draw(expected: Expected, scan: Scan) -> Image.Image:
    """The sheet of a data set."""
    name, title = expected.name, expected.title
    colours = View(name, title, expected.classes, expected.background, expected.table, Path(), {}).colours
    entries = choose(scan, expected.table)
    tiles = [_pair(entry, expected.table, colours) for entry in entries]
    shown = sorted(set().union(*(classes for _, classes in tiles)))
    rows, high = -(-len(tiles) // COLUMNS), TILE[1] + _LINE + _GAP
    top = 2 * _GAP + _LINE
    legend = top + rows * high + _GAP
    sheet = Image.new("RGB", (_WIDTH, legend + -(-len(shown) // _LEGEND_COLUMNS) * _LINE + _GAP), _PAPER)
    line = f"{name}: {title}, {len(entries)} of {len(scan.pairs)} images of split {expected.split}"
    _text(sheet, (_GAP, _GAP), line, _WIDTH - 2 * _GAP, 18)
    for number, (entry, (tile, _)) in enumerate(zip(entries, tiles, strict=True)):
        left = _GAP + number % COLUMNS * (tile.width + 2 * _GAP)
        at = (left, top + number // COLUMNS * high)
        sheet.paste(tile, at)
        _text(sheet, (left, at[1] + TILE[1] + 3), entry.id, tile.width)
    _legend(sheet, legend, shown, expected.classes, colours)
    return sheet


def _pair(entry: Entry, table: npt.NDArray[Any], colours: npt.NDArray[np.uint8]) -> tuple[Image.Image, set[int]]:
    """An image beside its label, and the class indices in it."""
    classes = table[read_label(entry.label)]
    both = (_fitted(Image.fromarray(read_image(entry.image)), Image.Resampling.BILINEAR),
            _fitted(Image.fromarray(colours[classes]), Image.Resampling.NEAREST))  # fmt: skip
    tile = Image.new("RGB", (2 * TILE[0] + _GAP, TILE[1]), _PAPER)
    for left, picture in zip((0, TILE[0] + _GAP), both, strict=True):
        tile.paste(picture, (left + (TILE[0] - picture.width) // 2, (TILE[1] - picture.height) // 2))
    return tile, set(np.unique(classes).tolist())


def _fitted(picture: Image.Image, how: Image.Resampling) -> Image.Image:
    ratio = min(TILE[0] / picture.width, TILE[1] / picture.height)
    return picture.resize((max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))), how)


def _legend(
    sheet: Image.Image, top: int, shown: Sequence[int], classes: Sequence[str], colours: npt.NDArray[np.uint8]
) -> None:
    """A field of colour and the name of each class on the sheet, row by row."""
    pen, wide = ImageDraw.Draw(sheet), (_WIDTH - 2 * _GAP) // _LEGEND_COLUMNS
    for number, index in enumerate(shown):
        left, high = _GAP + number % _LEGEND_COLUMNS * wide, top + number // _LEGEND_COLUMNS * _LINE
        red, green, blue = colours[index].tolist()
        pen.rectangle((left, high, left + _SWATCH, high + _SWATCH), (red, green, blue), _INK)
        name = f"{index} {classes[index]}" if index < len(classes) else "not scored"
        _text(sheet, (left + _SWATCH + 6, high), name, wide - _SWATCH - _GAP)


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _text(sheet: Image.Image, at: tuple[int, int], text: str, room: int, height: int = 13) -> None:
    """Write a line, cut where it would be wider than ``room``."""
    font = _font(height)
    while font.getlength(text) > room and len(text) > 1:
        text = text.removesuffix("…")[:-1] + "…"
    ImageDraw.Draw(sheet).text(at, text, _INK, font)
