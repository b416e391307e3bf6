"""Predicted masks refined by HQ-SAM (TTD, appendix B.5 and Figure 10, Table 12).

"We generate corresponding bounding boxes for each mask. Then, we generate refined masks using HQ-SAM with masks and
bounding boxes." What the paper leaves open is a setting or said below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.models.hq_sam import HqSam

Region = Literal["class", "component"]
Prompt = Literal["hard", "soft"]


@dataclass(frozen=True)
class HqSamRefine:
    """What the paper does not say.

    region: one box for everything predicted as a class, or one for each of its connected parts (8 neighbours), whose
    refined masks are joined. prompt: the rough mask is the prediction, or the class's score inside it. strength: the
    largest logit of a rough mask; 10 is what SAM 2 makes of a mask without scores. hq_only: see ``HqSam.mask``.

    Raises:
        UserError: a name that is not known, or a strength that is not positive.
    """

    region: Region = "class"
    prompt: Prompt = "hard"
    strength: float = 10.0
    hq_only: bool = False

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        for name, names in (("region", Region), ("prompt", Prompt)):
            if getattr(self, name) not in get_args(names):
                raise UserError(f"settings.{name}: '{getattr(self, name)}' is not one of {', '.join(get_args(names))}")
        if not 0 < self.strength < float("inf"):
            raise UserError(f"settings.strength: {self.strength} is out of range; give a positive number")


def refine(
    image: Tensor,
    labels: Tensor,
    scores: Tensor,
    sam: HqSam,
    background: bool = True,
    settings: HqSamRefine | None = None,
) -> Tensor:
    """Labels after every predicted class has been given its refined mask.

    Where refined masks overlap, the class with the higher mean score over its predicted mask wins, of equal ones the
    first. Pixels in no refined mask become background, or keep their label where there is no background class.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int64, predicted class of every pixel.
        scores: (N, H, W) float32 in 0..1, soft map of every class (of the background any constant).
        sam: the model; the image goes through its encoder once.
        background: whether class 0 means none of the others; it is never refined.
        settings: see ``HqSamRefine``.

    Returns:
        (H, W) int64, on the device of ``labels``.
    """
    settings = settings or HqSamRefine()
    classes = [int(number) for number in labels.unique() if number or not background]
    if not classes:
        return labels.clone()
    encoded = sam.encode(image)
    refined = torch.zeros_like(labels) if background else labels.clone()
    best = torch.full(labels.shape, -torch.inf, device=labels.device)
    for number in classes:
        predicted = labels == number
        mean = scores[number].to(labels.device)[predicted].mean()
        for region in _regions(predicted, settings.region):
            rough = rough_logits(region, scores[number].to(labels.device), settings)
            inside = sam.mask(encoded, bounding_box(region), rough, settings.hq_only).to(labels.device) > 0
            wins = inside & (mean > best)
            refined[wins], best[wins] = number, mean
    return refined


def bounding_box(region: Tensor) -> tuple[int, int, int, int]:
    """x and y of the first and of the last pixel of a region (H, W) bool that has one."""
    rows, columns = (region.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def rough_logits(region: Tensor, score: Tensor, settings: HqSamRefine) -> Tensor:
    """A region (H, W) bool as logits, (H, W) float32: plus and minus the strength, or inside it the score's logit."""
    outside = torch.full_like(score, -settings.strength)
    inside = score.logit().clamp(-settings.strength, settings.strength) if settings.prompt == "soft" else -outside
    return torch.where(region, inside, outside)


def _regions(predicted: Tensor, kind: Region) -> Iterator[Tensor]:
    if kind == "class":
        yield predicted
        return
    import scipy.ndimage  # costs a second, and only this setting needs it

    numbers, count = scipy.ndimage.label(predicted.cpu().numpy(), structure=torch.ones(3, 3).numpy())
    parts = torch.from_numpy(numbers).to(predicted.device)
    for part in range(1, count + 1):
        yield parts == part
