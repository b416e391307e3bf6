"""Affinity from DINO's attention (FreeCP, Tables 5 and 6; DINO: Caron et al. 2021).

FreeCP says that DINO replaces CLIP in the affinity and not how. The reading here changes the network and nothing else:
the mean over heads and over all blocks but the last of the attention between patches, as from CLIP. The windows are
resized so that DINO's own patches are CLIP's patch grid, so no map has to be resampled. Position embeddings at that
grid are timm's (bicubic with antialias), with which the models of the tiny scales were trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.models.resized import Norm, resized

# Tokens that go through a block at once: bounds memory (attention of ViT-B/16 on 24x24 patches: 0.2 GB).
CHUNK_TOKENS = 8192


@dataclass(frozen=True)
class Dino:
    """timm's VisionTransformer (``dynamic_img_size``) and its normalisation."""

    model: Any
    norm: Norm

    def affinity(self, colours: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mean attention between patches, rows = queries; prefix tokens are cut, rows not rescaled.

        Args:
            colours: (W, 3, Hc, Wc) float32, RGB in 0..1, on any device.
            grid: (h, w), the wanted patch grid.

        Returns:
            (W, n, n) float32 on the model's device, n = h*w, patches in raster order.
        """
        rows, columns = self.model.patch_embed.patch_size
        size = (grid[0] * rows, grid[1] * columns)
        device = self.model.pos_embed.device
        chunk = max(1, CHUNK_TOKENS // (grid[0] * grid[1] + self.model.num_prefix_tokens))
        parts = [resized(part.to(device), size, self.norm) for part in colours.split(chunk)]
        return torch.cat([self._patch_attention(images) for images in parts])

    def _patch_attention(self, images: Tensor) -> Tensor:
        model, blocks = self.model, list(self.model.blocks)[:-1]
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        total = torch.zeros((), device=images.device)
        for block in blocks:
            total = total + attention(block.attn, block.norm1(tokens)).mean(dim=1)
            tokens = block(tokens)
        first = model.num_prefix_tokens
        return total[:, first:, first:] / len(blocks)


def attention(layer: Any, normed: Tensor) -> Tensor:
    """Attention matrices of a timm attention layer: (W, N, d) normalised tokens -> (W, H, N, N), rows = queries."""
    joint = layer.qkv(normed).unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key = layer.q_norm(joint[0]), layer.k_norm(joint[1])
    return torch.softmax(query @ key.transpose(-1, -2) * layer.scale, dim=-1)


def make_dino(model: Any, norm: Norm, directory: Path) -> Dino:
    """Wrap a loaded VisionTransformer.

    Raises:
        UserError: it cannot be used at other sizes, or has no block before the last.
    """
    if not model.dynamic_img_size or model.pos_embed is None:
        raise UserError(
            f"{directory}: this ViT takes one image size only; set dynamic_img_size in its timm_config.json"
        )
    if len(model.blocks) < 2:
        raise UserError(f"{directory}: an affinity needs a ViT of two blocks or more; train a deeper one")
    return Dino(model, norm)
