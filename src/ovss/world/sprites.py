"""Things: one drawing per class, varied by a random generator, as sheets of pattern values (0 = transparent)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ovss.world.classes import THINGS
from ovss.world.shapes import Brush

SPRITE = 96
"""Side of a sprite sheet in pixels."""


def _person(b: Brush) -> None:
    lean, waist = b.jitter(0, 0.06), b.jitter(0.1, 0.05)
    for side in (-1, 1):
        b.fill(b.line(side * 0.1, waist, side * b.jitter(0.2, 0.1), 0.95, 0.11), 0.4, 2)
        b.fill(b.line(lean + side * 0.2, -0.4, side * b.jitter(0.48, 0.12), b.jitter(0.0, 0.3), 0.08), 0.2, 1)
    b.fill(b.box(lean - 0.26, -0.52, lean + 0.26, waist + 0.1), b.stripes(b.jitter(7, 1)), 0)
    b.fill(b.ellipse(lean, -0.74, 0.18, 0.21), b.shade(lean, -0.7, 0.6), 1)


def _legs(b: Brush, xs: tuple[float, ...], top: float, thick: float, material: int = 0, tone: float = 0.3) -> None:
    for x in xs:
        b.fill(b.line(x, top, x + b.jitter(0, 0.06), 0.93, thick), tone, material)


def _dog(b: Brush) -> None:
    body = b.noise(4, 6)
    _legs(b, (-0.5, -0.3, 0.3, 0.48), 0.3, 0.08, 0, 0.2)
    b.fill(b.line(-0.6, 0.1, -0.9, b.jitter(-0.35, 0.2), 0.06), 0.2, 0)
    b.fill(b.ellipse(-0.05, 0.2, 0.62, 0.27), body, 0)
    b.fill(b.ellipse(0.62, -0.15, 0.24, 0.24), body, 0)
    b.fill(b.ellipse(0.84, -0.06, 0.15, 0.11), 0.3, 0)
    b.fill(b.ellipse(0.5, -0.2, 0.1, 0.26), 0.5, 1)
    b.fill(b.ellipse(0.94, -0.1, 0.05, 0.05), 0.0, 2)


def _cat(b: Brush) -> None:
    stripes = b.stripes(b.jitter(8, 1), np.pi / 2)
    b.fill(b.line(0.35, 0.8, b.jitter(0.8, 0.1), b.jitter(0.1, 0.3), 0.07), stripes, 0)
    b.fill(b.ellipse(0.0, 0.45, 0.42, 0.52), stripes, 0)
    for side in (-1, 1):
        b.fill(b.polygon((side * 0.4 - 0.02, -0.98), (side * 0.22 + 0.2, -0.4), (side * 0.22 - 0.2, -0.4)), stripes, 0)
    b.fill(b.ellipse(0.0, -0.35, 0.42, 0.36), stripes, 0)
    for side in (-1, 1):
        b.fill(b.ellipse(side * 0.17, -0.42, 0.07, 0.07), 0.6, 2)
    b.fill(b.ellipse(0.0, -0.22, 0.08, 0.06), 0.2, 1)


def _sheep(b: Brush) -> None:
    _legs(b, (-0.4, -0.2, 0.25, 0.42), 0.4, 0.06, 2)
    b.fill(b.lobes(-0.05, 0.1, 0.72, 0.52, 12, 0.18), b.bumps(b.jitter(6, 0.6)), 0)
    b.fill(b.ellipse(0.7, -0.12, 0.19, 0.27), 0.4, 1)
    b.fill(b.ellipse(0.52, -0.26, 0.14, 0.07), 0.4, 1)


def _cow(b: Brush) -> None:
    patches = b.noise(5, 12)
    _legs(b, (-0.6, -0.4, 0.25, 0.42), 0.3, 0.09)
    b.fill(b.box(-0.72, -0.28, 0.5, 0.42), patches, 0)
    b.fill(b.ellipse(-0.25, 0.46, 0.14, 0.12), 0.3, 1)
    b.fill(b.box(0.42, -0.55, 0.86, -0.02), patches, 0)
    b.fill(b.box(0.7, -0.22, 0.95, 0.04), 0.4, 1)
    for x in (0.46, 0.78):
        b.fill(b.line(x, -0.55, x + b.jitter(0, 0.08), -0.82, 0.05), 0.5, 2)


def _horse(b: Brush) -> None:
    hair = b.stripes(b.jitter(11, 1), 0.25, 1.2)
    _legs(b, (-0.5, -0.32, 0.22, 0.38), 0.1, 0.06)
    b.fill(b.line(-0.62, -0.1, -0.85, b.jitter(0.5, 0.15), 0.08), 0.4, 1)
    b.fill(b.ellipse(-0.1, -0.02, 0.58, 0.25), hair, 0)
    b.fill(b.line(0.4, -0.1, 0.62, -0.72, 0.15), hair, 0)
    b.fill(b.line(0.6, -0.74, 0.92, -0.5, 0.11), hair, 0)
    b.fill(b.line(0.3, -0.25, 0.5, -0.85, 0.07), 0.5, 1)


def _bird(b: Brush) -> None:
    feathers = b.stripes(b.jitter(9, 1), np.pi / 4)
    lift = b.jitter(-0.55, 0.25)
    b.fill(b.polygon((-0.95, -0.15), (-0.3, -0.05), (-0.4, 0.25)), 0.3, 0)
    b.fill(b.ellipse(-0.05, 0.12, 0.5, 0.27), b.bumps(7), 0)
    b.fill(b.ellipse(0.45, -0.1, 0.2, 0.19), 0.7, 0)
    b.fill(b.polygon((0.6, -0.18), (0.98, -0.04), (0.6, 0.04)), 0.5, 1)
    b.fill(b.polygon((-0.55, lift - 0.3), (0.25, 0.02), (-0.25, 0.2)), feathers, 0)
    b.fill(b.ellipse(0.5, -0.14, 0.05, 0.05), 0.0, 2)


def _fish(b: Brush) -> None:
    scales = b.bumps(b.jitter(7.5, 1))
    b.fill(b.polygon((-0.95, -0.45), (-0.45, 0.0), (-0.95, 0.45)), b.stripes(12, 0.0), 1)
    b.fill(b.polygon((-0.2, -0.3), (0.1, b.jitter(-0.62, 0.1)), (0.35, -0.25)), 0.4, 1)
    b.fill(b.ellipse(0.12, 0.0, 0.68, 0.38), scales, 0)
    b.fill(b.ellipse(0.56, -0.08, 0.09, 0.09), 1.0, 2)
    b.fill(b.ellipse(0.57, -0.08, 0.05, 0.05), 0.0, 2)


def _wheels(b: Brush, xs: tuple[float, ...], y: float, radius: float) -> None:
    for x in xs:
        b.fill(b.ellipse(x, y, radius, radius), 0.0, 2)
        b.fill(b.ellipse(x, y, radius * 0.5, radius * 0.5), 1.0, 2)


def _car(b: Brush) -> None:
    roof = b.jitter(-0.42, 0.06)
    b.fill(b.polygon((-0.45, roof), (0.3, roof), (0.62, 0.08), (-0.72, 0.08)), 0.25, 0)
    top = roof + 0.09
    b.fill(b.polygon((-0.38, top), (-0.06, top), (-0.06, 0.0), (-0.56, 0.0)), b.shade(-0.5, -0.4, 0.8), 1)
    b.fill(b.polygon((0.02, top), (0.26, top), (0.48, 0.0), (0.02, 0.0)), b.shade(0.0, -0.4, 0.8), 1)
    b.fill(b.box(-0.95, 0.02, 0.95, 0.46), 1.0 - (b.y + 0.05) * 2, 0)
    _wheels(b, (-0.52, 0.52), 0.48, 0.22)


def _bus(b: Brush) -> None:
    b.fill(b.box(-0.95, -0.62, 0.95, 0.55), b.stripes(3, 0.0, 8), 0)
    for x in np.arange(-0.86, 0.7, 0.36):
        b.fill(b.box(x, -0.48, x + 0.27, -0.06), b.shade(x, -0.5, 0.9), 1)
    b.fill(b.box(0.64, 0.02, 0.86, 0.5), 0.4, 1)
    _wheels(b, (-0.55, 0.4), 0.58, 0.19)


def _boat(b: Brush) -> None:
    mast = b.jitter(0.0, 0.12)
    b.fill(b.line(mast, -0.95, mast, 0.4, 0.04), 0.3, 2)
    b.fill(b.polygon((mast + 0.05, -0.92), (mast + 0.7, 0.22), (mast + 0.05, 0.22)), b.stripes(4, 0.0), 1)
    b.fill(b.polygon((mast - 0.05, -0.7), (mast - 0.05, 0.22), (mast - 0.55, 0.22)), 0.8, 1)
    b.fill(b.polygon((-0.95, 0.34), (0.95, 0.34), (0.6, 0.85), (-0.65, 0.85)), b.stripes(b.jitter(9, 1)), 0)


def _bicycle(b: Brush) -> None:
    for x in (-0.52, 0.52):
        b.fill(b.ring(x, 0.38, 0.38, 0.06), 0.2, 1)
        for angle in (0.0, np.pi / 3, 2 * np.pi / 3):
            dx, dy = 0.36 * np.cos(angle), 0.36 * np.sin(angle)
            b.fill(b.line(x - dx, 0.38 - dy, x + dx, 0.38 + dy, 0.022), 0.9, 1)
    corners = ((-0.52, 0.38), (-0.2, -0.22), (0.36, -0.22), (-0.02, 0.38))
    for p, q in ((0, 1), (1, 2), (2, 3), (3, 1), (0, 3)):
        b.fill(b.line(*corners[p], *corners[q], 0.055), 0.5, 0)
    b.fill(b.line(0.52, 0.38, 0.32, -0.5, 0.055), 0.5, 0)
    b.fill(b.line(0.18, -0.52, 0.46, -0.5, 0.06), 0.3, 2)
    b.fill(b.line(-0.36, -0.32, -0.08, -0.32, 0.07), 0.3, 2)


def _tree(b: Brush) -> None:
    b.fill(b.box(-0.12, 0.1, 0.12, 0.97), b.stripes(14, np.pi / 2), 1)
    b.fill(b.lobes(0, -0.32, b.jitter(0.7, 0.12), 0.62, 9, 0.22), b.noise(16, 2.2), 0)


def _bush(b: Brush) -> None:
    low = b.lobes(0, 0.35, 0.93, b.jitter(0.55, 0.08), 14, 0.25) & (b.y < 0.75)
    b.fill(low, b.stripes(10, 0.8) * b.stripes(10, -0.8), 0)
    b.fill(low & (b.dots(5.5, 0.22) > 0.5), 0.4, 1)


def _house(b: Brush) -> None:
    eave = b.jitter(-0.15, 0.08)
    b.fill(b.box(-0.72, eave, 0.72, 0.92), b.stripes(b.jitter(12, 1), 0.0, 1.5), 0)
    b.fill(b.polygon((0.0, -0.92), (0.95, eave), (-0.95, eave)), b.grid(7, 0.35), 1)
    b.fill(b.box(-0.14, 0.38, 0.14, 0.92), 0.1, 2)
    for x in (-0.55, 0.28):
        b.fill(b.box(x, eave + 0.2, x + 0.27, eave + 0.48), b.grid(7.4, 0.25), 2)


def _chair(b: Brush) -> None:
    for x in (-0.45, 0.4):
        b.fill(b.box(x, 0.2, x + 0.1, 0.95), 0.2, 0)
    b.fill(b.box(-0.5, -0.95, -0.34, 0.3), 0.4, 0)
    b.fill(b.box(0.36, -0.95, 0.52, 0.3), 0.4, 0)
    for y in (-0.88, -0.6, -0.32):
        b.fill(b.box(-0.45, y, 0.45, y + 0.14), 0.7, 0)
    b.fill(b.box(-0.56, 0.08, 0.58, 0.28), b.stripes(14, np.pi / 2), 1)


def _apple(b: Brush) -> None:
    body = b.ellipse(-0.22, 0.15, 0.58, 0.66) | b.ellipse(0.22, 0.15, 0.58, 0.66)
    b.fill(b.line(0, -0.4, b.jitter(0.06, 0.08), -0.85, 0.06), 0.3, 2)
    b.fill(body, b.shade(-0.3, -0.15, 1.0), 0)
    b.fill(b.ellipse(0.3, -0.68, 0.26, 0.12), 0.5, 1)


def _balloon(b: Brush) -> None:
    b.fill(b.line(0, 0.4, b.jitter(0.0, 0.2), 0.97, 0.03), 0.5, 2)
    panels = np.clip(0.5 + 3 * np.sin(np.arctan2(b.x, 1.3 - b.y) * 22), 0, 1)
    b.fill(b.ellipse(0, -0.28, 0.58, 0.66), panels, 0)
    b.fill(b.polygon((0.0, 0.34), (0.1, 0.5), (-0.1, 0.5)), 0.3, 0)
    b.fill(b.ellipse(-0.25, -0.55, 0.1, 0.16), 0.9, 1)


def _mushroom(b: Brush) -> None:
    b.fill(b.box(-0.2, 0.0, 0.2, 0.92), b.stripes(12, np.pi / 2, 1.0), 1)
    cap = b.ellipse(0, 0.12, 0.88, b.jitter(0.95, 0.1)) & (b.y < 0.12)
    b.fill(cap, b.dots(b.jitter(2.8, 0.3), 0.3), 0)
    b.fill(b.box(-0.82, 0.08, 0.82, 0.16), 0.5, 2)


def _flower(b: Brush) -> None:
    b.fill(b.line(0, 0.0, b.jitter(0, 0.12), 0.97, 0.06), 0.4, 2)
    b.fill(b.ellipse(0.28, 0.62, 0.28, 0.12), 0.6, 2)
    angle, radius = np.arctan2(b.y + 0.3, b.x), np.hypot(b.x, b.y + 0.3)
    petals = int(b.rng.integers(5, 8))
    wave = np.abs(np.cos(angle * petals / 2 + b.rng.random()))
    b.fill(radius < 0.28 + 0.38 * wave, np.clip(1.6 * wave - 0.2, 0, 1), 0)
    b.fill(radius < 0.2, b.dots(14, 0.3), 1)


PAINTERS: dict[str, Callable[[Brush], None]] = {
    "person": _person, "dog": _dog, "cat": _cat, "sheep": _sheep, "cow": _cow, "horse": _horse, "bird": _bird,
    "fish": _fish, "car": _car, "bus": _bus, "boat": _boat, "bicycle": _bicycle, "tree": _tree, "bush": _bush,
    "house": _house, "chair": _chair, "apple": _apple, "balloon": _balloon, "mushroom": _mushroom, "flower": _flower,
}  # fmt: skip


def sprite_bank(seed: int, variants: int) -> NDArray[np.uint8]:
    """All sprites, uint8 (20 classes, variants, SPRITE, SPRITE); odd variants are mirrored."""
    bank = np.zeros((len(THINGS), variants, SPRITE, SPRITE), np.uint8)
    for i, name in enumerate(THINGS):
        for k in range(variants):
            brush = Brush(SPRITE, np.random.default_rng([seed, 2, i, k]))
            PAINTERS[name](brush)
            bank[i, k] = brush.values[:, ::-1] if k % 2 else brush.values
    return bank
