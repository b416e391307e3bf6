"""Affinity from MaskFormer's masks without their classes (FreeCP, Table 5; MaskFormer: Cheng et al. 2021).

FreeCP says that class-agnostic masks serve as affinity and not how. The reading here: two patches belong together as
far as the same mask covers both, A_ij = sum over queries q of o_q m_q(i) m_q(j). m_q is the mask's probability averaged
over the patch, o_q the probability that the query shows anything at all: most queries of an image show nothing and
their masks mean nothing. The checkpoint is the panoptic one of COCO, whose masks are instances: FreeCP explains the low
score of this row by masks that do not relate instances, which those of the semantic checkpoints do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.models.resized import Norm, resized

# Windows that go through the network at once: bounds memory.
CHUNK = 4
# Total stride of the network: sides of the input are multiples of it, which the original code reaches by padding.
STRIDE = 32


@dataclass(frozen=True)
class MaskFormer:
    """transformers' MaskFormerForInstanceSegmentation, its normalisation and the shorter side of its input (pixels)."""

    model: Any
    norm: Norm
    shorter_side: int

    def affinity(self, colours: Tensor, grid: tuple[int, int]) -> Tensor:
        """Shared masks of two patches, weighted by their objectness; symmetric, positive.

        Args:
            colours: (W, 3, Hc, Wc) float32, RGB in 0..1, on any device.
            grid: (h, w), the wanted patch grid.

        Returns:
            (W, n, n) float32 on the model's device, n = h*w, patches in raster order.
        """
        device = next(self.model.parameters()).device
        scale = self.shorter_side / min(colours.shape[-2:]) / STRIDE
        height, width = (max(1, round(pixels * scale)) * STRIDE for pixels in colours.shape[-2:])
        chunks = [part.to(device) for part in colours.split(CHUNK)]
        return torch.cat([self._shared(resized(part, (height, width), self.norm), grid) for part in chunks])

    def _shared(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        output = self.model(pixel_values=images)
        masks = F.adaptive_avg_pool2d(output.masks_queries_logits.sigmoid(), grid).flatten(2)
        nothing = output.class_queries_logits.softmax(dim=-1)[..., -1:]
        return (masks * (1 - nothing)).transpose(1, 2) @ masks
