"""Bayesian bootstrap over images or texts: percentile intervals of a metric and of the difference of two rows.

A resample weighs the n images with independent exponential weights (Rubin 1981, The Bayesian Bootstrap). Drawing
images with replacement would lose the classes that few images hold from the mean, which shifts the interval of an mIoU
away from its value; with weights every class stays in every resample. The class areas of R resamples are one matrix
product, weights (R, n) @ areas (n, 3 C). The weights are whole (in 1/1024), so all numbers in it are whole and below
2^53: the sums are exact, whatever the order in which the linear algebra library adds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ovss.errors import UserError
from ovss.evaluation.confusion import ConfusionCounts
from ovss.evaluation.item_metrics import figure
from ovss.evaluation.items import ItemCounts
from ovss.evaluation.metrics import Absent, FloatArray, metric

# Resamples drawn at a time, each block from its own random stream: bounds memory, and a longer run begins with the
# resamples of a shorter one.
_BLOCK = 50
_UNIT = 1024
"""Weights are multiples of 1 / _UNIT of the mean weight, at least one."""


@dataclass(frozen=True)
class Resampled:
    """A metric on the whole split (``value``) and on R resamples of its images (``resamples``, (R,) float64)."""

    value: float
    resamples: FloatArray

    def interval(self, level: float = 0.95) -> tuple[float, float, float]:
        """``(value, low, high)``: the percentile interval that leaves (1 - level) / 2 out on either side."""
        if not 0 < level < 1:
            raise UserError(f"bootstrap level must lie between 0 and 1, not {level}")
        low, high = np.percentile(self.resamples, [50 * (1 - level), 50 * (1 + level)])
        return self.value, float(low), float(high)

    def __sub__(self, other: Resampled) -> Resampled:
        """Difference resample by resample: paired where both come from the same images and seed."""
        return Resampled(self.value - other.value, self.resamples - other.resamples)


def mean(parts: Sequence[Resampled]) -> Resampled:
    """Mean of several data sets' values, resample by resample."""
    return Resampled(
        float(np.mean([part.value for part in parts])), np.mean([part.resamples for part in parts], axis=0)
    )


def image_weights(images: Sequence[str], seed: int, block: int, rows: int) -> FloatArray:
    """Weight of each image in ``rows`` resamples, (rows, n) float64: whole, at least 1, exponential with mean 1024.

    The stream is seeded by the seed, the image ids and the block: equal image lists share their resamples, which
    pairs rows and data sets on the same images; different lists are resampled independently.
    """
    digest = hashlib.sha256("\n".join(images).encode()).digest()
    random = np.random.default_rng([seed, int.from_bytes(digest[:8], "little"), block])
    drawn = random.standard_exponential(size=(rows, len(images)))
    return np.maximum(1.0, np.rint(_UNIT * drawn))


def resample(
    counts: ConfusionCounts, metric_name: str = "miou", absent: Absent = "skip", seed: int = 0, resamples: int = 1000
) -> Resampled:
    """Compute a metric on all images and on resamples of them.

    Raises:
        UserError: no images, no labelled pixel, or no resamples asked for.
    """
    if not counts.images or resamples < 1:
        raise UserError(f"a bootstrap needs images and resamples, not {len(counts.images)} and {resamples}")
    score = metric(metric_name)
    classes = counts.num_classes
    areas = np.concatenate(counts.areas(), axis=1).astype(np.float64)

    def scores(summed: FloatArray) -> FloatArray:
        return score(summed[:, :classes], summed[:, classes : 2 * classes], summed[:, 2 * classes :], absent)

    value = float(scores(areas.sum(axis=0)[None])[0])
    if not np.isfinite(value):
        raise UserError(f"{metric_name} is undefined: no class occurs in these {len(counts.images)} images")
    return Resampled(value, _values(counts.images, lambda weights: scores(weights @ areas), seed, resamples))


def resample_items(items: ItemCounts, metric_name: str, seed: int = 0, resamples: int = 1000) -> Resampled:
    """Compute a metric of ``item_metrics.figure`` on all texts and on resamples of them.

    Raises:
        UserError: no texts, a metric that these counts do not have, or no resamples asked for.
    """
    if not items.ids or resamples < 1:
        raise UserError(f"a bootstrap needs texts and resamples, not {len(items.ids)} and {resamples}")
    score = figure(items, metric_name)
    value = float(score(np.ones((1, len(items.ids))))[0])
    return Resampled(value, _values(items.ids, score, seed, resamples))


def _values(names: Sequence[str], score: Callable[[FloatArray], FloatArray], seed: int, resamples: int) -> FloatArray:
    """A function of weights (rows, n) on all resamples of n names, (resamples,)."""
    values = np.empty(resamples)
    for block, start in enumerate(range(0, resamples, _BLOCK)):
        weights = image_weights(names, seed, block, _BLOCK)[: resamples - start]
        values[start : start + _BLOCK] = score(weights)
    return values


def interval(
    counts: ConfusionCounts,
    absent: Absent = "skip",
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    metric_name: str = "miou",
) -> tuple[float, float, float]:
    """``(value, low, high)`` of a metric over the images of ``counts``."""
    return resample(counts, metric_name, absent, seed, resamples).interval(level)


def paired_difference(
    a: ConfusionCounts,
    b: ConfusionCounts,
    absent: Absent = "skip",
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    metric_name: str = "miou",
) -> tuple[float, float, float]:
    """``(a - b, low, high)``, both rows evaluated on the same resampled images.

    Raises:
        UserError: the rows were not evaluated on the same images.
    """
    return paired(a, b, metric_name, absent, seed, resamples).interval(level)


def paired(
    a: ConfusionCounts,
    b: ConfusionCounts,
    metric_name: str = "miou",
    absent: Absent = "skip",
    seed: int = 0,
    resamples: int = 1000,
) -> Resampled:
    """The difference a - b on all images and on resamples of them; errors as ``paired_difference``."""
    if a.images != b.images:
        raise UserError(f"rows on different images ({len(a.images)} and {len(b.images)}) cannot be paired")
    options = (metric_name, absent, seed, resamples)
    return resample(a, *options) - resample(b, *options)
