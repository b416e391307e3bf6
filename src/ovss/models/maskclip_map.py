"""MaskCLIP as a base of TTD: masks of texts from CLIP alone, with the interface of ``ovss.models.tcl.TclModel``.

Source: MaskCLIP (Zhou et al. 2022, section 3.2) on CLIP as OpenAI trained it, and the sigmoid map that TCL's code (Cha
et al. 2023) puts on it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ovss.models.clip import Clip
from ovss.models.clip_pixels import crop_upsampled, image_tokens, maskclip_embeddings, pad_images, similarity_maps
from ovss.models.dense import patch_grid
from ovss.models.pamr import Pamr, refine_coarse

# A cosine of 0.25 is the middle of the mask.
SLOPE, MIDDLE = 10.0, 0.25


def maskclip_masks(similarity: Tensor, slope: float = SLOPE, middle: float = MIDDLE) -> Tensor:
    """sigmoid(slope * (cosine - middle)), any shape."""
    return torch.sigmoid(slope * (similarity - middle))


class MaskClipModel(nn.Module):
    """CLIP with MaskCLIP's last block. ``clip`` encodes texts; ``tower`` is its network."""

    factor = 1

    def __init__(self, clip: Clip, slope: float = SLOPE, middle: float = MIDDLE) -> None:
        super().__init__()
        self.clip = clip
        self.tower: Any = clip.model
        self.slope, self.middle = slope, middle

    def pixel_embeddings(self, images: Tensor) -> Tensor:
        """Dense features, (B, 3, H, W) normalised RGB -> (B, D, h, w), of any length."""
        visual = self.tower.visual
        return maskclip_embeddings(visual, image_tokens(visual, images), patch_grid(visual, images))

    def to_masks(self, similarity: Tensor) -> Tensor:
        """Soft masks of cosines, by the constant slope and middle."""
        return maskclip_masks(similarity, self.slope, self.middle)

    def masks(self, images: Tensor, text: Tensor) -> Tensor:
        """Soft masks: (B, 3, H, W), text embeddings of any length (N, D) -> (B, N, h, w) in 0..1."""
        return self.to_masks(similarity_maps(self.pixel_embeddings(images), text))

    def coarse_masks(self, images: Tensor, text: Tensor, pamr: Pamr | None = None) -> Tensor:
        """Masks of images of whole patches, before they are brought to full size: (B, N, h, w) in 0..1."""
        masks = self.masks(images, text)
        return masks if pamr is None else refine_coarse(masks, images, pamr)

    def generate_masks(self, images: Tensor, text: Tensor, pamr: Pamr | None = None) -> Tensor:
        """Masks at the images' size, which are padded with zeros to whole patches: (B, N, H, W) in 0..1."""
        padded, before = pad_images(images, self.clip.patch_size)
        coarse = self.coarse_masks(padded, text, pamr)
        return crop_upsampled(coarse, padded.shape[-2:], before, images.shape[-2:])
