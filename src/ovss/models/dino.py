"""DINO beside CLIP: its attention as an affinity (FreeCP) and its patch features (TAG).

DINO: Caron et al. 2021, DINOv2: Oquab et al. 2023. FreeCP says (Tables 5 and 6) that DINO replaces CLIP in the affinity
and not how. The reading here changes the network and nothing else: the mean over heads and over all blocks but the last
of the attention between patches, as from CLIP. The windows are resized so that DINO's own patches are CLIP's patch
grid, so no map has to be resampled. Position embeddings at that grid are timm's (bicubic with antialias), with which
the models of the tiny scales were trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.models.position import position_table
from ovss.models.resized import Norm, resized

PositionRule = Literal["hub", "timm"]
# Normalisation of colours that leaves them as they are.
_AS_THEY_ARE = Norm((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
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
        return torch.cat([self._patch_attention(images) for images in self._inputs(colours, grid, self.norm)])

    def tokens(self, colours: Tensor, grid: tuple[int, int], position: PositionRule, normalise: bool = True) -> Tensor:
        """Patch features behind the last block and the final normalisation layer.

        Args:
            colours: (W, 3, Hc, Wc) float32, RGB in 0..1, on any device; resized so that the patches are the grid.
            grid: (h, w), the wanted patch grid.
            position: position embeddings at that grid, ``hub`` as DINOv2's own code makes them (bicubic without
                antialias, 0.1 added to the wanted side), ``timm`` with antialias.
            normalise: whether the network gets colours less its mean over its deviation, or colours as they are.

        Returns:
            (W, h*w, d) float32 on the model's device, not normalised, patches in raster order.
        """
        parts = self._inputs(colours, grid, self.norm if normalise else _AS_THEY_ARE)
        return torch.cat([self._last_tokens(images, position) for images in parts])

    def _inputs(self, colours: Tensor, grid: tuple[int, int], norm: Norm) -> list[Tensor]:
        """Windows at the size at which the patches are the grid, in chunks."""
        rows, columns = self.model.patch_embed.patch_size
        size = (grid[0] * rows, grid[1] * columns)
        chunk = max(1, CHUNK_TOKENS // (grid[0] * grid[1] + self.model.num_prefix_tokens))
        return [resized(part.to(self.model.pos_embed.device), size, norm) for part in colours.split(chunk)]

    def _last_tokens(self, images: Tensor, position: PositionRule) -> Tensor:
        model = self.model
        patches = model.patch_embed(images)
        entering = model._pos_embed(patches) if position == "timm" else self._hub_embed(patches)
        tokens: Tensor = model.norm(model.blocks(model.norm_pre(entering)))
        return tokens[:, model.num_prefix_tokens :]

    def _hub_embed(self, patches: Tensor) -> Tensor:
        """Tokens that enter block 0 with DINOv2's own position embeddings, (W, h, w, d) -> (W, prefix + h*w, d)."""
        model, own = self.model, self.model.pos_embed[0]
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        grid = (patches.shape[1], patches.shape[2])
        # The first row of the table is the class token's to position_table, which leaves it alone.
        table = torch.cat([own.new_zeros(1, own.shape[1]), own[prefix:]])
        tokens = patches.flatten(1, 2) + position_table(table, model.patch_embed.grid_size, grid, "scale")[1:]
        extra = [token.expand(len(tokens), -1, -1) for token in (model.cls_token, model.reg_token) if token is not None]
        if extra and prefix:
            extra = [torch.cat(extra, dim=1) + own[:prefix]]
        return torch.cat([*extra, tokens], dim=1)

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
