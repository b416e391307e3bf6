"""Segmentation metrics from class areas (pixels of intersection, truth and prediction).

All functions work on the last axis (classes) and take any leading axes, such as bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ovss.errors import UserError

FloatArray = npt.NDArray[np.float64]
Absent = Literal["skip", "zero"]


def _share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> FloatArray:
    """part / whole, NaN where whole is 0."""
    out = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def mean_over_classes(values: FloatArray, absent: Absent) -> FloatArray:
    """Mean over the last axis; NaN marks a class with an empty union.

    Args:
        values: (..., C), NaN for absent classes.
        absent: "skip" leaves absent classes out of the mean (mmseg, TCL), "zero" counts them as 0 (ReCLIP++).

    Returns:
        (...) float64, NaN where "skip" leaves nothing.

    Raises:
        UserError: unknown convention.
    """
    if absent not in get_args(Absent):
        raise UserError(f"absent: {absent!r} is unknown, use one of {', '.join(get_args(Absent))}")
    present = ~np.isnan(values)
    total = np.where(present, values, 0.0).sum(axis=-1)
    count = present.sum(axis=-1) if absent == "skip" else np.full(total.shape, values.shape[-1])
    return _share(np.asarray(total), np.asarray(count))


def per_class_iou(intersection: npt.NDArray[Any], union: npt.NDArray[Any]) -> FloatArray:
    """IoU of each class in percent, (..., C) float64, NaN where the union is empty."""
    return 100.0 * _share(intersection, union)


def miou(intersection: npt.NDArray[Any], union: npt.NDArray[Any], absent: Absent = "skip") -> float:
    """Mean IoU in percent.

    Args:
        intersection, union: (C,) pixels summed over the split.
        absent: what a class with an empty union counts, see ``mean_over_classes``.

    Raises:
        UserError: no class occurs, so there is no mean.
    """
    value = float(mean_over_classes(per_class_iou(intersection, union), absent))
    if not np.isfinite(value):
        raise UserError("no class occurs in the labels or the predictions: there is no mean IoU")
    return value


Metric = Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], Absent], FloatArray]


def _miou(hit: npt.NDArray[Any], truth: npt.NDArray[Any], predicted: npt.NDArray[Any], absent: Absent) -> FloatArray:
    return mean_over_classes(per_class_iou(hit, truth + predicted - hit), absent)


def _fpr(hit: npt.NDArray[Any], truth: npt.NDArray[Any], predicted: npt.NDArray[Any], absent: Absent) -> FloatArray:
    """Mean share of the union that is predicted only, so that IoU/100 + mFPR + mFNR = 1 (TTD, Table 3)."""
    return mean_over_classes(_share(predicted - hit, truth + predicted - hit), absent)


def _fnr(hit: npt.NDArray[Any], truth: npt.NDArray[Any], predicted: npt.NDArray[Any], absent: Absent) -> FloatArray:
    """Mean share of the union that is true only."""
    return mean_over_classes(_share(truth - hit, truth + predicted - hit), absent)


def _accuracy(
    hit: npt.NDArray[Any], truth: npt.NDArray[Any], predicted: npt.NDArray[Any], absent: Absent
) -> FloatArray:
    """Share of labelled pixels that have their class, in percent; ``absent`` has no influence."""
    return 100.0 * _share(np.asarray(hit.sum(axis=-1)), np.asarray(truth.sum(axis=-1)))


METRICS: dict[str, Metric] = {"miou": _miou, "fpr": _fpr, "fnr": _fnr, "pixel_accuracy": _accuracy}


def metric(name: str) -> Metric:
    """The metric of a table: ``(intersection, truth, prediction (..., C), absent) -> (...)``.

    miou and pixel_accuracy are percentages, fpr and fnr (means over classes, as miou) shares in [0, 1].

    Raises:
        UserError: unknown name.
    """
    if name not in METRICS:
        raise UserError(f"metric: {name!r} is unknown, use one of {', '.join(sorted(METRICS))}")
    return METRICS[name]
