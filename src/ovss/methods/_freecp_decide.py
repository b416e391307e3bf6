"""From class maps of windows to a class per pixel (FreeCP's release): sliding average, background, arg max."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovss.evaluation.decide import BAND_VALUES
from ovss.models.windows import Grid, stitch_columns, stitch_rows


def decide_maps(maps: Tensor, grid: Grid, size: tuple[int, int], background: bool) -> npt.NDArray[np.integer]:
    """Class per pixel.

    Maps are averaged over windows and resized; with a background its score is 1 - max over classes and it wins ties
    (class 0, the others one higher); without, the lowest class of the largest score wins, so a pixel where every class
    is zero becomes class 0. Classes that are zero everywhere are never resized.

    Args:
        maps: (W, F, n) float32 >= 0, zero for classes that went.
        grid: where the windows lie.
        size: (H, W) of the result.
        background: whether class 0 is the background.

    Returns:
        (H, W) uint8, or int16 for more than 256 classes.
    """
    kind = torch.uint8 if maps.shape[1] + background <= 256 else torch.int16
    present = maps.amax(dim=(0, 2)).nonzero()[:, 0]
    if len(present) == 0:
        return torch.zeros(size, dtype=kind).numpy()
    columns = stitch_columns(maps[:, present].transpose(1, 2), grid, size[1])
    rows = max(1, BAND_VALUES // (columns.shape[1] * columns.shape[2]))
    bands = []
    for start in range(0, size[0], rows):
        best, index = stitch_rows(columns, grid, size[0], start, start + rows).max(dim=1)
        nothing = 1 - best >= best if background else best <= 0
        bands.append(torch.where(nothing, 0, present[index] + int(background)).to(kind))
    return torch.cat(bands).cpu().numpy()
