"""Affinity from SAM's image features (FreeCP, Table 5; SAM: Kirillov et al. 2023).

FreeCP does not say how. Two thirds of the attention blocks of SAM's encoder look at 14x14 patches only, so a mean of
attention maps over blocks, as from CLIP, does not exist. The reading here is the similarity of the features that SAM
hands to its mask decoder: cosines between patches, below zero cut to zero. Features are averaged over the area of each
CLIP patch. The window fills SAM's input as SAM's own code does it: longer side 1024, zeros after normalisation at the
right and at the bottom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.models.resized import Norm, resized


@dataclass(frozen=True)
class Sam:
    """timm's VisionTransformerSAM (SAM's image encoder with its neck) and its normalisation."""

    model: Any
    norm: Norm

    def affinity(self, colours: Tensor, grid: tuple[int, int]) -> Tensor:
        """Cosines of SAM's features between patches, clamped at 0.

        One window at a time: attention over 64x64 patches with relative positions takes 2 GB for each (ViT-B).

        Args:
            colours: (W, 3, Hc, Wc) float32, RGB in 0..1, on any device.
            grid: (h, w), the wanted patch grid.

        Returns:
            (W, n, n) float32 on the model's device, n = h*w, patches in raster order.
        """
        device = next(self.model.parameters()).device
        return torch.cat([self._of_window(window.to(device), grid) for window in colours.split(1)])

    def _of_window(self, window: Tensor, grid: tuple[int, int]) -> Tensor:
        side, patch = self.model.patch_embed.img_size[0], self.model.patch_embed.patch_size[0]
        longer = max(window.shape[-2:])
        height, width = (max(patch, int(pixels * side / longer + 0.5)) for pixels in window.shape[-2:])
        image = F.pad(resized(window, (height, width), self.norm), (0, side - width, 0, side - height))
        features = self.model.forward_features(image)
        valid = features[..., : round(height / patch), : round(width / patch)]
        unit = F.normalize(F.adaptive_avg_pool2d(valid, grid).flatten(2), dim=1)
        return (unit.transpose(1, 2) @ unit).clamp_min(0)
