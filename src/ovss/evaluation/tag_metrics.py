"""How well words were chosen and ranked: TTD's precision, recall, F1 and accuracy, and mean average precision.

Tables 2, 8 and 9 pool all words of all captions: only so do the printed numbers agree with each other. All figures are
percentages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ovss.errors import UserError

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SELECTION = ("precision", "recall", "f1", "accuracy")


def count_words(truth: Bools, chosen: Bools) -> Ints:
    """Right and wrong choices among a caption's words.

    Args:
        truth: (n,) whether the image shows the word.
        chosen: (n,) whether it was chosen.

    Returns:
        (4,) int64: true positive, false positive, false negative, true negative.

    Raises:
        ValueError: the two differ in length.
    """
    truth, chosen = np.asarray(truth, bool), np.asarray(chosen, bool)
    if truth.shape != chosen.shape:
        raise ValueError(f"{truth.shape} words and {chosen.shape} choices")
    found = [truth & chosen, ~truth & chosen, truth & ~chosen, ~truth & ~chosen]
    return np.array([np.count_nonzero(each) for each in found], np.int64)


def _percent(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> Floats:
    """100 part / whole, 0 where whole is 0."""
    out = np.zeros(np.shape(part))
    np.divide(np.multiply(part, 100.0), whole, out=out, where=np.asarray(whole) > 0)
    return out


def rates(counts: Ints) -> dict[str, Floats]:
    """``SELECTION`` from counts (..., 4) of ``count_words``, each (...); 0 where there is nothing to divide by."""
    hit, wrong, missed, rest = np.moveaxis(np.asarray(counts), -1, 0)
    found = (
        _percent(hit, hit + wrong),
        _percent(hit, hit + missed),
        _percent(2 * hit, 2 * hit + wrong + missed),
        _percent(hit + rest, hit + wrong + missed + rest),
    )
    return dict(zip(SELECTION, found, strict=True))


def pooled(counts: Ints) -> Mapping[str, float]:
    """``SELECTION`` over all words of N captions, counts (N, 4).

    Raises:
        UserError: no words at all.
    """
    return {name: float(value) for name, value in rates(_some(counts).sum(axis=0)).items()}


def macro(counts: Ints) -> Mapping[str, float]:
    """Means over captions of each caption's ``SELECTION``; not what the paper prints.

    Raises:
        UserError: no words at all.
    """
    return {name: float(value.mean()) for name, value in rates(_some(counts)).items()}


def _some(counts: Ints) -> Ints:
    counts = np.asarray(counts).reshape(-1, 4)
    if not counts.sum():
        raise UserError(
            "tag selection: there is no word to judge; check that the captions and their tags were prepared"
        )
    return counts


def average_precision(truth: Bools, scores: npt.NDArray[np.floating]) -> float:
    """Mean over the positives of the precision at their rank, in percent; NaN without positives.

    Args:
        truth: (n,).
        scores: (n,), higher is earlier; equal scores stay in the given order.

    Raises:
        ValueError: a score is not finite, or the two differ in length.
    """
    truth, scores = np.asarray(truth, bool), np.asarray(scores)
    if truth.shape != scores.shape or not np.isfinite(scores).all():
        raise ValueError(f"{truth.shape} truths need as many finite scores, not {scores.shape}")
    (ranks,) = np.nonzero(truth[np.argsort(-scores, kind="stable")])
    if not len(ranks):
        return float("nan")
    return float(100.0 * (np.arange(1, len(ranks) + 1) / (ranks + 1)).mean())


def _mean_of_defined(values: Sequence[float], what: str) -> float:
    defined = [value for value in values if not np.isnan(value)]
    if not defined:
        raise UserError(f"mAP: no {what} has a positive; check that the tags were prepared")
    return float(np.mean(defined))


def sample_map(truths: Sequence[Bools], scores: Sequence[npt.NDArray[np.floating]]) -> float:
    """Mean average precision over captions that have a positive (Tables 2 and 9), in percent.

    Raises:
        UserError: no caption has one.
    """
    return _mean_of_defined([average_precision(*pair) for pair in zip(truths, scores, strict=True)], "caption")


def class_aps(truth: Bools, scores: npt.NDArray[np.floating]) -> Floats:
    """Average precision of each class over N images, truth and scores (N, K): (K,) percent, NaN without positives."""
    return np.array([average_precision(truth[:, each], scores[:, each]) for each in range(truth.shape[1])])


def class_map(truth: Bools, scores: npt.NDArray[np.floating]) -> float:
    """Mean of ``class_aps`` over the classes that have a positive (Table 10).

    Raises:
        UserError: no class has one.
    """
    return _mean_of_defined(class_aps(truth, scores).tolist(), "class")
