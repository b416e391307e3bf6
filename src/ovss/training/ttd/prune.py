"""Pruning of image-text pairs: those much more alike than usual stay (Jo et al. 2024, section 4.1).

Mean and deviation are taken over one data set at a time. The image vector is the mean of the pixel embeddings of the
whole image and its mirror image at 224 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.errors import UserError
from ovss.training.ttd.towers import Tower, texts


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of a stream of numbers, in float64 (Welford; Chan for blocks)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor) -> None:
        """Take in a block of numbers (n,)."""
        block = values.double()
        if not len(block):
            return
        mean, count = block.mean().item(), self.count + len(block)
        step = mean - self.mean
        self.squares += (block - mean).square().sum().item() + step * step * self.count * len(block) / count
        self.mean += step * len(block) / count
        self.count = count

    @property
    def threshold(self) -> float:
        """Mean plus the deviation of the population.

        Raises:
            UserError: no number was taken in, or one was not finite.
        """
        if not self.count or not math.isfinite(self.squares):
            raise UserError("pruning: no pairs, or a similarity that is not a number; check the images and weights")
        return self.mean + math.sqrt(self.squares / self.count)


def kept(similarities: Tensor) -> Tensor:
    """Which pairs of one data set stay: (n,) similarities -> (n,) bool, strictly above mean + deviation."""
    moments = Moments()
    moments.add(similarities)
    return similarities.double() > moments.threshold


@torch.no_grad()
def pair_similarities(tower: Tower, images: Tensor, captions: Sequence[str], flip: bool = True) -> Tensor:
    """Cosine of every image with its own caption, (B, 3, H, W) normalised RGB -> (B,) float32.

    With ``flip`` the embeddings of an image and its mirror image are averaged.
    """
    pooled = tower.pixels(images).float().mean(dim=(1, 2))
    if flip:
        pooled = pooled + tower.pixels(images.flip(-1)).float().mean(dim=(1, 2))
    return F.cosine_similarity(pooled, texts(tower.clip, captions).float(), dim=-1)
