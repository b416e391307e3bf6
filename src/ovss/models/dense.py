"""Patch features of a CLIP vision transformer: the shared blocks and the variants of the last one.

Sources: CLIP (Radford et al. 2021, section 2.4), MaskCLIP (Zhou et al. 2022, section 3.2), SCLIP (Wang et al. 2023,
section 3.2), ClearCLIP (Lan et al. 2024, section 3.3) and FreeCP's versions of them. Shapes: W windows, N = 1 + h*w
tokens (class token first, patches in raster order), d width, H heads, e = d/H, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.models.position import PositionRule, position_table

Variant = Literal["vanilla", "MaskCLIP", "SCLIP", "ClearCLIP"]
HeadRule = Literal["mean", "first"]
Family = Literal["freecp_block", "attention_only", "full_block"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class Heads:
    """Input of a block's attention: ``normed`` = ln_1(x), (W, N, d); query, key, value (W, H, N, e)."""

    normed: Tensor
    query: Tensor
    key: Tensor
    value: Tensor


def patch_grid(visual: Any, windows: Tensor) -> tuple[int, int]:
    """(h, w) of the patch grid of (W, 3, Hc, Wc) windows; pixels that fill no patch are dropped."""
    rows, columns = visual.patch_size
    return windows.shape[-2] // rows, windows.shape[-1] // columns


def embed(visual: Any, windows: Tensor, rule: PositionRule) -> Tensor:
    """Tokens that enter block 0.

    Args:
        visual: open_clip VisionTransformer.
        windows: (W, 3, Hc, Wc) float32, normalised RGB.
        rule: interpolation of the position embeddings.

    Returns:
        (W, N, d) float32.
    """
    patches = visual.conv1(windows).flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(windows), 1, -1)
    table = position_table(visual.positional_embedding, visual.grid_size, patch_grid(visual, windows), rule)
    return visual.ln_pre(torch.cat([first, patches], dim=1) + table)


def split_heads(block: Any, tokens: Tensor) -> Heads:
    """Query, key and value of a block for (W, N, d) tokens, by its own normalisation and projection."""
    normed = block.ln_1(tokens)
    attention = block.attn
    joint = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in joint.chunk(3, dim=-1)
    )
    return Heads(normed, query, key, value)


def merge_heads(block: Any, mixed: Tensor) -> Tensor:
    """Out-projection of the concatenated heads: (W, H, N, e) -> (W, N, d)."""
    return F.linear(mixed.transpose(1, 2).flatten(2), block.attn.out_proj.weight, block.attn.out_proj.bias)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(e^-0.5 query key') value per head, (W, H, N, e)."""
    return F.scaled_dot_product_attention(query, key, value)


def mix_values(heads: Heads, variant: Variant) -> Tensor:
    """Values mixed by the variant's attention, (W, H, N, e); the class token takes part everywhere.

    vanilla: softmax(q k'). MaskCLIP: identity. SCLIP: softmax(q q') + softmax(k k'), a sum whose rows add to 2.
    ClearCLIP: softmax(q q'). Every logit carries the factor e^-0.5.
    """
    if variant == "vanilla":
        return attend(heads.query, heads.key, heads.value)
    if variant == "MaskCLIP":
        return heads.value
    by_query = attend(heads.query, heads.query, heads.value)
    return by_query if variant == "ClearCLIP" else add_key_attention(heads, by_query)


def add_key_attention(heads: Heads, by_query: Tensor) -> Tensor:
    """SCLIP's mixed values from ClearCLIP's: softmax(q q') v + softmax(k k') v, (W, H, N, e)."""
    return by_query + attend(heads.key, heads.key, heads.value)


def feed_forward(block: Any, tokens: Tensor) -> Tensor:
    """Tokens plus the block's feed-forward branch, (W, N, d)."""
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def standard_block(block: Any, tokens: Tensor, heads: Heads | None = None) -> Tensor:
    """A transformer block as trained: attention and feed-forward, each with its residual; (W, N, d).

    ``heads``: the block's heads for these tokens, where they were made already.
    """
    mixed = mix_values(heads or split_heads(block, tokens), "vanilla")
    return feed_forward(block, tokens + block.ls_1(merge_heads(block, mixed)))


def encode(
    visual: Any, windows: Tensor, rule: PositionRule, affinities: Sequence[HeadRule] = ()
) -> tuple[list[Tensor], dict[HeadRule, Tensor]]:
    """Run blocks 0..L-2 as trained, once for every variant.

    Returns:
        Inputs of all L blocks, (W, N, d) each, and per head rule the affinity of ``patch_affinity``, equal to it.
    """
    inputs = [embed(visual, windows, rule)]
    sums = {kind: torch.zeros((), device=windows.device) for kind in affinities}
    blocks = visual.transformer.resblocks[:-1]
    for block in blocks:
        heads = split_heads(block, inputs[-1])
        for kind in sums:
            sums[kind] = sums[kind] + attention_weights(heads, kind)
        inputs.append(standard_block(block, inputs[-1], heads))
    return inputs, {kind: total[:, 1:, 1:] / len(blocks) for kind, total in sums.items()}


def pool_last_block(visual: Any, tokens: Tensor) -> Tensor:
    """Unit features of whole windows from the last block's input, (W, N, d) -> (W, D).

    Where the class token is all that is pooled, the last block runs for it alone.
    """
    block = visual.transformer.resblocks[-1]
    if visual.pool_type != "tok":
        return image_features(visual, standard_block(block, tokens))
    heads = split_heads(block, tokens)
    mixed = attend(heads.query[:, :, :1], heads.key, heads.value)
    return image_features(visual, feed_forward(block, tokens[:, :1] + block.ls_1(merge_heads(block, mixed))))


def encode_images(visual: Any, images: Tensor, rule: PositionRule) -> Tensor:
    """Unit features of whole images by the network as trained, (K, 3, H, W) -> (K, D); nothing else is kept."""
    tokens = embed(visual, images, rule)
    for block in visual.transformer.resblocks[:-1]:
        tokens = standard_block(block, tokens)
    return pool_last_block(visual, tokens)


def last_block(block: Any, tokens: Tensor, mixed: Tensor, variant: Variant, family: Family) -> Tensor:
    """Output tokens of the modified last block, (W, N, d).

    ``attention_only``: the attention output alone (ClearCLIP's evaluation code). ``full_block``: block input added
    back, then the feed-forward with its residual (SCLIP's code). ``freecp_block``: no block input; the feed-forward
    with its residual except for ClearCLIP (FreeCP's code).

    Args:
        block: last block.
        tokens: (W, N, d), its input.
        mixed: (W, H, N, e), result of ``mix_values``.
        variant: what ``mixed`` was made with.
        family: which parts of the block stay.
    """
    output = block.ls_1(merge_heads(block, mixed))
    if family == "full_block":
        return feed_forward(block, tokens + output)
    if family == "attention_only" or variant == "ClearCLIP":
        return output
    return feed_forward(block, output)


def joint_features(visual: Any, tokens: Tensor) -> Tensor:
    """Unit-norm joint features of every token: normalise(ln_post(tokens) @ proj), (W, N, d) -> (W, N, D)."""
    return F.normalize(projected(visual, tokens), dim=-1)


def projected(visual: Any, tokens: Tensor) -> Tensor:
    """Joint features of every token, of any norm: ln_post(tokens) @ proj, (W, N, d) -> (W, N, D)."""
    features: Tensor = visual.ln_post(tokens)
    return features if visual.proj is None else features @ visual.proj


def image_features(visual: Any, tokens: Tensor) -> Tensor:
    """Unit-norm features of whole windows by the network's own pooling, (W, N, d) -> (W, D)."""
    pooled, _ = visual._pool(tokens)
    return F.normalize(pooled if visual.proj is None else pooled @ visual.proj, dim=-1)


def attention_weights(heads: Heads, kind: HeadRule) -> Tensor:
    """Attention as trained, rows = queries, over heads as ``kind`` says: (W, N, N)."""
    query, key = heads.query * heads.query.shape[-1] ** -0.5, heads.key.transpose(-1, -2)
    if kind == "first":
        return torch.softmax(query[:, 0] @ key[:, 0], dim=-1)
    # Head by head: a tensor of all heads is twelve times as large and slower to walk through.
    total = torch.softmax(query[:, 0] @ key[:, 0], dim=-1)
    for head in range(1, query.shape[1]):
        total += torch.softmax(query[:, head] @ key[:, head], dim=-1)
    return total / query.shape[1]


def patch_affinity(visual: Any, inputs: list[Tensor], kind: HeadRule) -> Tensor:
    """Mean attention of blocks 0..L-2 between patches (FreeCP, affinity): class row and column cut, not rescaled.

    Args:
        visual: open_clip VisionTransformer.
        inputs: L block inputs (W, N, d).
        kind: ``mean`` over the heads, or the ``first`` head alone (what FreeCP's code does for GEM).

    Returns:
        (W, n, n) float32, n = N - 1.
    """
    blocks = list(visual.transformer.resblocks)[:-1]
    total = torch.zeros((), device=inputs[0].device)
    for block, tokens in zip(blocks, inputs, strict=False):
        total = total + attention_weights(split_heads(block, tokens), kind)
    return total[:, 1:, 1:] / len(blocks)
