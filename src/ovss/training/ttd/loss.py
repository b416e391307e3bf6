"""TTD's selection and losses (Jo et al. 2024, sections 3.1 and 3.2, equations 2 to 6).

Shapes: B images, P cells of the feature grid, n words of the longest caption (shorter ones are padded), D joint
dimension. ``valid`` (B, P) bool marks cells that show the image; padding takes part in no maximum, range or loss.
Everything runs in the dtype of its input, at least float32: the largest gap is a discontinuous choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.errors import UserError
from ovss.methods._ttd_scores import largest_gap

MapKind = Literal["cosine", "mask"]
Tagging = Literal["pixel", "image", "given"]
Reduction = Literal["mean", "sum"]
RANGE_FLOOR, NORM_FLOOR = 1e-5, 1e-6
CLIP_SIGMOID = (10.0, -2.5)


@dataclass(frozen=True)
class LossSettings:
    """The paper's ablations and what it leaves open.

    map: maps are cosines (Eq. 3 as printed) or ``mask``, sigmoid(scale * cosine + bias). scale, bias: of that sigmoid;
    None: what the base model has (MaskCLIP 10 and -2.5, TCL its learned ones), held fixed. distill, tag: which terms
    there are (Table 5a). tagging: what selects words (Table 5b). pixels: reduction over the cells. tags: over the words
    (Eq. 5 sums). ignore_padding: whether cells of padding take no part.
    """

    map: MapKind = "cosine"
    scale: float | None = None
    bias: float | None = None
    pixels: Reduction = "mean"
    tags: Reduction = "sum"
    distill: bool = True
    tag: bool = True
    tagging: Tagging = "pixel"
    ignore_padding: bool = True

    def __post_init__(self) -> None:
        """Refuse a training without a loss."""
        if not self.distill and not self.tag:
            raise UserError("training.distill, training.tag: both are off, nothing is left to train; switch one on")

    def sigmoid(self, default: tuple[float, float]) -> tuple[float, float]:
        """Scale and bias, by default those given."""
        scale, bias = default
        return scale if self.scale is None else self.scale, bias if self.bias is None else self.bias


@dataclass(frozen=True)
class Maps:
    """Maps of the captions (B, P) and of their words (B, n, P)."""

    text: Tensor
    tags: Tensor


@dataclass(frozen=True)
class Losses:
    """Terms per image (B,) and the words selected (B, n) bool."""

    distill: Tensor
    tag: Tensor
    selected: Tensor

    @property
    def total(self) -> Tensor:
        """Mean over the images of both terms (Eq. 6)."""
        return (self.distill + self.tag).mean()


def exact(values: Tensor) -> Tensor:
    """The values in at least float32; a view of them where they are already."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def similarity(pixels: Tensor, texts: Tensor, settings: LossSettings) -> Tensor:
    """Maps of texts: (B, P, D) pixel and (B, n, D) text embeddings of any norm -> (B, n, P) (Eq. 3)."""
    text, pixel = (F.normalize(exact(each), dim=-1, eps=NORM_FLOOR) for each in (texts, pixels))
    cosine = text @ pixel.transpose(1, 2)
    if settings.map == "cosine":
        return cosine
    scale, bias = settings.sigmoid(CLIP_SIGMOID)
    return torch.sigmoid(scale * cosine + bias)


def similarity_maps(pixels: Tensor, texts: Tensor, tags: Tensor, settings: LossSettings) -> Maps:
    """Maps of captions (B, D) and words (B, n, D) on pixels (B, P, D)."""
    both = similarity(pixels, torch.cat([texts[:, None], tags], dim=1), settings)
    return Maps(both[:, 0], both[:, 1:])


def pixel_scores(tags: Tensor, valid: Tensor) -> Tensor:
    """s_pixel (Eq. 2): maximum of every word's map over the valid cells, (B, n, P) -> (B, n)."""
    return tags.masked_fill(~valid[:, None], -torch.inf).amax(dim=-1)


@torch.no_grad()
def choose(
    maps: Maps,
    pixels: Tensor,
    tags: Tensor,
    present: Tensor,
    valid: Tensor,
    tagging: Tagging,
    given: Tensor | None = None,
) -> Tensor:
    """Words taken to be in the image, by the model as it is (section 3.1); no gradient.

    Args:
        maps: of the words.
        pixels: (B, P, D) embeddings.
        tags: (B, n, D) embeddings.
        present: (B, n) bool, False where a shorter caption is padded.
        valid: (B, P) bool.
        tagging: best pixel, pooled image, or ``given`` (Table 5b).
        given: (B, n) bool, for ``given``.

    Returns:
        (B, n) bool.
    """
    if tagging == "given":
        if given is None:
            raise UserError("training.tagging: 'given' needs the chosen words of every caption; hand them over")
        return given & present
    if tagging == "image":
        pooled = (exact(pixels) * valid[..., None]).sum(dim=1)
        scores = F.cosine_similarity(pooled[:, None], exact(tags), dim=-1, eps=NORM_FLOOR)
    else:
        scores = pixel_scores(maps.tags, valid)
    return largest_gap(scores, present)


def min_max(maps: Tensor, valid: Tensor) -> Tensor:
    """(..., P) maps stretched to 0..1 over their valid cells (``valid`` is broadcast); a flat map becomes zero."""
    low = maps.masked_fill(~valid, torch.inf).amin(dim=-1, keepdim=True)
    high = maps.masked_fill(~valid, -torch.inf).amax(dim=-1, keepdim=True)
    return (maps - low) / (high - low).clamp(min=RANGE_FLOOR)


@torch.no_grad()
def targets(tags: Tensor, selected: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """What the maps are drawn to, without gradient (Eq. 4 and 5).

    Args:
        tags: (B, n, P) maps of the words.
        selected: (B, n) bool.
        valid: (B, P) bool.

    Returns:
        Targets of the words (B, n, P), zero for those rejected; target of the caption (B, P), the union of the others.
    """
    goals = min_max(tags, valid[:, None]) * selected[..., None]
    # Stretched maps are never below zero on valid cells, so rejected words leave the maximum alone.
    return goals, goals.amax(dim=1)


def distances(maps: Tensor, goals: Tensor, valid: Tensor, reduction: Reduction) -> Tensor:
    """Squared differences over the valid cells, summed or averaged: (..., P) -> (...)."""
    total = (maps - goals).square().masked_fill(~valid, 0).sum(dim=-1)
    return total / valid.sum(dim=-1) if reduction == "mean" else total


def losses(maps: Maps, selected: Tensor, present: Tensor, valid: Tensor, settings: LossSettings) -> Losses:
    """Both losses of every image (Eq. 4 and 5); a term that is switched off is zero.

    A caption without a selected word has no union and no first term.

    Args:
        maps: of captions and words, with gradient.
        selected: (B, n) bool.
        present: (B, n) bool, at least one word per image.
        valid: (B, P) bool, at least one cell per image.
        settings: terms and reductions.
    """
    goals, union = targets(maps.tags, selected, valid)
    distill = distances(maps.text, union, valid, settings.pixels) * (selected.any(dim=1) * settings.distill)
    each = distances(maps.tags, goals, valid[:, None], settings.pixels).masked_fill(~present, 0)
    tag = each.sum(dim=1) * settings.tag
    return Losses(distill, tag / present.sum(dim=1) if settings.tags == "mean" else tag, selected)
