"""Position embeddings of a vision transformer at grids it was not trained on.

Two rules exist in the code of the papers and give different features: ``"scale"`` (FreeCP, SCLIP, ClearCLIP, ProxyCLIP:
a scale factor with 0.1 added to the wanted side) and ``"antialias"`` (GEM: the wanted size, with antialiasing).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PositionRule = Literal["scale", "antialias"]

# Added to the wanted grid side before dividing by the trained side, so that rounding down cannot lose a row.
_SIDE_MARGIN = 0.1


def position_table(table: Tensor, native: tuple[int, int], grid: tuple[int, int], rule: PositionRule) -> Tensor:
    """Position embeddings for a patch grid.

    Under ``"scale"`` a grid with as many patches as the trained one uses the table as it is, whatever its shape:
    the published code compares counts only.

    Args:
        table: (1 + gy*gx, d), class row first, patches in raster order.
        native: (gy, gx), grid the table was trained on.
        grid: (h, w), wanted grid.
        rule: which of the two interpolations.

    Returns:
        (1 + h*w, d) of the table's dtype; the interpolation runs in float32.
    """
    if rule == "scale" and grid[0] * grid[1] == native[0] * native[1]:
        return table
    if grid == native:
        return table
    patches = table[1:].float().T.reshape(1, -1, *native)
    resized = _scaled(patches, native, grid) if rule == "scale" else _antialiased(patches, grid)
    return torch.cat([table[:1], resized[0].flatten(1).T.to(table.dtype)])


def _scaled(patches: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    factors = [(side + _SIDE_MARGIN) / trained for side, trained in zip(grid, native, strict=True)]
    resized = F.interpolate(patches, scale_factor=factors, mode="bicubic", align_corners=False)
    if tuple(resized.shape[-2:]) != grid:
        raise RuntimeError(f"position grid {native} resized to {tuple(resized.shape[-2:])}, wanted {grid}")
    return resized


def _antialiased(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.interpolate(patches, size=grid, mode="bicubic", align_corners=False, antialias=True)
