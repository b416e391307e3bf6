"""TCL's loss: texts and the regions that their masks cut out of images agree (Cha et al. 2023, section 3.3).

Shapes: B images, their B captions, D joint dimension, h and w mask pixels. What the paper leaves open: as in its code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovss.config.tcl import TclWeights
from ovss.models.clip_pixels import similarity_maps
from ovss.models.grounder import Grounder

# Largest factor on cosines, and what a mask's size is divided by at least.
_LARGEST_SCALE, _SMALLEST_AREA = 100.0, 1e-6


class Temperatures(nn.Module):
    """Learnt factors on the cosines of both contrastive losses, as logarithms, starting from one temperature."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.tensor(-math.log(first)))
        self.feature = nn.Parameter(torch.tensor(-math.log(first)))


@dataclass(frozen=True)
class Masks:
    """soft: masks of every caption (second) in every image, (B, B, h, w); hard: of the own captions, (B, 1, h, w)."""

    soft: Tensor
    hard: Tensor


def hard_sample(logits: Tensor, temperature: float) -> Tensor:
    """Zeros and ones drawn with logistic noise, whose gradient is that of the soft sample (Gumbel, straight through).

    Args:
        logits: any shape, float32.
        temperature: of the soft sample; the hard one does not depend on it.
    """
    uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((logits + uniform.logit()) / temperature)
    return (soft > 0.5).to(soft.dtype) - soft.detach() + soft


def make_masks(grounder: Grounder, pixels: Tensor, text: Tensor, hardness: float) -> Masks:
    """Masks of captions (B, D) from pixel embeddings (B, D, h, w), of any length."""
    to_mask = grounder.sim2mask
    logits = to_mask.w * similarity_maps(pixels, text) + to_mask.b
    own = logits.diagonal().movedim(-1, 0).unsqueeze(1)
    return Masks(torch.sigmoid(logits), hard_sample(own, hardness))


def pool(pixels: Tensor, masks: Tensor) -> Tensor:
    """Mean embedding under every soft mask: (B, D, h, w), (B, N, h, w) -> (B, N, D)."""
    share = masks / (masks.sum(dim=(2, 3), keepdim=True) + _SMALLEST_AREA)
    return torch.einsum("bdhw,bnhw->bnd", pixels, share)


def contrast(cosines: Tensor, log_scale: Tensor) -> Tensor:
    """InfoNCE in both directions; cosines of images (rows) and captions (columns), (B, B) -> scalar."""
    logits = cosines * log_scale.exp().clamp(max=_LARGEST_SCALE)
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))


def image_loss(visual: Any, images: Tensor, text: Tensor, hard: Tensor, log_scale: Tensor) -> Tensor:
    """Captions against the parts of their images, seen by CLIP again (TCL-v, image level).

    Args:
        visual: CLIP's vision tower, frozen; gradients pass through it to the masks.
        images: (B, 3, H, W) normalised; what the mask leaves out becomes 0.
        text: (B, D), unit length.
        hard: (B, 1, h, w), zeros and ones; brought to the image's size by the nearest pixel.
        log_scale: logarithm of the factor on cosines.
    """
    shown = visual(images * F.interpolate(hard, images.shape[-2:]))
    return contrast(F.normalize(shown, dim=-1) @ text.T, log_scale)


def feature_loss(pixels: Tensor, text: Tensor, soft: Tensor, log_scale: Tensor) -> Tensor:
    """Captions against pixels pooled under their own masks in every image (TCL-f, feature level).

    pixels (B, D, h, w); text (B, D), unit length; soft (B, B, h, w).
    """
    regions = F.normalize(pool(pixels, soft), dim=-1)
    return contrast(torch.einsum("bnd,nd->bn", regions, text), log_scale)


def area_loss(soft: Tensor, wanted: float) -> Tensor:
    """|mean size of own masks - wanted| + |mean size of foreign masks|; soft (B, B, h, w), B at least 2."""
    sizes = soft.mean(dim=(2, 3))
    own = sizes.diagonal()
    foreign = (sizes.sum() - own.sum()) / (sizes.numel() - len(own))
    return (own.mean() - wanted).abs() + foreign.abs()


def total_variation(maps: Tensor) -> Tensor:
    """Mean absolute step between neighbours, across plus down: (..., h, w) -> scalar."""
    return maps.diff(dim=-1).abs().mean() + maps.diff(dim=-2).abs().mean()


def weighted_terms(weights: TclWeights, terms: dict[str, Tensor]) -> Tensor:
    """Sum of the terms, named as their weights."""
    return torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
