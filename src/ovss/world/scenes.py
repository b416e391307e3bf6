"""Procedural scenes: a description without resolution, and a renderer that shows any part of it at any size.

Lengths are in units of the scene's short side, origin top left, x right, y down. A scene depends on its own seed only,
never on the scenes drawn before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ovss.config.world import SceneStyle
from ovss.world import classes as c
from ovss.world.palettes import SCHEMES, colour_table
from ovss.world.sprites import SPRITE, sprite_bank
from ovss.world.textures import TEXELS, TILE, texture_bank

Rng = np.random.Generator
Axis = NDArray[np.float32]
Sheet = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""Part of a scene: left, top, width, height in short sides."""


@dataclass(frozen=True)
class Banks:
    """The drawings shared by all scenes of a world."""

    textures: NDArray[np.uint8]
    sprites: NDArray[np.uint8]
    grain: NDArray[np.float32]


@lru_cache(maxsize=2)
def load_banks(seed: int, variants: int) -> Banks:
    """Textures, sprites and film grain of the world with this seed."""
    grain = np.random.default_rng([seed, 3]).standard_normal((512, 512, 3), np.float32)
    return Banks(texture_bank(seed, max(4, variants // 4)), sprite_bank(seed, variants), grain)


@dataclass(frozen=True)
class Ground:
    """One stuff region: class, tile, its scale and offset in texels, and its upper edge (place, amplitude, waves)."""

    index: int
    variant: int
    scale: float
    offset: tuple[float, float]
    edge: tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """One object: class, sprite, box and colours."""

    index: int
    variant: int
    x: float
    y: float
    size: float
    aspect: float


@dataclass(frozen=True)
class Scene:
    """Everything that ``render`` needs; ``tables`` are the colours of grounds, then things: uint8 (n, 256, RGBX)."""

    width: float
    height: float
    grounds: tuple[Ground, ...]
    things: tuple[Thing, ...]
    tables: NDArray[np.uint8]
    shade: tuple[float, float, float]
    grain: float
    seed: int


@dataclass(frozen=True)
class View:
    """A rendered part: image uint8 (h, w, 3), label uint8 (h, w) of world classes, instance uint8 (h, w), 0 = stuff."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    instance: NDArray[np.uint8]


def pick(rng: Rng, weights: NDArray[np.float64]) -> int:
    """An index drawn with cumulative ``weights`` ending in 1."""
    return int(np.searchsorted(weights, rng.random(), side="right"))


def cumulative(weights: list[float]) -> NDArray[np.float64]:
    """Weights as a running total that ends in 1."""
    total = np.cumsum(np.asarray(weights, np.float64))
    return np.asarray(total / total[-1])


_LAYOUTS = {
    kind: (tuple(names for names, _ in table), cumulative([weight for _, weight in table]))
    for kind, table in (("any", c.LAYOUTS), ("street", c.STREETS))
}
_FREE = {"any": c.THING_WEIGHTS, "street": c.STREET_THINGS}


@lru_cache(maxsize=256)
def _candidates(kind: str, grounds: tuple[str, ...]) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Things that belong on one of ``grounds`` (all things if none does) and their running weights."""
    weights = _FREE[kind]
    fitting = [name for name in weights if not grounds or set(grounds) & set(c.HABITAT[name])] or list(weights)
    return tuple(c.INDEX[name] for name in fitting), cumulative([weights[name] for name in fitting])


def _grounds(rng: Rng, names: tuple[str, ...], height: float, variants: int) -> tuple[Ground, ...]:
    edges = np.sort(rng.uniform(0.18, 0.85, len(names) - 1)) * height
    draws = rng.random((len(names), 7))
    return tuple(
        Ground(
            c.INDEX[name],
            int(r[0] * variants),
            float(0.75 + 0.6 * r[1]),
            (float(r[2] * TILE), float(r[3] * TILE)),
            (float(edges[k - 1]) if k else 0.0, 0.01 + 0.05 * float(r[4]), 0.3 + 1.5 * float(r[5]), 6.28 * float(r[6])),
        )
        for k, (name, r) in enumerate(zip(names, draws, strict=True))
    )


def _things(
    rng: Rng, style: SceneStyle, names: tuple[str, ...], width: float, height: float, variants: int
) -> list[Thing]:
    count = pick(rng, cumulative(style.things)) if len(style.things) > 1 else 0
    placed: list[Thing] = []
    for k in range(count):
        at_home = rng.random() < style.habitat
        indices, weights = _candidates(style.kind, names if at_home else ())
        index = indices[pick(rng, weights)]
        r = rng.random(6)
        low, high = style.sizes
        size = low * (high / low) ** float(r[0]) * (style.main if k == count - 1 else 1.0)
        spread = 1.0 - (style.centred if k == count - 1 else 0.35 * style.centred)
        x = width * (0.5 + spread * (float(r[1]) - 0.5) * 0.95)
        y = height * (0.5 + spread * (float(r[2]) - 0.5) * 0.85)
        placed.append(Thing(index, int(r[3] * variants), x, y, size, 0.85 + 0.3 * float(r[4])))
    return placed


def _colours(rng: Rng, style: SceneStyle, indices: list[int]) -> NDArray[np.uint8]:
    gain, tint = np.float32(rng.uniform(*style.brightness)), rng.normal(0.0, style.tint, 3).astype(np.float32)
    light = gain * (1.0 + tint)
    tables = np.zeros((len(indices), 256, 4), np.uint8)
    for k, index in enumerate(indices):
        odd = rng.random() < style.odd_colours
        schemes = SCHEMES[int(rng.integers(len(SCHEMES))) if odd else index][: style.schemes]
        noise = rng.standard_normal((3, 2, 3), np.float32) * np.float32(style.colour_noise)
        tables[k, :, :3] = colour_table(schemes[int(rng.integers(len(schemes)))] + noise, light)
    return tables


def sample_scene(rng: Rng, style: SceneStyle, banks: Banks, aspect: float = 1.0) -> Scene:
    """Draw a scene description; ``aspect`` = width / height."""
    width, height = max(aspect, 1.0), max(1.0 / aspect, 1.0)
    layouts, weights = _LAYOUTS[style.kind]
    names = layouts[pick(rng, weights)]
    grounds = _grounds(rng, names, height, banks.textures.shape[1])
    things = sorted(_things(rng, style, names, width, height, banks.sprites.shape[1]), key=lambda t: t.size)
    tables = _colours(rng, style, [g.index for g in grounds] + [t.index for t in things])
    angle, slope = rng.random() * 2 * np.pi, rng.random() * style.shading
    shade = (float(slope * np.cos(angle)), float(slope * np.sin(angle)), 1.0)
    grain = float(rng.uniform(*style.grain))
    return Scene(width, height, grounds, tuple(things), tables, shade, grain, int(rng.integers(2**31)))


def _paint_ground(ground: Ground, banks: Banks, x: Axis, y: Axis) -> Sheet:
    step = TEXELS * ground.scale
    u = (x * step + ground.offset[0]).astype(np.int64) % TILE
    v = (y * step + ground.offset[1]).astype(np.int64) % TILE
    tile = banks.textures[ground.index, ground.variant]
    return np.asarray(tile[v[:, None], u[None, :]])


def _paint_thing(thing: Thing, banks: Banks, x: Axis, y: Axis, pattern: Sheet, material: Sheet, number: int) -> None:
    across, down = thing.size * thing.aspect, thing.size
    x0, x1 = np.searchsorted(x, (thing.x - across / 2, thing.x + across / 2))
    y0, y1 = np.searchsorted(y, (thing.y - down / 2, thing.y + down / 2))
    if x1 <= x0 or y1 <= y0:
        return
    u = ((x[x0:x1] - thing.x) / across * SPRITE + SPRITE / 2).astype(np.int64).clip(0, SPRITE - 1)
    v = ((y[y0:y1] - thing.y) / down * SPRITE + SPRITE / 2).astype(np.int64).clip(0, SPRITE - 1)
    part = banks.sprites[thing.index - len(c.STUFF), thing.variant][v[:, None], u[None, :]]
    opaque = part > 0
    np.copyto(pattern[y0:y1, x0:x1], part, where=opaque)
    np.copyto(material[y0:y1, x0:x1], np.uint8(number), where=opaque)


def render(scene: Scene, banks: Banks, shape: tuple[int, int], box: Box | None = None) -> View:
    """Show ``box`` of the scene (all of it by default) as ``shape`` = (rows, columns) pixels."""
    left, top, width, height = box or (0.0, 0.0, scene.width, scene.height)
    rows, columns = shape
    x = (left + (np.arange(columns, dtype=np.float32) + 0.5) * (width / columns)).astype(np.float32)
    y = (top + (np.arange(rows, dtype=np.float32) + 0.5) * (height / rows)).astype(np.float32)
    pattern = _paint_ground(scene.grounds[0], banks, x, y)
    material = np.zeros(shape, np.uint8)
    for k, ground in enumerate(scene.grounds[1:], start=1):
        place, amplitude, waves, phase = ground.edge
        edge = place + amplitude * np.sin(2 * np.pi * waves * x + phase)
        below = y[:, None] > edge[None, :]
        np.copyto(pattern, _paint_ground(ground, banks, x, y), where=below)
        np.copyto(material, np.uint8(k), where=below)
    first = len(scene.grounds)
    for k, thing in enumerate(scene.things):
        _paint_thing(thing, banks, x, y, pattern, material, first + k)
    names = np.array([g.index for g in scene.grounds] + [t.index for t in scene.things], np.uint8)
    numbers = np.maximum(np.arange(len(names)) - first + 1, 0).astype(np.uint8)
    table = scene.tables.reshape(-1).view(np.uint32)
    colours = table[np.left_shift(material, 8, dtype=np.intp) + pattern].view(np.uint8)
    colours = colours.reshape(rows, columns, 4)[:, :, :3]
    return View(_develop(colours, scene, banks, x, y), names[material], numbers[material])


def _develop(colours: Sheet, scene: Scene, banks: Banks, x: Axis, y: Axis) -> Sheet:
    """Light falling off to one side, and film grain (fixed to the output pixels)."""
    sx, sy, base = scene.shade
    light = base + sx * (x / scene.width - 0.5)[None, :] + sy * (y / scene.height - 0.5)[:, None]
    rows, columns = light.shape
    i, j = scene.seed % (512 - min(rows, 511)), (scene.seed >> 10) % (512 - min(columns, 511))
    grain = banks.grain[i : i + rows, j : j + columns] * np.float32(scene.grain)
    image = colours.astype(np.float32) * light[:, :, None].astype(np.float32)
    image += grain
    np.maximum(image, np.float32(0), out=image)
    np.minimum(image, np.float32(255), out=image)
    return image.astype(np.uint8)
