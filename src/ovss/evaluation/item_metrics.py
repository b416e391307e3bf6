"""Figures of texts from ``ItemCounts``, for all texts alike or under weights of the texts (a bootstrap's resamples).

A figure takes weights (R, n) of the n texts and gives (R,) values. Counts that are pooled over texts are weighted and
added, means over texts are weighted means; with weight 1 everywhere both are the figures of
``ovss.evaluation.tag_metrics`` and ``ovss.evaluation.caption_metrics``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ovss.errors import UserError
from ovss.evaluation.items import ItemCounts, Kind
from ovss.evaluation.metrics import FloatArray, mean_over_classes, per_class_iou
from ovss.evaluation.tag_metrics import SELECTION, average_precision, rates

Figure = Callable[[FloatArray], FloatArray]

# Columns of mask counts: true positive, false positive, false negative, true negative.
_BACKGROUND = [3, 2, 1, 0]


def figure(items: ItemCounts, name: str) -> Figure:
    """The figure as a function of weights.

    Of words: precision, recall, f1, accuracy (over all words of all texts) and map (mean over texts). Of masks:
    caption_iou (mean over texts of the foreground's IoU), caption_iou_pooled (the pixels of all texts),
    caption_iou_both and caption_iou_both_pooled (foreground and background), fpr and fnr (mean over texts, shares of
    the union), referring_iou and referring_oiou (mean over texts, pixels of all). Of scores: map (mean over concepts).
    All in percent, fpr and fnr in 0..1.

    Raises:
        UserError: another name, or no text has a value.
    """
    known = _FIGURES[items.kind]
    if name not in known:
        raise UserError(f"metric: '{name}' is not known for texts with {items.kind}; there are {', '.join(known)}")
    return known[name](items)


def value(items: ItemCounts, name: str) -> float:
    """The figure of all texts alike; errors as ``figure``."""
    return float(figure(items, name)(np.ones((1, len(items.ids))))[0])


def _mean(values: FloatArray, what: str) -> Figure:
    """Weighted mean of the texts' values (n,), without those that are NaN."""
    defined = ~np.isnan(values)
    if not defined.any():
        raise UserError(f"{what}; check that words and masks were prepared")

    def weighted(weights: FloatArray) -> FloatArray:
        # Not a product of matrices: its rounding would depend on the linear algebra library.
        kept = weights[:, defined]
        found: FloatArray = (kept * values[defined]).sum(axis=1) / kept.sum(axis=1)
        return found

    return weighted


# Words


def _word_counts(items: ItemCounts) -> FloatArray:
    """``tag_metrics.count_words`` of every text, (n, 4)."""
    truth, chosen = items.arrays["truth"], items.arrays["chosen"]
    text = np.repeat(np.arange(len(items.ids)), items.arrays["lengths"])
    cells = [truth & chosen, ~truth & chosen, truth & ~chosen, ~truth & ~chosen]
    return np.stack([np.bincount(text[cell], minlength=len(items.ids)) for cell in cells], axis=1).astype(np.float64)


def _selection(name: str) -> Callable[[ItemCounts], Figure]:
    def make(items: ItemCounts) -> Figure:
        if not len(items.arrays["truth"]):
            raise UserError(f"{name}: there is no word to judge; check that the captions and their tags were prepared")
        counts = _word_counts(items)
        return lambda weights: rates(weights @ counts)[name]  # type: ignore[arg-type]

    return make


def _sample_map(items: ItemCounts) -> Figure:
    if np.isnan(items.arrays["scores"]).any():
        raise UserError("map: this way of choosing words gives them no scores, so there is no ranking")
    pairs = zip(items.per_item("truth"), items.per_item("scores"), strict=True)
    values = np.array([average_precision(truth, scores) for truth, scores in pairs])
    return _mean(values, "map: no text has a true word")


# Masks


def _iou(counts: npt.NDArray[np.generic]) -> FloatArray:
    """Foreground IoU in percent of counts (..., 4), NaN for an empty union."""
    counts = np.asarray(counts, np.float64)
    return per_class_iou(counts[..., 0], counts[..., :3].sum(axis=-1))


def _iou_of_both(counts: npt.NDArray[np.generic]) -> FloatArray:
    """Mean of the IoU of foreground and background, of those that have one."""
    return mean_over_classes(np.stack([_iou(counts), _iou(counts[..., _BACKGROUND])], axis=-1), "skip")


def _share(column: int) -> Callable[[npt.NDArray[np.generic]], FloatArray]:
    """A column of the counts (..., 4) as a share of the foreground's union."""

    def share(counts: npt.NDArray[np.generic]) -> FloatArray:
        counts = np.asarray(counts, np.float64)
        return per_class_iou(counts[..., column], counts[..., :3].sum(axis=-1)) / 100.0

    return share


def _per_mask(of_counts: Callable[[npt.NDArray[np.generic]], FloatArray]) -> Callable[[ItemCounts], Figure]:
    empty = "no text has a pixel in its mask or in its prediction"
    return lambda items: _mean(of_counts(items.arrays["counts"]), empty)


def _pooled(of_counts: Callable[[npt.NDArray[np.generic]], FloatArray]) -> Callable[[ItemCounts], Figure]:
    def make(items: ItemCounts) -> Figure:
        counts = items.arrays["counts"].astype(np.float64)
        if not counts[:, :3].any():
            raise UserError("no text has a pixel in its mask or in its prediction; check the masks")
        return lambda weights: of_counts(weights @ counts)

    return make


# Scores of concepts


def _class_map(items: ItemCounts) -> Figure:
    truth, scores = items.arrays["truth"], items.arrays["scores"]
    if not np.isfinite(scores).all():
        raise UserError("map: a score is not a number; check the weights and run the row again")
    orders = np.argsort(-scores, axis=0, kind="stable").astype(np.int32)
    ranked = [(order, np.flatnonzero(shown[order])) for order, shown in zip(orders.T, truth.T, strict=True)]
    ranked = [(order, hits) for order, hits in ranked if len(hits)]
    if not ranked:
        raise UserError("map: no concept is shown by any image; check that the concepts were prepared")

    def weighted(weights: FloatArray) -> FloatArray:
        columns = np.ascontiguousarray(weights.T)
        found: FloatArray = np.mean([_weighted_precision(columns, *each) for each in ranked], axis=0)
        return found

    return weighted


def _weighted_precision(weights: FloatArray, order: npt.NDArray[np.int32], hits: npt.NDArray[np.intp]) -> FloatArray:
    """Average precision in percent where an image counts as often as its weight says.

    Args:
        weights: (n, R) whole numbers above 0.
        order: (n,) images from the highest score down.
        hits: (P,) ranks of the positives, ascending, P from 1.

    Returns:
        (R,).
    """
    ordered = weights[order[: hits[-1] + 1]]
    own = ordered[hits]
    reached = np.add.reduceat(ordered, np.concatenate([[0], hits[:-1] + 1]), axis=0).cumsum(axis=0)
    found: FloatArray = 100.0 * (own * (own.cumsum(axis=0) / reached)).sum(axis=0) / own.sum(axis=0)
    return found


_FIGURES: Mapping[Kind, Mapping[str, Callable[[ItemCounts], Figure]]] = {
    "words": {name: _selection(name) for name in SELECTION} | {"map": _sample_map},
    "masks": {
        "caption_iou": _per_mask(_iou), "caption_iou_pooled": _pooled(_iou),
        "caption_iou_both": _per_mask(_iou_of_both), "caption_iou_both_pooled": _pooled(_iou_of_both),
        "fpr": _per_mask(_share(1)), "fnr": _per_mask(_share(2)),
        "referring_iou": _per_mask(_iou), "referring_oiou": _pooled(_iou),
    },
    "scores": {"map": _class_map},
}  # fmt: skip
