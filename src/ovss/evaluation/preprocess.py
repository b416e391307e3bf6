"""From a decoded image to network input: OpenCV's bilinear resize, then normalisation of 0..255 values."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovss.evaluation.protocol import Geometry
from ovss.models.clip import Clip

# OpenCV's fixed point for 8-bit images: 11 bits a coefficient.
_ONE = 1 << 11
# RGB mean and deviation of 0..255 values, as the published configurations round them.
_NORMALISATIONS = {
    "clip": ((122.771, 116.746, 104.094), (68.501, 66.632, 70.323)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
}


def resized_size(size: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    """(H, W) after resizing: factor min(max_long_side / long, short_side / short), sides rounded half up."""
    if geometry.resize == "square":
        return geometry.short_side, geometry.short_side
    factor = min(geometry.max_long_side / max(size), geometry.short_side / min(size))
    height, width = (int(side * factor + 0.5) for side in size)
    return max(height, 1), max(width, 1)


@lru_cache(maxsize=256)
def _taps(length: int, size: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Source indices and fixed-point coefficients of each target position along one axis, (size,) int32 each."""
    position = torch.arange(size, dtype=torch.float64)
    source = ((position + 0.5) * (1 / (size / length)) - 0.5).float()
    low = source.floor()
    part = source - low
    outside = (low < 0) | (low >= length - 1)
    low = low.clamp(0, length - 1)
    part = torch.where(outside, torch.zeros_like(part), part)
    second = torch.round(part * _ONE)
    first = torch.round((1 - part) * _ONE)
    high = (low + 1).clamp(max=length - 1)
    index = (tensor.to(device, torch.int64) for tensor in (low, high))
    weight = (tensor.to(device, torch.int32) for tensor in (first, second))
    return (*index, *weight)  # type: ignore[return-value]


def resize(image: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """(H, W, 3) uint8 -> (H', W', 3) uint8 by the geometry's filter: OpenCV's bilinear, or Pillow's with antialias."""
    if geometry.resize_filter == "fixed_point" or tuple(image.shape[:2]) == size:
        return resize_bilinear(image, size)
    small = Image.fromarray(image.cpu().numpy()).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(small).copy()).to(image.device)


def resize_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of 8-bit images as OpenCV does it (fixed point, no antialias), to the last bit.

    Args:
        image: (H, W, 3) uint8.
        size: (H', W').

    Returns:
        (H', W', 3) uint8.
    """
    if tuple(image.shape[:2]) == size:
        return image
    device = str(image.device)
    left, right, first, second = _taps(image.shape[1], size[1], device)
    wide = image.to(torch.int32)
    wide = wide[:, left] * first[:, None] + wide[:, right] * second[:, None]
    top, bottom, upper, lower = _taps(image.shape[0], size[0], device)
    scaled = wide >> 4
    above = (scaled[top] * upper[:, None, None]) >> 16
    below = (scaled[bottom] * lower[:, None, None]) >> 16
    return ((above + below + 2) >> 2).clamp(0, 255).to(torch.uint8)


def resize_nearest(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour resize as OpenCV does it: source index floor(target * scale). (H, W) any type -> (H', W')."""
    if tuple(label.shape) == size:
        return label
    rows, columns = (
        (torch.arange(new, dtype=torch.float64) * (old / new)).floor().long().clamp(max=old - 1)
        for old, new in zip(label.shape, size, strict=True)
    )
    return label[rows[:, None], columns]


def normalise(image: Tensor, geometry: Geometry, clip: Clip) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32: (value - mean) / deviation, values 0..255."""
    if geometry.normalisation == "model":
        mean, std = ([255 * value for value in values] for values in (clip.mean, clip.std))
    else:
        mean, std = (list(values) for values in _NORMALISATIONS[geometry.normalisation])
    centre = torch.tensor(mean, dtype=torch.float32, device=image.device)
    spread = torch.tensor(std, dtype=torch.float32, device=image.device)
    return ((image.float() - centre) / spread).permute(2, 0, 1).contiguous()
