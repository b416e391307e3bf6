"""Pictures of the world for the report: sprites, textures, scenes with their ground truth."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovss.world.classes import CLASSES, STUFF, THINGS
from ovss.world.palettes import SCHEMES, colour_table
from ovss.world.scenes import Banks, View

Pixels = NDArray[np.uint8]
DAYLIGHT = np.ones(3, np.float32)


def class_palette() -> Pixels:
    """A colour per class for label maps, uint8 (28, 3): hues by the golden ratio, stuff pale and things strong."""
    rows = []
    for i in range(len(CLASSES)):
        stuff = i < len(STUFF)
        rgb = colorsys.hsv_to_rgb(0.618034 * i % 1, 0.35 if stuff else 0.8, 0.75 if stuff else 0.95 - 0.3 * (i % 2))
        rows.append([round(255 * channel) for channel in rgb])
    return np.array(rows, np.uint8)


def _grid(tiles: Sequence[Pixels], columns: int) -> Pixels:
    """Equal tiles (h, w, 3) in reading order; a last short row is filled with white."""
    blank = np.full_like(tiles[0], 255)
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [np.concatenate(padded[k : k + columns], axis=1) for k in range(0, len(padded), columns)]
    return np.concatenate(rows)


def _fit(image: Pixels, side: int) -> Pixels:
    """Centre on a white square."""
    canvas = np.full((side, side, 3), 255, np.uint8)
    scale = max(1, -(-max(image.shape[:2]) // side))
    small = image[::scale, ::scale]
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


def write_sprites(banks: Banks, path: Path, each: int = 4) -> None:
    """A sheet with ``each`` sprites of every thing, one thing a row, two rows side by side."""
    tiles = []
    for i in range(len(THINGS)):
        schemes = SCHEMES[len(STUFF) + i]
        for k in range(each):
            values = banks.sprites[i, k % banks.sprites.shape[1]]
            colours = colour_table(schemes[k % len(schemes)], DAYLIGHT)
            tiles.append(np.where((values > 0)[..., None], colours[values], np.uint8(225)))
    Image.fromarray(_grid(tiles, 2 * each)).save(path)


def write_textures(banks: Banks, path: Path, each: int = 4) -> None:
    """A sheet with ``each`` textures of every stuff class, two classes a row."""
    tiles = []
    for i in range(len(STUFF)):
        for k in range(each):
            colours = colour_table(SCHEMES[i][k % len(SCHEMES[i])], DAYLIGHT)
            tiles.append(colours[banks.textures[i, k % banks.textures.shape[1], :128, :128]])
    Image.fromarray(_grid(tiles, 2 * each)).save(path)


def write_scenes(views: Sequence[View], path: Path, columns: int = 4, side: int = 176) -> None:
    """Images with their ground truth to the right of each."""
    palette = class_palette()
    tiles = [np.concatenate([_fit(v.image, side), _fit(palette[v.label], side)], axis=1) for v in views]
    Image.fromarray(_grid(tiles, columns)).save(path)
