"""What is drawn of a segmented picture: the classes on it and, below it, a legend; and the colours of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ovss.report.colours import INK, LINE, MUTED, PAPER
from ovss.report.palette import colour
from ovss.report.wordmap import RGB, css, draw

Pixels = npt.NDArray[np.uint8]
VOID_COLOUR: RGB = (232, 232, 232)
"""In label PNGs: values that no class has."""
REST_COLOUR: RGB = (58, 62, 68)
"""The background, as in the report, and on the drawing what has no class."""
MOST_LINES = 60
_MOST_ABSENT = 4
_LEAST_SIDE, _MOST_SIDE, _WORD = 384, 1600, 18
# Letters are this share of the picture's width and at least so high; a column is so many letters wide.
_LETTERS, _LEAST_LETTERS, _COLUMN, _MOST_COLUMN = 1 / 60, 15, 15, 24


@dataclass(frozen=True)
class Entry:
    """A class as the record and the legend have it: ``name`` is written, ``names`` are all that were asked for.

    plain: "none of the others", which is grey and has no word on the picture.
    """

    number: int
    name: str
    names: tuple[str, ...]
    colour: RGB
    pixels: int
    share: float
    plain: bool = False

    def record(self) -> dict[str, object]:
        """JSON values."""
        return {"number": self.number, "name": self.name, "names": list(self.names), "colour": css(self.colour),
                "pixels": self.pixels, "share": round(self.share, 6)}  # fmt: skip


def entries(labels: Pixels, classes: Sequence[Sequence[str]], background: bool) -> list[Entry]:
    """Every class with its colour and its part of a label map (H, W).

    Args:
        labels: number of each pixel's class.
        classes: names of each class, in class order.
        background: class 0 is "none of the others".
    """
    counts, first = np.bincount(labels.ravel(), minlength=256), Counter(names[0] for names in classes)
    found = []
    for number, names in enumerate(classes):
        plain = background and number == 0
        name = "background" if plain else names[0] if first[names[0]] == 1 else ", ".join(names)
        tint = REST_COLOUR if plain else colour(number)
        share = float(counts[number] / labels.size)
        found.append(Entry(number, name, tuple(names), tint, int(counts[number]), share, plain))
    return found


def palette(found: Sequence[Entry]) -> list[int]:
    """768 values for a PNG of mode P: the classes' colours, light grey for all other values."""
    table = np.full((256, 3), VOID_COLOUR, np.uint8)
    for entry in found:
        table[entry.number] = entry.colour
    return [int(value) for value in table.ravel()]


def drawing(image: Pixels, labels: Pixels, found: Sequence[Entry], across: bool = False) -> Pixels:
    """A picture with its classes tinted and named, and the legend below it.

    Small pictures are enlarged by a whole factor, so that words can be read on them.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (h, w) uint8, number of each pixel's class; others are dark.
        found: the classes.
        across: also write words that fit on none of their regions; the legend has them all.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    words = _short({entry.number: entry.name for entry in found if not entry.plain})
    colours = {words[entry.number]: entry.colour for entry in found if not entry.plain}
    return with_legend(draw(enlarged(image), labels, words, colours, REST_COLOUR, across), found)


def _short(words: dict[int, str]) -> dict[int, str]:
    """Words as they are written on a picture: cut, where they stay different from each other."""
    short = {number: word if len(word) <= _WORD else word[: _WORD - 1] + "…" for number, word in words.items()}
    often = Counter(short.values())
    return {number: short[number] if often[short[number]] == 1 else word for number, word in words.items()}


def enlarged(image: Pixels) -> Pixels:
    """(H, W, 3) -> (k H, k W, 3), interpolated; k is 1 for all but small pictures."""
    factor = min(-(-_LEAST_SIDE // min(image.shape[:2])), max(1, _MOST_SIDE // max(image.shape[:2])))
    if factor <= 1:
        return image
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def with_legend(picture: Pixels, found: Sequence[Entry]) -> Pixels:
    """The picture above a panel: the classes that are on it, the largest first, each with colour and share."""
    shown = sorted((entry for entry in found if entry.pixels), key=lambda entry: (-entry.pixels, entry.number))
    lines = [(entry.name, entry.colour, entry.share) for entry in shown[:MOST_LINES]]
    covered = sum(entry.share for entry in shown)
    if covered < 1 - 1e-9 and not any(entry.plain for entry in shown):
        lines.append(("no class", REST_COLOUR, 1 - covered))
    rest = _rest(len(shown) - len(shown[:MOST_LINES]), [entry.name for entry in found if not entry.pixels])
    panel = _panel(max(picture.shape[1], _LEAST_SIDE), lines, rest)
    sheet = Image.new("RGB", (panel.width, picture.shape[0] + panel.height), PAPER)
    sheet.paste(Image.fromarray(picture), ((panel.width - picture.shape[1]) // 2, 0))
    sheet.paste(panel, (0, picture.shape[0]))
    return np.asarray(sheet)


def _rest(more: int, absent: Sequence[str]) -> str:
    which = ", ".join(absent) if len(absent) <= _MOST_ABSENT else f"{len(absent)} of the classes"
    return "; ".join(([f"{more} more"] if more else []) + ([f"not found: {which}"] if absent else []))


def _panel(width: int, lines: Sequence[tuple[str, RGB, float]], rest: str) -> Image.Image:
    """Lines column by column: swatch, name, share."""
    high = max(_LEAST_LETTERS, round(width * _LETTERS))
    gap, step = round(high * 0.8), round(high * 1.6)
    columns = max(1, min(len(lines), (width - gap) // (_COLUMN * high)))
    rows, wide = -(-len(lines) // columns), min((width - gap) // columns, _MOST_COLUMN * high)
    panel = Image.new("RGB", (width, rows * step + (step if rest else 0) + 2 * gap), PAPER)
    pen = ImageDraw.Draw(panel)
    for number, (name, fill, share) in enumerate(lines):
        left, top = gap + number // rows * wide, gap + number % rows * step
        pen.rectangle((left, top, left + round(1.4 * high), top + high), fill, LINE)
        right, text = left + wide - gap, f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
        pen.text((right, top + high), text, MUTED, _font(high), "rs")
        start = left + 2 * high
        room = right - start - _font(high).getlength(text) - high / 2
        pen.text((start, top + high), cut(name, room, high), INK, _font(high), "ls")
    if rest:
        pen.text((gap, gap + rows * step + high), cut(rest, width - 2 * gap, high), MUTED, _font(high), "ls")
    return panel


def cut(text: str, room: float, height: int) -> str:
    """A text, shortened where it would be wider than ``room`` pixels."""
    font = _font(height)
    while font.getlength(text) > room and len(text) > 1:
        text = text.removesuffix("…")[:-1] + "…"
    return text


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)
