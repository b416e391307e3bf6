"""A picture with its segments tinted and each one's word written on it, as in TAG's figures.

Pure functions: the same picture, map and words give the same pixels, whatever else is drawn before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ovss.report.palette import colour

RGB = tuple[int, int, int]
NONE = -1
"""In a map of words: no word here."""

_TINT, _OWN_COLOUR = 0.5, 0.25
PLAIN: RGB = (128, 132, 138)
"""The tint of what has no word, where nothing else is said."""
_INK, _OUTLINE = (255, 255, 255), (16, 20, 26)
_WORK_SIDE = 448
# Font heights as shares of a picture's short side, largest first; none is below 11 pixels.
_HEIGHTS = (0.095, 0.08, 0.066, 0.055, 0.046)
_LEAST_HEIGHT = 11
# Regions below these shares of the picture get no word: the largest of a word, and its further ones.
_LEAST_FIRST, _LEAST_MORE = 0.0015, 0.03


@dataclass(frozen=True)
class Label:
    """A word on a picture: font height and the box (left, top, right, bottom) of its letters, in pixels.

    ``inside``: whether the whole box lies on its region.
    """

    text: str
    height: int
    box: tuple[int, int, int, int]
    inside: bool


def word_colours(words: Sequence[str]) -> dict[str, RGB]:
    """Colours by word, in the order of the words; pictures that share a list show a word in one colour."""
    return {word: colour(i) for i, word in enumerate(dict.fromkeys(words))}


def draw(
    image: npt.NDArray[np.uint8],
    clusters: npt.NDArray[np.uint8],
    words: Mapping[int, str],
    colours: Mapping[str, RGB] | None = None,
    rest: RGB = PLAIN,
    across: bool = True,
) -> npt.NDArray[np.uint8]:
    """Tint the segments of a picture and write their words on them.

    Args:
        image: (H, W, 3) uint8 RGB.
        clusters: (h, w) uint8, segment of each pixel, brought to the picture's size by nearest neighbour.
        words: word by segment. Segments of one word are one region.
        colours: by word (default: ``word_colours`` of the words, largest first).
        rest: tint of segments without a word.
        across: also write words that fit on none of their regions, over a border.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    size = (image.shape[0], image.shape[1])
    names, coarse = word_map(clusters, words)
    wanted = word_colours(names) if colours is None else colours
    table = np.array([wanted[name] for name in names] + [rest], np.uint8)
    fine = nearest(coarse, size)
    mixed = (1 - _TINT) * _faded(image) + _TINT * table[fine]
    edge = _edges(fine, max(1, round(min(size) / 400)))
    mixed[edge] = 0.35 * mixed[edge]
    picture = Image.fromarray(np.rint(mixed).astype(np.uint8))
    _write(picture, [label for label in place_labels(coarse, names, size) if across or label.inside])
    return np.asarray(picture)


def _faded(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(H, W, 3) float64: little colour of its own and no deep shadows, so that the tints can be told apart."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return 44 + 0.8 * (_OWN_COLOUR * image + (1 - _OWN_COLOUR) * grey[..., None])


def word_map(clusters: npt.NDArray[np.uint8], words: Mapping[int, str]) -> tuple[list[str], npt.NDArray[np.int16]]:
    """The words that have pixels, largest area first (ties by name), and (h, w) int16 which of them each pixel has."""
    values, counts = np.unique(clusters, return_counts=True)
    areas: dict[str, int] = {}
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if value in words:
            areas[words[value]] = areas.get(words[value], 0) + count
    names = sorted(areas, key=lambda name: (-areas[name], name))
    table = np.full(int(values.max()) + 1, NONE, np.int16)
    for value in values.tolist():
        if value in words:
            table[value] = names.index(words[value])
    return names, table[clusters]


def nearest(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """(h, w) -> (H, W) by nearest neighbour: source index floor(target * h / H), as predictions are resized."""
    rows, columns = (np.arange(new) * old // new for old, new in zip(values.shape, size, strict=True))
    return values[rows[:, None], columns]


def _edges(fine: npt.NDArray[np.int16], width: int) -> npt.NDArray[np.bool_]:
    """(H, W) bool: pixels within ``width`` above or left of another word."""
    edge = np.zeros(fine.shape, bool)
    for step in range(1, width + 1):
        edge[:-step] |= fine[:-step] != fine[step:]
        edge[:, :-step] |= fine[:, :-step] != fine[:, step:]
    return edge


def place_labels(coarse: npt.NDArray[np.int16], names: Sequence[str], size: tuple[int, int]) -> list[Label]:
    """Where to write the words: once on a word's largest region and on each further one that is large and has room.

    A word is written as large as its region allows; where not even the smallest letters fit, across the region's
    border, over as few others as can be.

    Args:
        coarse: (h, w) int16 from ``word_map``.
        names: its words.
        size: (H, W) of the picture.
    """
    ratio = max(1.0, max(size) / _WORK_SIDE)
    shape = (max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio)))
    regions = _regions(nearest(coarse, shape), len(names))
    heights = sorted({max(_LEAST_HEIGHT, round(share * min(size))) for share in _HEIGHTS}, reverse=True)
    taken = np.zeros(shape, bool)
    labels: list[Label] = []
    for fitting in (True, False):  # those that fit first: the others find their place between them
        for word, first, mask in regions:
            if (fitting or first) and not (first and any(label.text == names[word] for label in labels)):
                label = _place(mask, names[word], heights if fitting else heights[-1:], ratio, taken, fitting)
                labels += [label] if label else []
    return [_clamped(label, size) for label in labels]


def _regions(words: npt.NDArray[np.int16], count: int) -> list[tuple[int, bool, npt.NDArray[np.bool_]]]:
    """(word, whether it is the word's largest, mask) of every region to write on, largest first."""
    found = []
    for word in range(count):
        parts, number = ndimage.label(words == word)
        areas = np.bincount(parts.ravel(), minlength=number + 1)[1:]
        order = np.argsort(-areas, kind="stable")
        for rank, part in enumerate(order.tolist()):
            if areas[part] >= (_LEAST_MORE if rank else _LEAST_FIRST) * words.size:
                found.append((-int(areas[part]), word, rank == 0, parts == part + 1))
    found.sort(key=lambda region: region[:2])
    return [region[1:] for region in found]


def _place(
    mask: npt.NDArray[np.bool_], text: str, heights: Sequence[int], ratio: float, taken: npt.NDArray[np.bool_],
    fitting: bool,
) -> Label | None:  # fmt: skip
    """The first height that fits and its place, which is marked in ``taken``; None: it fits nowhere."""
    for height in heights:
        high, wide = (int(np.ceil(side / ratio)) for side in _extent(text, height))
        if high > mask.shape[0] or wide > mask.shape[1]:
            continue
        at = _inside(mask, high, wide, taken) if fitting else _across(mask, high, wide, taken)
        if at is None:
            continue
        top, left = at
        taken[top : top + high, left : left + wide] = True
        box = (left, top, left + wide, top + high)
        return Label(text, height, tuple(round(side * ratio) for side in box), fitting)  # type: ignore[arg-type]
    return None


def _inside(mask: npt.NDArray[np.bool_], high: int, wide: int, taken: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    """Top left corner of the box on the region alone that is nearest to the middle of all such boxes."""
    rows, columns = np.nonzero(_sums(mask & ~taken, high, wide) == high * wide)
    if not rows.size:
        return None
    best = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(rows[best]), int(columns[best])


def _across(mask: npt.NDArray[np.bool_], high: int, wide: int, taken: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Top left corner of the box that covers least of other words, and then most of the region."""
    others, own = _sums(taken, high, wide), _sums(mask, high, wide)
    others[own == 0] = high * wide + 1
    best = np.lexsort((-own.ravel(), others.ravel()))[0]
    top, left = divmod(int(best), own.shape[1])
    return top, left


def _sums(mask: npt.NDArray[np.bool_], high: int, wide: int) -> npt.NDArray[np.int64]:
    """(H - high + 1, W - wide + 1): how many pixels of the mask each box of that size holds."""
    total = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]


def _clamped(label: Label, size: tuple[int, int]) -> Label:
    left, top, right, bottom = label.box
    left, top = min(left, size[1] - (right - left)), min(top, size[0] - (bottom - top))
    return Label(label.text, label.height, (left, top, left + right - label.box[0], top + bottom - label.box[1]),
                 label.inside)  # fmt: skip


@cache
def _font(height: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(height)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType")
    return font


def _stroke(height: int) -> int:
    return max(1, round(height / 10))


def _extent(text: str, height: int) -> tuple[int, int]:
    """(height, width) in pixels of a word with its outline and a little air around it."""
    left, top, right, bottom = _font(height).getbbox(text, stroke_width=_stroke(height), anchor="ls")
    return int(np.ceil(bottom - top)) + 2, int(np.ceil(right - left)) + 2


def _write(picture: Image.Image, labels: Sequence[Label]) -> None:
    pen = ImageDraw.Draw(picture)
    for label in labels:
        font, stroke = _font(label.height), _stroke(label.height)
        left, top, *_ = font.getbbox(label.text, stroke_width=stroke, anchor="ls")
        at = (label.box[0] + 1 - left, label.box[1] + 1 - top)
        pen.text(at, label.text, _INK, font, "ls", stroke_width=stroke, stroke_fill=_OUTLINE)


def css(found: RGB) -> str:
    """A colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*found)
