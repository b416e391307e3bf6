"""GEM: a second stream of self-self attention beside the last blocks (Bousselham et al. 2024, sections 3.2 and 3.3)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.errors import UserError
from ovss.models.dense import Heads, merge_heads, split_heads

DepthLimit = Literal["layers", "none"]
Stream = Literal["accumulate", "last_block"]


def first_block(layers: int, depth: int, limit: DepthLimit) -> int:
    """Index of the first block with a self-self branch: the last ``depth - 1`` blocks have one.

    Block 0 must stay as trained, so ``depth`` may not exceed the number of layers. ``limit="layers"`` lowers it to
    that number for shallower networks (our rule; the published code fails), ``"none"`` refuses.

    Raises:
        UserError: the depth is below 2, or above the number of layers under ``"none"``.
    """
    if limit == "none" and depth > layers:
        raise UserError(f"gem_depth: {depth} needs at least {depth} blocks, the model has {layers}; lower gem_depth")
    used = min(depth, layers)
    if used < 2:
        raise UserError(f"gem_depth: {depth} on a model of {layers} blocks leaves no self-self block; use 2 or more")
    return layers - used + 1


def self_attention(heads: Heads, iterations: int) -> Tensor:
    """Values mixed by the mean of the three self-self attentions, (W, H, N, e).

    For u in (value, key, query): ``iterations`` times u <- softmax(t u u') u on rows of unit norm, then the attention
    softmax(t u u') of the normalised result. Temperature t = e^-0.5 times the mean token norm, one per window.
    """
    temperature = heads.normed.norm(dim=-1).mean(dim=1) * heads.query.shape[-1] ** -0.5
    factor = temperature[:, None, None, None]
    total = torch.zeros_like(heads.value)
    for start in (heads.value, heads.key, heads.query):
        unit = F.normalize(start, dim=-1)
        for _ in range(iterations):
            mixed = F.scaled_dot_product_attention(unit * factor, unit, unit, scale=1.0)
            unit = F.normalize(mixed, dim=-1)
        total = total + F.scaled_dot_product_attention(unit * factor, unit, heads.value, scale=1.0)
    return total / 3


def gem_tokens(visual: Any, inputs: list[Tensor], start: int, iterations: int, stream: Stream) -> Tensor:
    """Tokens of the self-self stream behind the last block; no feed-forward is ever applied to it.

    Args:
        visual: open_clip VisionTransformer.
        inputs: L block inputs (W, N, d) of the network as trained, with antialiased position embeddings.
        start: first block with a branch, see ``first_block``.
        iterations: self-self iterations.
        stream: ``accumulate`` adds every branch to the input of the first (GEM, FreeCP); ``last_block`` keeps the
            last branch alone (ClearCLIP's copy of GEM).

    Returns:
        (W, N, d) float32.
    """
    tokens = inputs[start]
    for block, block_input in zip(visual.transformer.resblocks[start:], inputs[start:], strict=True):
        branch = merge_heads(block, self_attention(split_heads(block, block_input), iterations))
        tokens = branch if stream == "last_block" else tokens + branch
    return tokens
