"""Text embeddings of class names as TCL's evaluation makes them (Cha et al. 2023, code)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ovss.models.clip import Clip
from ovss.models.templates import TCL as TEMPLATES
from ovss.models.text import encode_texts, mean_embedding

__all__ = ["TEMPLATES", "mean_embedding", "mean_text"]


def mean_text(clip: Clip, texts: Sequence[str]) -> Tensor:
    """``mean_embedding`` of the prompts of one class: (D,) float32, unit length."""
    return mean_embedding(encode_texts(clip, texts))
