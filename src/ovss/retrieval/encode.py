"""CLIP's text vectors of many texts: captions of a database, candidate words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.errors import UserError
from ovss.models.clip import Clip
from ovss.models.text import encode_tokens

ROWS = 256
"""Texts in a pass through the text tower; short passes are filled up, so that every product has the same shape."""
STEP = 8
"""Texts are cut to their own number of tokens, rounded up to a multiple of this."""
CHUNK = 16384
"""Texts that are tokenised and sorted by length together: bounds the memory and the share of filled-up rows."""
_REMEMBERED = 1_000_000


@torch.inference_mode()
def encode_unit(clip: Clip, texts: Sequence[str]) -> Tensor:
    """Unit text vectors, (n, D) float32 on the CPU; a text's vector does not depend on the other texts.

    A text is encoded at the length of its own tokens (attention is causal: the padding behind them is never seen), in
    passes of ``ROWS`` texts of one length.

    Raises:
        UserError: the text tower pools in an unknown way, or gives values that are not finite.
    """
    if clip.model.text_pool_type != "argmax":
        raise UserError(f"text tower: pooling '{clip.model.text_pool_type}' is not supported; use 'argmax'")
    chunks = [_encode_chunk(clip, texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    vectors = torch.cat(chunks) if chunks else torch.empty(0, dimension(clip))
    if not bool(torch.isfinite(vectors).all()):
        raise UserError("text tower: a text vector is not finite; the model's weights are damaged, make them again")
    return vectors


def dimension(clip: Clip) -> int:
    """Length D of a text vector."""
    projection = clip.model.text_projection
    return int(projection.out_features if isinstance(projection, torch.nn.Linear) else projection.shape[1])


def _encode_chunk(clip: Clip, texts: Sequence[str]) -> Tensor:
    tokens = clip.tokenizer(list(texts))
    _forget(clip.tokenizer)
    used = tokens.argmax(dim=-1) + 1
    lengths = (used + STEP - 1).div(STEP, rounding_mode="floor").mul(STEP).clamp(max=tokens.shape[1])
    vectors = torch.empty(len(texts), dimension(clip))
    for length in sorted(set(lengths.tolist())):
        for rows in torch.nonzero(lengths == length).squeeze(1).split(ROWS):
            batch = tokens.new_zeros(ROWS, length)
            batch[: len(rows)] = tokens[rows, :length]
            made = F.normalize(encode_tokens(clip, batch.to(clip.device)), dim=-1)
            vectors[rows] = made[: len(rows)].cpu()
    return vectors


def _forget(tokenizer: Any) -> None:
    """Empty the memory of the byte-pair encoder before it fills the machine's: web captions have millions of words."""
    memory = getattr(tokenizer, "cache", None)
    if isinstance(memory, dict) and len(memory) > _REMEMBERED:
        marks = {word: pieces for word, pieces in memory.items() if word == pieces}
        memory.clear()
        memory.update(marks)
