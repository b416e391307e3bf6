"""Masks of COCO's polygons, pixel for pixel those of pycocotools.

Its rule: corners are rounded to a grid five times finer than the pixels, edges are drawn on it by stepping along their
longer side, and wherever an edge passes the middle of a pixel column the column changes between outside and inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovss.errors import UserError

FINER = 5
FARTHEST, LONGEST = 1 << 16, 1 << 20
"""Pixels that a corner may lie away and an outline may be long (all of it is drawn, also outside the image)."""


def fill(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Union of polygons, each [x, y, x, y, ...] in pixels.

    Returns:
        (height, width) bool.

    Raises:
        UserError: a polygon has fewer than three corners or is no list of numbers.
    """
    mask = np.zeros((height, width), dtype=bool)
    for polygon in polygons:
        try:
            corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError, OverflowError):
            corners = np.zeros((0, 2))
        if len(corners) < 3 or not (np.abs(corners) <= FARTHEST).all() or _length(corners) > LONGEST:
            raise UserError(f"polygon {ascii(polygon)[:60]}: not three or more corners nearby; the file is damaged")
        mask |= _fill_one(corners, height, width)
    return mask


def _length(corners: np.ndarray) -> float:
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).sum())


def _fill_one(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, 2) corners x, y -> (height, width) bool."""
    grid = np.trunc(FINER * corners + 0.5).astype(np.int64)
    line = np.concatenate([_edge(a, b) for a, b in zip(grid, np.roll(grid, -1, axis=0), strict=True)])
    before, after = line[:-1], line[1:]
    crosses = before[:, 0] != after[:, 0]
    before, after = before[crosses], after[crosses]
    x = (np.minimum(before[:, 0], after[:, 0]) + 0.5) / FINER - 0.5
    y = np.ceil(np.clip((np.minimum(before[:, 1], after[:, 1]) + 0.5) / FINER - 0.5, 0, height))
    on_column = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    places = x[on_column].astype(np.int64) * height + y[on_column].astype(np.int64)
    changes = np.bincount(places, minlength=height * width)[: height * width]
    return (np.cumsum(changes) % 2 == 1).reshape((height, width), order="F")


def _edge(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Grid points (n, 2) from corner to corner, both included; drawn from the lower end of the longer side."""
    spans = np.abs(end - start)
    major = 0 if spans[0] >= spans[1] else 1
    turned = start[major] > end[major]
    low, high = (end, start) if turned else (start, end)
    steps = np.arange(spans[major] + 1)
    points = np.empty((len(steps), 2), dtype=np.int64)
    slope = (high[1 - major] - low[1 - major]) / spans[major] if spans[major] else 0.0
    points[:, major] = low[major] + steps
    points[:, 1 - major] = np.trunc(low[1 - major] + slope * steps + 0.5).astype(np.int64)
    return points[::-1] if turned else points
