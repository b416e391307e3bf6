"""Multi-head attention with four separate projections, so that an adapter on each is really used.

PyTorch's ``nn.MultiheadAttention`` calls no module for its output projection and keeps query, key and value in one
matrix: adapters on it are ignored without a word, or merged into the weights at every step.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ovss.errors import UserError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class SplitAttention(nn.Module):
    """Self-attention with the interface and the result of ``nn.MultiheadAttention`` (batch first, no dropout)."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    out_proj: nn.Module

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        check(source)
        width, self.num_heads = source.embed_dim, source.num_heads
        weights = [*source.in_proj_weight.detach().chunk(3), source.out_proj.weight.detach()]
        biases = [*source.in_proj_bias.detach().chunk(3), source.out_proj.bias.detach()]
        for name, weight, bias in zip(PROJECTIONS, weights, biases, strict=True):
            linear = nn.Linear(width, width, device="meta")
            linear.weight, linear.bias = nn.Parameter(weight.clone(), False), nn.Parameter(bias.clone(), False)
            self.add_module(name, linear)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """(W, N, d) -> (W, N, d); ``attn_mask`` (N, N) is added to the logits. No attention matrix is returned."""
        key = query if key is None else key
        value = key if value is None else value
        parts = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


def check(source: nn.MultiheadAttention) -> None:
    """Refuse an attention that four plain projections cannot replace.

    Raises:
        UserError: it has separate key widths, dropout, extra biases or no biases.
    """
    plain = source.in_proj_weight is not None and source.in_proj_bias is not None
    if not plain or source.dropout or source.bias_k is not None or source.add_zero_attn or not source.batch_first:
        raise UserError("attention: only batch-first self-attention with biases and no dropout can be split")


def split_attention(model: nn.Module) -> list[str]:
    """Replace every ``nn.MultiheadAttention`` below ``model`` in place; the names of those replaced, in order."""
    found = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.MultiheadAttention)]
    for name, part in found:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, SplitAttention(part))
    return [name for name, _ in found]
