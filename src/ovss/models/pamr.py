"""Pixel-adaptive mask refinement: masks flow between neighbours of similar colour.

Source: Araslanov and Roth 2020 (section 3.2), with the constants of TCL's code (Cha et al. 2023). A pixel's new value
is a weighted sum of its neighbours' values; the pixel itself takes no part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
_NO_ZERO = 1e-8


@dataclass(frozen=True)
class Pamr:
    """Constants of the refinement.

    iterations: how often values are passed on. dilations: distances of the rings of 8 neighbours, in pixels. spread:
    share of the local deviation of a colour that counts as one step of difference. chunk: classes that are refined
    together; it decides memory and speed, not the result.
    """

    iterations: int = 10
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    spread: float = 0.1
    chunk: int = 64

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) to each neighbour, ring after ring."""
        return tuple((dy * step, dx * step) for step in self.dilations for dy, dx in _AROUND)


def refine(masks: Tensor, images: Tensor, settings: Pamr) -> Tensor:
    """Masks after refinement, at the size of the images.

    Args:
        masks: (B, N, h, w) float32, brought to the images' size first (bilinear, corners aligned).
        images: (B, 3, H, W) float32, normalised RGB.
        settings: constants.

    Returns:
        (B, N, H, W) float32. Classes do not see each other.
    """
    weights = affinity(images, settings)
    parts = F.interpolate(masks, images.shape[-2:], mode="bilinear", align_corners=True).split(settings.chunk, dim=1)
    return torch.cat([_pass_on(part.contiguous(), weights, settings) for part in parts], dim=1)


def refine_coarse(masks: Tensor, images: Tensor, settings: Pamr) -> Tensor:
    """The same at the size of the masks: the images are brought to it (bilinear, corners aligned); (B, N, h, w)."""
    return refine(masks, F.interpolate(images, masks.shape[-2:], mode="bilinear", align_corners=True), settings)


def affinity(images: Tensor, settings: Pamr) -> Tensor:
    """Weights of the neighbours: softmax over them of the mean over RGB of -|difference| / (spread * deviation).

    The deviation of a colour at a pixel is that of all neighbours and of the pixel itself, counted once per dilation.

    Args:
        images: (B, 3, H, W) float32.
        settings: constants.

    Returns:
        (B, neighbours, H, W) float32, adding to 1; beyond the border the border is repeated.
    """
    scale = _NO_ZERO + settings.spread * _deviation(images, settings)
    logits = [-((images - other).abs() / scale).mean(dim=1) for other in _neighbours(images, settings)]
    return torch.softmax(torch.stack(logits, dim=1), dim=1)


def _deviation(images: Tensor, settings: Pamr) -> Tensor:
    centre = len(settings.dilations)
    count = centre + len(settings.offsets)
    total = centre * images
    for other in _neighbours(images, settings):
        total = total + other
    mean = total / count
    squares = centre * (images - mean).square()
    for other in _neighbours(images, settings):
        squares = squares + (other - mean).square()
    return (squares / (count - 1)).sqrt()


def _pass_on(masks: Tensor, weights: Tensor, settings: Pamr) -> Tensor:
    # Rows of few weighted rows, as in ``ovss.models.crf``: no neighbour's map is ever made, values stay in registers.
    # One class alone is added up in another order of roundings, so it goes through beside a copy of itself.
    size, classes = masks.shape[-2:], masks.shape[1]
    if classes == 1:
        return _pass_on(masks.expand(-1, 2, -1, -1), weights, settings)[:, :1]
    rows = _neighbour_rows(size[0], size[1], settings, str(masks.device))
    found = []
    for values, weight in zip(masks.flatten(2).transpose(1, 2), weights.flatten(2).transpose(1, 2), strict=True):
        shares, values = weight.contiguous(), values.contiguous()
        for _ in range(settings.iterations):
            values = F.embedding_bag(rows, values, mode="sum", per_sample_weights=shares)
        found.append(values.T.unflatten(1, size))
    return torch.stack(found)


@lru_cache(maxsize=8)
def _neighbour_rows(height: int, width: int, settings: Pamr, device: str) -> Tensor:
    """Number of every neighbour of every pixel, border repeated: (H*W, neighbours) int32, neighbours as in offsets."""
    steps = torch.tensor(settings.offsets)
    rows = (torch.arange(height)[:, None] + steps[:, 0]).clamp(0, height - 1)
    columns = (torch.arange(width)[:, None] + steps[:, 1]).clamp(0, width - 1)
    return (rows[:, None] * width + columns[None]).flatten(0, 1).int().to(device)


def _neighbours(maps: Tensor, settings: Pamr) -> Iterator[Tensor]:
    """Views of (B, C, H, W) maps moved to each neighbour in turn, border repeated."""
    reach, (height, width) = max(settings.dilations), maps.shape[-2:]
    padded = F.pad(maps, (reach,) * 4, mode="replicate")
    for dy, dx in settings.offsets:
        yield padded[..., reach + dy : reach + dy + height, reach + dx : reach + dx + width]
