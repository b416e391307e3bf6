"""Stuff textures: periodic tiles of pattern values, coloured only when a scene is rendered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ovss.world.classes import STUFF
from ovss.world.shapes import Field, value_noise

TILE = 256
"""Side of a tile in texels; a scene's short side shows ``TEXELS`` of them at scale 1."""
TEXELS = 128

Painter = Callable[[np.random.Generator], Field]


def _axes() -> tuple[Field, Field]:
    axis = np.arange(TILE, dtype=np.float32) * (2 * np.pi / TILE)
    return axis[None, :], axis[:, None]


def _sky(rng: np.random.Generator) -> Field:
    """Soft clouds, no fine detail."""
    cloud = 0.6 * value_noise(rng, TILE, 5, 3) + 0.4 * value_noise(rng, TILE, 11, 6)
    return np.clip((cloud - 0.35) * 2.2, 0, 1)


def _grass(rng: np.random.Generator) -> Field:
    """Fine blades: noise much finer across than along."""
    return np.clip(0.7 * value_noise(rng, TILE, 36, 128) + 0.5 * value_noise(rng, TILE, 16, 64) - 0.1, 0, 1)


def _sand(rng: np.random.Generator) -> Field:
    """Grains over slanted ripples."""
    x, y = _axes()
    ripple = 0.5 + 0.5 * np.sin(9 * y + 16 * x + 3 * value_noise(rng, TILE, 4, 4))
    return np.clip(0.45 * value_noise(rng, TILE, 128, 128) + 0.55 * ripple, 0, 1)


def _water(rng: np.random.Generator) -> Field:
    """Flat waves: bright crests longer than high."""
    x, y = _axes()
    bend = 3.5 * value_noise(rng, TILE, 10, 7)
    crest = np.sin(24 * y + bend + np.sin(3 * x))
    return np.clip(0.35 + 0.55 * crest * value_noise(rng, TILE, 24, 10) + 0.2 * value_noise(rng, TILE, 64, 16), 0, 1)


def _snow(rng: np.random.Generator) -> Field:
    """Nearly even, with soft hollows and a few glints."""
    glint = value_noise(rng, TILE, 100, 100) > 0.93
    return np.asarray(np.clip(0.55 + 0.5 * (value_noise(rng, TILE, 9, 9) - 0.5) + 0.45 * glint, 0, 1), np.float32)


def _wall(rng: np.random.Generator) -> Field:
    """Bricks: staggered courses with mortar lines, each brick a little different."""
    height, width = 16, 32
    v, u = np.arange(TILE)[:, None], np.arange(TILE)[None, :]
    course = v // height
    shifted = (u + (course % 2) * (width // 2)) % TILE
    tone = rng.random((TILE // height, TILE // width)).astype(np.float32)[course, shifted // width]
    mortar = (v % height < 3) | (shifted % width < 3)
    return np.where(mortar, 1.0, 0.05 + 0.45 * tone + 0.1 * value_noise(rng, TILE, 90, 90)).astype(np.float32)


def _wood(rng: np.random.Generator) -> Field:
    """Upright planks with wavy grain and dark gaps."""
    plank = 32
    u = np.arange(TILE)[None, :]
    tone = rng.random(TILE // plank).astype(np.float32)[u // plank]
    grain = np.sin(2 * np.pi * (u / 7 + 3.0 * value_noise(rng, TILE, 4, 16)))
    wood = 0.45 + 0.25 * grain + 0.4 * (tone - 0.5) + 0.1 * value_noise(rng, TILE, 16, 128)
    return np.clip(np.where(u % plank < 3, 0.0, wood), 0, 1).astype(np.float32)


def _road(rng: np.random.Generator) -> Field:
    """Asphalt specks with a crack or a painted dash here and there."""
    v, u = np.arange(TILE)[:, None], np.arange(TILE)[None, :]
    specks = 0.15 + 0.4 * (value_noise(rng, TILE, 100, 100) > 0.68) + 0.15 * value_noise(rng, TILE, 40, 40)
    dash = (np.abs(v - 60) < 5) & (u % 64 < 36)
    return np.where(dash, 1.0, specks).astype(np.float32)


PAINTERS: dict[str, Painter] = {
    "sky": _sky,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "snow": _snow,
    "wall": _wall,
    "wood": _wood,
    "road": _road,
}


def texture_bank(seed: int, variants: int) -> NDArray[np.uint8]:
    """All stuff tiles, uint8 (8 classes, variants, TILE, TILE); a value is a place between a material's two colours."""
    bank = np.empty((len(STUFF), variants, TILE, TILE), np.uint8)
    for i, name in enumerate(STUFF):
        for k in range(variants):
            tile = PAINTERS[name](np.random.default_rng([seed, 1, i, k]))
            bank[i, k] = np.rint(1.0 + 126.0 * tile)
    return bank
