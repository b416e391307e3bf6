"""Sliding windows over an image, and putting maps of the windows together again.

Windows, bilinear upsampling of the patch grid, averaging of overlaps and the resize to the wanted size are linear and
act on rows and columns separately. So the whole way from patch scores to scores at the original size is one matrix per
axis, and no window is ever upsampled by itself: same numbers, a fraction of the memory traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Padding = Literal["none", "patch"]


@dataclass(frozen=True)
class Axis:
    """Windows along one axis: ``spans`` in pixels, all of one length, padded at both ends before they are encoded."""

    length: int
    spans: tuple[tuple[int, int], ...]
    before: int
    after: int
    patch: int

    @property
    def padded(self) -> int:
        """Length of an encoded window in pixels."""
        return self.spans[0][1] - self.spans[0][0] + self.before + self.after

    @property
    def patches(self) -> int:
        """Patches along an encoded window; what fills no patch is dropped."""
        return self.padded // self.patch


@dataclass(frozen=True)
class Grid:
    """Windows of an image: the product of the windows along its rows and columns, in raster order."""

    rows: Axis
    columns: Axis

    @property
    def count(self) -> int:
        """Number of windows."""
        return len(self.rows.spans) * len(self.columns.spans)


def window_spans(length: int, crop: int, stride: int) -> tuple[tuple[int, int], ...]:
    """Half-open pixel spans: steps of ``stride``, the last one moved back so that it ends at ``length``.

    A crop longer than the image gives one span of the image's length. Rule of mmsegmentation's sliding inference.
    """
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = (min(i * stride + crop, length) for i in range(count))
    return tuple((max(end - crop, 0), end) for end in ends)


def make_axis(length: int, crop: int | None, stride: int | None, patch: int, padding: Padding) -> Axis:
    """Windows along one axis; ``crop=None`` is one window of the whole length.

    ``padding="patch"`` (ClearCLIP's code): zeros on both sides up to whole patches, the larger half behind.
    """
    if crop is None or stride is None:
        spans: tuple[tuple[int, int], ...] = ((0, length),)
    else:
        spans = window_spans(length, crop, stride)
    missing = -(spans[0][1] - spans[0][0]) % patch if padding == "patch" else 0
    return Axis(length, spans, missing // 2, missing - missing // 2, patch)


def make_grid(
    size: tuple[int, int], crop: int | None, stride: int | None, patch: int, padding: Padding = "none"
) -> Grid:
    """Windows of an image of ``size`` = (H, W) pixels."""
    rows, columns = (make_axis(length, crop, stride, patch, padding) for length in size)
    return Grid(rows, columns)


def cut_windows(image: Tensor, grid: Grid) -> Tensor:
    """Windows of a (3, H, W) image in raster order, zero-padded as the grid says: (windows, 3, Hc, Wc)."""
    cuts = [image[:, y0:y1, x0:x1] for y0, y1 in grid.rows.spans for x0, x1 in grid.columns.spans]
    sides = (grid.columns.before, grid.columns.after, grid.rows.before, grid.rows.after)
    return F.pad(torch.stack(cuts), sides)


@lru_cache(maxsize=256)
def axis_matrix(axis: Axis, size: int, device: str = "cpu") -> Tensor:
    """Matrix from the patches of all windows of an axis to ``size`` positions.

    Bilinear upsampling of each window to its pixels, cutting the padding, mean over overlapping windows, bilinear
    resize to ``size`` (corners not aligned, no antialias).

    Returns:
        (size, windows * patches) float32 on ``device``.
    """
    upsample = linear_resize(axis.patches, axis.padded)
    total = torch.zeros(axis.length, len(axis.spans), axis.patches)
    coverage = torch.zeros(axis.length, 1)
    for index, (start, stop) in enumerate(axis.spans):
        total[start:stop, index] = upsample[axis.before : axis.before + stop - start]
        coverage[start:stop] += 1
    return (linear_resize(axis.length, size) @ (total.flatten(1) / coverage)).to(device)


def linear_resize(length: int, size: int) -> Tensor:
    """Matrix (size, length) float32 of torch's linear interpolation along one axis."""
    return F.interpolate(torch.eye(length)[None], size=size, mode="linear", align_corners=False)[0].T.contiguous()


def stitch_columns(maps: Tensor, grid: Grid, width: int) -> Tensor:
    """First half of the stitching: all columns at their final width, rows still as window patches.

    Args:
        maps: (windows, h*w, Q), one map per query, windows and patches in raster order.
        grid: where the windows lie.
        width: wanted width.

    Returns:
        (window rows * h, Q, width) float32.
    """
    shape = (len(grid.rows.spans), len(grid.columns.spans), grid.rows.patches, grid.columns.patches, maps.shape[-1])
    laid = maps.reshape(shape).permute(0, 2, 4, 1, 3).flatten(3, 4).flatten(0, 1)
    return laid @ axis_matrix(grid.columns, width, str(maps.device)).T


def stitch_rows(columns: Tensor, grid: Grid, height: int, start: int = 0, stop: int | None = None) -> Tensor:
    """Second half of the stitching: rows ``start:stop`` of the result, (rows, Q, width) float32.

    A band of rows touches few patch rows; the others are left out of the product.
    """
    matrix = axis_matrix(grid.rows, height, str(columns.device))[start:stop]
    touched = matrix.any(dim=0).nonzero()[:, 0]
    return (matrix[:, touched] @ columns[touched].flatten(1)).unflatten(1, columns.shape[1:])


def stitch(maps: Tensor, grid: Grid, size: tuple[int, int]) -> Tensor:
    """Maps of windows put together: (windows, h*w, Q) -> (Q, *size) float32."""
    return stitch_rows(stitch_columns(maps, grid, size[1]), grid, size[0]).transpose(0, 1)
