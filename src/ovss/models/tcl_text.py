"""Text embeddings of class names as TCL's evaluation makes them (Cha et al. 2023, code)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ovss.models.clip import Clip
from ovss.models.text import encode_texts

# CLIP's subset of seven templates, and two of TCL's own.
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "a photo of many {}.",
    "a photo of {}s.",
)


def mean_embedding(embeddings: Tensor) -> Tensor:
    """Mean over templates before any normalisation, then unit length: (..., templates, D) -> (..., D).

    CLIP's own ensemble (``ovss.models.text.mean_feature``) normalises every template's embedding first.
    """
    return F.normalize(embeddings.mean(dim=-2), dim=-1)


def mean_text(clip: Clip, texts: Sequence[str]) -> Tensor:
    """The same for the prompts of one class: (D,) float32, unit length."""
    return mean_embedding(encode_texts(clip, texts))
