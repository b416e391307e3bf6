"""Per-pixel embeddings of a CLIP vision transformer as TCL's code makes them, and maps of texts over an image.

Source: TCL (Cha et al. 2023); the value path is MaskCLIP's (Zhou et al. 2022, section 3.2). Blocks are called as
modules, so that adapters inside them take part and gradients flow. Shapes: B images, N texts, D joint dimension,
d width, h and w patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.models.dense import feed_forward
from ovss.models.windows import Grid

# Smallest length of an embedding that is divided by.
_SHORTEST = 1e-6


def image_tokens(visual: Any, images: Tensor) -> Tensor:
    """Tokens that enter the last block, class token first: (B, 3, H, W) -> (B, 1 + h*w, d).

    Args:
        visual: open_clip VisionTransformer.
        images: normalised RGB, float32; pixels that fill no patch are dropped.
    """
    patches = visual.conv1(images)
    table = position_table(visual.positional_embedding, visual.grid_size, (patches.shape[-2], patches.shape[-1]))
    first = visual.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
    tokens = visual.ln_pre(torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + table)
    for block in visual.transformer.resblocks[:-1]:
        tokens = block(tokens)
    return tokens


def position_table(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1 + gy*gx, d) at a patch grid (h, w): (1 + h*w, d), bicubic unless the grid is the native.

    Unlike the rules of ``ovss.models.position``, a grid with as many patches but another shape is resized too.
    """
    if grid == tuple(native):
        return table
    patches = table[1:].float().T.reshape(1, -1, *native)
    resized = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], resized[0].flatten(1).T.to(table.dtype)])


def value_tokens(block: Any, tokens: Tensor) -> Tensor:
    """A block in which every token attends to itself alone, residuals and feed-forward kept: (B, n, d) -> (B, n, d).

    The attention may be torch's or one with separate projections ``v_proj`` and ``out_proj``.
    """
    attention, normed = block.attn, block.ln_1(tokens)
    if hasattr(attention, "v_proj"):
        values = attention.v_proj(normed)
    else:
        values = F.linear(normed, attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2])
    return feed_forward(block, tokens + block.ls_1(attention.out_proj(values)))


def maskclip_embeddings(visual: Any, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """MaskCLIP's dense features, of any length: tokens (B, 1 + h*w, d) before the last block -> (B, D, h, w)."""
    hidden = visual.ln_post(value_tokens(visual.transformer.resblocks[-1], tokens[:, 1:]))
    return (hidden @ visual.proj).transpose(1, 2).unflatten(2, grid)


def similarity_maps(embeddings: Tensor, text: Tensor) -> Tensor:
    """Cosine of every pixel with every text: (B, D, h, w), (N, D) -> (B, N, h, w); lengths below 1e-6 count as that."""
    unit = F.normalize(text, dim=-1, eps=_SHORTEST)
    return torch.einsum("bdhw,nd->bnhw", F.normalize(embeddings, dim=1, eps=_SHORTEST), unit)


def pad_images(images: Tensor, patch: int) -> tuple[Tensor, tuple[int, int]]:
    """Images with zeros on both sides up to whole patches, the larger half behind; and (rows, columns) put before."""
    missing = [-side % patch for side in images.shape[-2:]]
    (top, left), (rows, columns) = (side // 2 for side in missing), missing
    return F.pad(images, (left, columns - left, top, rows - top)), (top, left)


def crop_upsampled(maps: Tensor, padded: Sequence[int], before: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Maps (B, N, h, w) of padded images at full size (bilinear, corners not aligned), padding cut: (B, N, *size)."""
    full = F.interpolate(maps, tuple(padded), mode="bilinear", align_corners=False)
    return full[..., before[0] : before[0] + size[0], before[1] : before[1] + size[1]]


def with_background(maps: Tensor, threshold: float) -> Tensor:
    """A constant plane put before the classes: (..., N, H, W) -> (..., 1 + N, H, W)."""
    plane = torch.full_like(maps[..., :1, :, :], threshold)
    return torch.cat([plane, maps], dim=-3)


def finer_grid(grid: Grid, factor: int) -> Grid:
    """The same windows with maps that have ``factor`` positions along a patch, for ``ovss.models.windows.stitch``."""
    rows, columns = (replace(axis, patch=axis.patch // factor) for axis in (grid.rows, grid.columns))
    return Grid(rows, columns)
