"""Boxes around what is bright in a map (FreeCP's release, after CLIP-ES): thresholded components and holes, no OpenCV.

The bounding rectangles of all contours of a binary map are the boxes of its 8-connected components and, for every hole,
the hole's box grown by one patch on each side (checked against OpenCV's full contour tree).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

Border = Literal["cut", "whole"]
Boxes = npt.NDArray[np.int64]
"""(K, 5) rows: map, y0, x0, y1, x1; half-open, in patches."""

# Neighbours within a map; maps of a stack never touch.
_EIGHT = np.zeros((3, 3, 3), dtype=bool)
_EIGHT[1] = True
_FOUR = np.zeros((3, 3, 3), dtype=bool)
_FOUR[1] = ndimage.generate_binary_structure(2, 1)


def bright(maps: Tensor, threshold: float) -> npt.NDArray[np.bool_]:
    """Patches above ``threshold`` times the largest 8-bit value of their map.

    Args:
        maps: (M, h, w) float32 in 0..1.
        threshold: 0.4 in FreeCP.

    Returns:
        (M, h, w): floor(255 map) > floor(threshold * max of it).
    """
    levels = (maps * 255).to(torch.uint8).cpu().numpy()
    limits = np.floor(threshold * levels.max(axis=(1, 2)).astype(np.float64))
    return levels > limits[:, None, None]


def boxes(masks: npt.NDArray[np.bool_], border: Border, holes: bool) -> Boxes:
    """Boxes of the components of every mask, and of their holes.

    Args:
        masks: (M, h, w).
        border: ``cut`` (released code): the end of a box is at most w - 1 and h - 1, so the last column and row are
            never inside; ``whole``: they are.
        holes: also the holes' boxes; they lie within a component's box and matter where boxes stand alone.

    Returns:
        Boxes sorted by map; a box may be empty (y0 == y1 or x0 == x1).
    """
    found = _bounds(*ndimage.label(masks, _EIGHT))
    if holes:
        found = np.concatenate([found, _hole_bounds(masks)])
    if border == "cut":
        found[:, 3:] = np.minimum(found[:, 3:], np.array(masks.shape[1:]) - 1)
    return found[np.argsort(found[:, 0], kind="stable")]


def _hole_bounds(masks: npt.NDArray[np.bool_]) -> Boxes:
    """Boxes of holes, grown by one: zero components (4-connected) that do not reach the outside."""
    padded = np.pad(~masks, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    labels, count = ndimage.label(padded, _FOUR)
    holes = _bounds(labels, count)
    outside = labels[holes[:, 0], 0, 0] == np.arange(1, count + 1)
    # One patch of padding and one of growth: coordinates of the start are two lower, of the end equal.
    return holes[~outside] - np.array([0, 2, 2, 0, 0])


def _bounds(labels: npt.NDArray[np.int32], count: int) -> Boxes:
    """Bounding box of every label 1..count of a (M, h, w) stack, in label order."""
    spans = ndimage.find_objects(labels, count)
    flat = [(m.start, y.start, x.start, y.stop, x.stop) for m, y, x in spans]
    return np.array(flat, dtype=np.int64).reshape(count, 5)


def union(found: Boxes, shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """(M, h, w): whether a patch lies in any box of its map (corner counts, summed along both axes)."""
    count, height, width = shape
    corners = np.zeros((count, height + 1, width + 1), dtype=np.int32)
    kept = found[(found[:, 1] < found[:, 3]) & (found[:, 2] < found[:, 4])]
    number, top, left, bottom, right = kept.T
    for rows, columns, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        np.add.at(corners, (number, rows, columns), sign)
    return corners.cumsum(axis=1).cumsum(axis=2)[:, :height, :width] > 0


def box_mask(maps: Tensor, threshold: float, border: Border) -> Tensor:
    """Union of the boxes of every map.

    Args:
        maps: (..., h, w) float32 in 0..1.
        threshold: see ``bright``.
        border: see ``boxes``.

    Returns:
        (..., h, w) bool on the device of ``maps``.
    """
    stack = maps.flatten(0, -3)
    masks = bright(stack, threshold)
    inside = union(boxes(masks, border, holes=False), (masks.shape[0], masks.shape[1], masks.shape[2]))
    return torch.from_numpy(inside).to(maps.device).view(maps.shape)
