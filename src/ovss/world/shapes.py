"""Masks and surface patterns on the square [-1, 1] x [-1, 1] (y grows downwards), the strokes sprites are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]


class Brush:
    """A size x size sheet of values 0..255 (0 = transparent) with a coordinate grid to draw on.

    A value says which of three materials a pixel has and where it lies between that material's two colours:
    1..127 first material, 128..191 second, 192..255 third.
    """

    STARTS = (1, 128, 192)
    SPANS = (126, 63, 63)

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
        self.x: Field = np.broadcast_to(axis[None, :], (size, size))
        self.y: Field = np.broadcast_to(axis[:, None], (size, size))
        self.values = np.zeros((size, size), np.uint8)
        self.rng = rng

    def jitter(self, centre: float, spread: float) -> float:
        """A number near ``centre``, uniform within +-``spread``."""
        return float(centre + spread * (2.0 * self.rng.random() - 1.0))

    def fill(self, mask: Mask, pattern: Field | float, material: int = 0) -> None:
        """Paint ``pattern`` (0..1, scalar or (size, size)) of a material where ``mask`` holds."""
        level = np.clip(np.asarray(pattern, np.float32), 0.0, 1.0) * self.SPANS[material] + self.STARTS[material]
        np.copyto(self.values, level.astype(np.uint8), where=mask)

    # masks ---------------------------------------------------------------------------------------------------------
    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> Mask:
        """Inside of an ellipse."""
        return np.asarray(((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2 < 1.0)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Mask:
        """Inside of an axis-parallel rectangle."""
        return (self.x >= x0) & (self.x < x1) & (self.y >= y0) & (self.y < y1)

    def line(self, x0: float, y0: float, x1: float, y1: float, thick: float) -> Mask:
        """Points within ``thick`` of a segment."""
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
        return np.asarray((self.x - x0 - along * dx) ** 2 + (self.y - y0 - along * dy) ** 2 < thick * thick)

    def polygon(self, *corners: tuple[float, float]) -> Mask:
        """Inside of a convex polygon given clockwise on the screen."""
        inside = np.ones(self.values.shape, bool)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            inside &= (x1 - x0) * (self.y - y0) - (y1 - y0) * (self.x - x0) >= 0.0
        return inside

    def ring(self, cx: float, cy: float, radius: float, thick: float) -> Mask:
        """A circle's outline."""
        return np.asarray(np.abs(np.hypot(self.x - cx, self.y - cy) - radius) < thick)

    def lobes(self, cx: float, cy: float, rx: float, ry: float, count: int, depth: float) -> Mask:
        """An ellipse with a scalloped outline."""
        angle = np.arctan2((self.y - cy) / ry, (self.x - cx) / rx)
        radius = np.hypot((self.x - cx) / rx, (self.y - cy) / ry)
        return np.asarray(radius < 1.0 - depth + depth * np.abs(np.sin(angle * count / 2)))

    # patterns ------------------------------------------------------------------------------------------------------
    def stripes(self, frequency: float, angle: float = 0.0, sharp: float = 3.0) -> Field:
        """Bands; angle 0 = lines run horizontally, pi/2 = vertically."""
        phase = self.rng.random() * 2 * np.pi
        wave = np.sin(np.pi * frequency * (self.y * np.cos(angle) + self.x * np.sin(angle)) + phase)
        return np.asarray(np.clip(0.5 + sharp * 0.5 * wave, 0, 1), np.float32)

    def dots(self, frequency: float, radius: float = 0.3) -> Field:
        """Round spots on a staggered lattice."""
        row = np.floor(self.y * frequency)
        u = self.x * frequency + 0.5 * (row % 2)
        distance = np.hypot(u - np.floor(u) - 0.5, self.y * frequency - row - 0.5)
        return np.asarray(np.clip((radius - distance) * 6 + 0.5, 0, 1), np.float32)

    def noise(self, cells: int, sharp: float = 1.0) -> Field:
        """Smooth random blotches with about ``cells`` per side."""
        return np.clip(0.5 + sharp * (value_noise(self.rng, self.values.shape[0], cells, cells) - 0.5), 0, 1)

    def bumps(self, frequency: float) -> Field:
        """Overlapping curls, like wool or fish scales."""
        row = np.floor(self.y * frequency)
        u = self.x * frequency + 0.5 * (row % 2)
        return np.asarray(np.clip(1.3 * np.hypot(u - np.floor(u) - 0.5, self.y * frequency - row), 0, 1), np.float32)

    def grid(self, frequency: float, line: float = 0.2) -> Field:
        """Crossing lines."""
        u, v = self.x * frequency, self.y * frequency
        edge = np.minimum(np.abs(u - np.round(u)), np.abs(v - np.round(v)))
        return (edge < line / 2).astype(np.float32)

    def shade(self, cx: float, cy: float, reach: float) -> Field:
        """Bright at (cx, cy), dark at distance ``reach``."""
        return np.asarray(1.0 - np.hypot(self.x - cx, self.y - cy) / reach, np.float32)


def value_noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> Field:
    """Periodic bilinear noise in [0, 1], (size, size), from a rows x columns lattice."""
    lattice = rng.random((rows, columns)).astype(np.float32)
    v = np.arange(size, dtype=np.float32) * (rows / size)
    u = np.arange(size, dtype=np.float32) * (columns / size)
    i, j = v.astype(int), u.astype(int)
    fv, fu = (v - i)[:, None], (u - j)[None, :]
    i1, j1 = (i + 1) % rows, (j + 1) % columns
    top = lattice[i][:, j] * (1 - fu) + lattice[i][:, j1] * fu
    bottom = lattice[i1][:, j] * (1 - fu) + lattice[i1][:, j1] * fu
    return np.asarray(top * (1 - fv) + bottom * fv, np.float32)
