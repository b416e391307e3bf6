"""Feeding a model that is not CLIP: windows resized to its input and normalised with its own mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """Mean and deviation of RGB in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Norm:
        """From a mapping with ``mean`` and ``std``.

        Raises:
            KeyError, TypeError, ValueError: one of them is missing or is not three numbers.
        """
        red, green, blue = (float(value) for value in record["mean"])
        deviations = tuple(float(value) for value in record["std"])
        return cls((red, green, blue), (deviations[0], deviations[1], deviations[2]))

    def record(self) -> dict[str, list[float]]:
        """The same as JSON types."""
        return {"mean": list(self.mean), "std": list(self.std)}


def resized(colours: Tensor, size: tuple[int, int], norm: Norm) -> Tensor:
    """Bilinear resize (corners not aligned, no antialias) and normalisation.

    Args:
        colours: (W, 3, Hc, Wc) float32, RGB in 0..1.
        size: wanted (height, width).
        norm: of the model.

    Returns:
        (W, 3, *size) float32.
    """
    images = F.interpolate(colours, size=size, mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values, device=colours.device).view(1, 3, 1, 1) for values in (norm.mean, norm.std))
    return (images - mean) / std
