"""Training crops of TTD: long side drawn from 320 to 640, then a 448 crop padded with zeros (Table 6).

The paper names resize and crop; long side, padding after normalisation and the placement at random follow the same
authors' published code of another method. A crop is a function of seed and pair alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ovss.config.ttd import IMAGENET_MEAN, IMAGENET_STD, Triple
from ovss.errors import UserError

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class CropSettings:
    """Sides in pixels, normalisation of RGB in 0..1 (ImageNet's, as TCL), resize filter."""

    smallest: int = 320
    largest: int = 640
    side: int = 448
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    filter: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        """Refuse sides that no image can have."""
        if not 0 < self.smallest <= self.largest:
            raise UserError(f"crop: smallest {self.smallest} must be positive and at most largest {self.largest}")


@dataclass(frozen=True)
class Crop:
    """image: (3, S, S) float32, normalised, zero outside of ``box``: top, left, bottom, right (end exclusive)."""

    image: Tensor
    box: tuple[int, int, int, int]


def resized(image: NDArray[np.uint8], long_side: int, settings: CropSettings) -> NDArray[np.uint8]:
    """(H, W, 3) -> the same picture with this long side; the short side is at least one pixel."""
    height, width = image.shape[:2]
    factor = long_side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, FILTERS[settings.filter]))


def normalise(picture: NDArray[np.uint8], mean: Triple, std: Triple, out: NDArray[np.float32]) -> None:
    """(H, W, 3) -> ``out`` (3, H, W): RGB in 0..1 less the mean, by the deviation; by table, of 256 values."""
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    table = ((levels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)).T
    for row, colour, plane in zip(table, picture.transpose(2, 0, 1), out, strict=True):
        plane[...] = row[colour]


def place(length: int, side: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Where an axis begins in the picture and in the crop, and how many pixels it shares."""
    spare = length - side
    offset = int(rng.integers(abs(spare) + 1))
    return (offset, 0, side) if spare > 0 else (0, offset, length)


def random_crop(image: NDArray[np.uint8], settings: CropSettings, seed: int, pair: int) -> Crop:
    """The crop of a pair, (H, W, 3) uint8 RGB.

    Args:
        image: any size.
        settings: sides and normalisation.
        seed: of the run.
        pair: number of the pair in the run, counted over epochs.
    """
    rng = np.random.default_rng([seed, pair])
    picture = resized(image, int(rng.integers(settings.smallest, settings.largest + 1)), settings)
    from_y, to_y, rows = place(picture.shape[0], settings.side, rng)
    from_x, to_x, columns = place(picture.shape[1], settings.side, rng)
    part = picture[from_y : from_y + rows, from_x : from_x + columns]
    crop = np.zeros((3, settings.side, settings.side), np.float32)
    normalise(part, settings.mean, settings.std, crop[:, to_y : to_y + rows, to_x : to_x + columns])
    return Crop(torch.from_numpy(crop), (to_y, to_x, to_y + rows, to_x + columns))


def covered(start: Tensor, end: Tensor, side: int, cells: int) -> Tensor:
    """Cells of an axis whose centre lies in [start, end), (B,) each -> (B, cells) bool.

    An image thinner than a cell keeps the cell it begins in.
    """
    size = side / cells
    centres = (torch.arange(cells) + 0.5) * size
    inside = (centres >= start[:, None]) & (centres < end[:, None])
    first = torch.arange(cells) == torch.div(start[:, None], size, rounding_mode="floor")
    return torch.where(inside.any(dim=1, keepdim=True), inside, first)


def valid_cells(boxes: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """Cells of the feature grid that show the image: (B, 4) boxes on crops of ``side`` pixels -> (B, h, w) bool."""
    top, left, bottom, right = boxes.unbind(1)
    rows, columns = covered(top, bottom, side, grid[0]), covered(left, right, side, grid[1])
    return rows[:, :, None] & columns[:, None, :]
