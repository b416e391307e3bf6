"""TTD's tag selection (section 3.1, equations 1, 2 and 7): how much an image shows a word, and which words it shows.

All functions take one image and its caption's n tags. Embeddings are raw, as the encoders give them, in float32 or
float64: half precision would make ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ovss.errors import UserError

Scoring = Literal["pixel", "image", "text", "image_text", "segment_share"]
Selection = Literal["largest_gap", "threshold"]
Range = Literal["softmax", "minmax"]
Pool = Literal["raw", "unit"]

_SHORTEST = 1e-6
_LEAST_SPREAD = 1e-5


@dataclass(frozen=True)
class TagSelection:
    """Every constant of the selection.

    scoring: the best pixel (equation 2), the pooled image (1), the caption (7), the sum of the last two, or the share
    of pixels that a tag wins (Figure 9). selection: all above the largest gap of the scores, or above ``threshold``.
    score_range: how cosines come to range from 0 to 1 before a threshold (appendix A.2 does not say): softmax over the
    caption's tags of ``scale`` times the cosine, or from least to most. pool: mean of the pixels' raw or unit vectors.

    Raises:
        UserError: a name that is not known, or a number out of range.
    """

    scoring: Scoring = "pixel"
    selection: Selection = "largest_gap"
    threshold: float = 0.5
    score_range: Range = "softmax"
    scale: float = 100.0
    pool: Pool = "raw"

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        for name, names in (("scoring", Scoring), ("selection", Selection), ("score_range", Range), ("pool", Pool)):
            if getattr(self, name) not in get_args(names):
                raise UserError(f"settings.{name}: '{getattr(self, name)}' is not one of {', '.join(get_args(names))}")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"settings.threshold: {self.threshold} is out of range; give a number from 0 to 1")
        if not 0 < self.scale < float("inf"):
            raise UserError(f"settings.scale: {self.scale} is out of range; give a positive number")


def cosine_maps(pixels: Tensor, texts: Tensor) -> Tensor:
    """Similarity of every pixel and every text (equation 3).

    Args:
        pixels: (C, H, W) float.
        texts: (n, C) float.

    Returns:
        (n, H, W) cosines.
    """
    return torch.einsum("chw,nc->nhw", normalize(pixels, dim=0, eps=_SHORTEST), normalize(texts, dim=1, eps=_SHORTEST))


def pixel_scores(maps: Tensor) -> Tensor:
    """Equation 2: of maps (n, H, W) the highest value of each, (n,)."""
    return maps.flatten(1).amax(dim=1)


def image_scores(pixels: Tensor, tags: Tensor, pool: Pool = "raw") -> Tensor:
    """Equation 1: cosine of the pooled pixels (C, H, W) and of tags (n, C), (n,)."""
    pixels = normalize(pixels, dim=0, eps=_SHORTEST) if pool == "unit" else pixels
    return text_scores(pixels.flatten(1).mean(dim=1), tags)


def text_scores(text: Tensor, tags: Tensor) -> Tensor:
    """Equation 7: cosine of a caption (C,) and of tags (n, C), (n,)."""
    return normalize(tags, dim=1, eps=_SHORTEST) @ normalize(text, dim=0, eps=_SHORTEST)


def segment_shares(maps: Tensor) -> Tensor:
    """Figure 9: of maps (n, H, W) the share of pixels where each is the highest, the first of equals; (n,)."""
    winners = maps.flatten(1).argmax(dim=0)
    return torch.bincount(winners, minlength=len(maps)).to(maps.dtype) / winners.numel()


def softmax_range(scores: Tensor, scale: float = 100.0) -> Tensor:
    """Scores (n,) as shares of 1 among the caption's tags."""
    return (scale * scores).softmax(dim=0)


def minmax_range(scores: Tensor) -> Tensor:
    """Scores (n,) stretched to 0..1; all 0 where they do not differ."""
    least, most = scores.aminmax()
    return (scores - least) / (most - least).clamp_min(_LEAST_SPREAD)


def tag_scores(pixels: Tensor, caption: Tensor, tags: Tensor, settings: TagSelection) -> Tensor:
    """The scores that a selection compares and that a ranking (mAP) sorts.

    Before a threshold cosines are brought to 0..1, each part of a sum alone; the largest gap looks at the cosines.

    Args:
        pixels: (C, H, W).
        caption: (C,).
        tags: (n, C), n from 1.
        settings: which score.

    Returns:
        (n,) of the embeddings' dtype.
    """
    if settings.scoring == "segment_share":
        return segment_shares(cosine_maps(pixels, tags))
    parts: list[Tensor] = []
    if settings.scoring == "pixel":
        parts.append(pixel_scores(cosine_maps(pixels, tags)))
    if settings.scoring in ("image", "image_text"):
        parts.append(image_scores(pixels, tags, settings.pool))
    if settings.scoring in ("text", "image_text"):
        parts.append(text_scores(caption, tags))
    if settings.selection == "threshold":
        softmax = settings.score_range == "softmax"
        parts = [softmax_range(part, settings.scale) if softmax else minmax_range(part) for part in parts]
    return torch.stack(parts).sum(dim=0)


def largest_gap(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """Which tags lie above the largest gap between neighbours of the sorted scores (section 3.1).

    The first of equal gaps counts, so that the fewest tags are selected. A single tag is selected, and so are tags
    without any gap between them.

    Args:
        scores: (..., n) finite; captions in any leading axes.
        valid: (..., n) bool, False where a caption has fewer tags; None = all.

    Returns:
        (..., n) bool, of invalid places False.
    """
    valid = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    if scores.shape[-1] < 2:
        return valid.clone()
    ordered = scores.masked_fill(~valid, -torch.inf).sort(dim=-1, descending=True, stable=True).values
    upper, lower = ordered[..., :-1], ordered[..., 1:]
    gaps = torch.where(lower.isfinite(), upper - lower, torch.zeros_like(lower))
    largest, place = gaps.max(dim=-1, keepdim=True)
    least = torch.where(largest > 0, upper.gather(-1, place), torch.full_like(largest, -torch.inf))
    return valid & (scores >= least)


def select(scores: Tensor, settings: TagSelection) -> Tensor:
    """Which tags are taken to be in the image, (n,) bool; ``scores`` (n,) are those of ``tag_scores``."""
    return largest_gap(scores) if settings.selection == "largest_gap" else scores > settings.threshold
