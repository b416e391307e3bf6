"""Masks of a whole text: TTD's CaptionIoU (Table 3), and the mean and overall IoU of referring expressions (Table 11).

The paper does not say over what it takes its mean. The rates are shares of the union, as in the author's other
repository: in every printed row IoU/100 + FPR + FNR is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ovss.errors import UserError

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
CaptionMean = Literal["sample_fg", "pooled_fg", "pooled_bgfg", "sample_bgfg"]
Box = tuple[int, int, int, int]

# Columns of the counts with foreground and background exchanged.
_BACKGROUND = (3, 2, 1, 0)


@dataclass(frozen=True)
class CaptionScore:
    """IoU in percent; false positives and false negatives as shares of the union. The three add up to 1."""

    iou: float
    fpr: float
    fnr: float


def count_mask(truth: Bools, predicted: Bools, counted: Bools | None = None) -> Ints:
    """Right and wrong pixels of a mask.

    Args:
        truth, predicted: (H, W) bool, True = foreground.
        counted: (H, W) bool, which pixels count; None = all.

    Returns:
        (4,) int64: true positive, false positive, false negative, true negative.

    Raises:
        ValueError: the sizes differ, or a mask is not bool (a file may write foreground as 1 or as 255).
    """
    masks = (truth, predicted) if counted is None else (truth, predicted, counted)
    if any(mask.shape != truth.shape or mask.dtype != bool for mask in masks):
        raise ValueError(f"masks of {[(mask.shape, str(mask.dtype)) for mask in masks]}: need bool of one size")
    if counted is not None:
        truth, predicted = truth[counted], predicted[counted]
    hit, true, chosen = map(np.count_nonzero, (truth & predicted, truth, predicted))
    return np.array([hit, chosen - hit, true - hit, truth.size - true - chosen + hit], np.int64)


def _triples(counts: npt.NDArray[Any]) -> Floats:
    """(..., 4) counts to (..., 3) shares of the union: hit, false positive, false negative; NaN for an empty union."""
    parts = np.asarray(counts, np.float64)[..., :3]
    union = parts.sum(axis=-1, keepdims=True)
    return np.divide(parts, union, out=np.full(parts.shape, np.nan), where=union > 0)


def _mean(triples: Floats, axis: int = 0) -> Floats:
    """Mean over an axis of what is defined, NaN where nothing is."""
    defined = ~np.isnan(triples)
    count = defined.sum(axis=axis)
    total = np.where(defined, triples, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def caption_score(counts: Ints, mean: CaptionMean = "sample_fg") -> CaptionScore:
    """CaptionIoU and its two rates.

    Args:
        counts: (N, 4), those of ``count_mask`` for every pair.
        mean: over pairs, of the foreground (``sample_fg``) or of background and foreground (``sample_bgfg``); or the
            pixels of all pairs together, of either (``pooled_fg``, ``pooled_bgfg``). Pairs without a pixel in mask and
            prediction have no value and are left out.

    Raises:
        UserError: unknown mean, or no pair has a value.
    """
    if mean not in get_args(CaptionMean):
        raise UserError(f"settings.caption_mean: '{mean}' is not one of {', '.join(get_args(CaptionMean))}")
    counts = np.asarray(counts).reshape(-1, 4)
    if mean.startswith("pooled"):
        counts = counts.sum(axis=0, keepdims=True)
    triples = _triples(counts)
    if mean.endswith("bgfg"):
        triples = _mean(np.stack([triples, _triples(counts[:, _BACKGROUND])]))
    hit, wrong, missed = map(float, _mean(triples))
    if np.isnan(hit):
        raise UserError("CaptionIoU: no pair has a pixel in its mask or in its prediction; check the masks")
    return CaptionScore(100.0 * hit, wrong, missed)


def mean_iou(counts: Ints) -> float:
    """IoU of each expression, averaged, in percent (the reading of Table 11 taken here); counts (N, 4).

    Raises:
        UserError: no expression has a mask or a prediction.
    """
    return caption_score(counts, "sample_fg").iou


def overall_iou(counts: Ints) -> float:
    """IoU of the pixels of all expressions together, in percent; counts (N, 4).

    Raises:
        UserError: no expression has a mask or a prediction.
    """
    return caption_score(counts, "pooled_fg").iou


def boxes(masks: Sequence[npt.NDArray[Any]]) -> list[Box | None]:
    """Smallest boxes around masks (H, W): (xmin, ymin, xmax, ymax), all inclusive; None for an empty mask."""
    return [_box(mask) for mask in masks]


def _box(mask: npt.NDArray[Any]) -> Box | None:
    (rows,), (columns,) = np.nonzero(mask.any(axis=1)), np.nonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
