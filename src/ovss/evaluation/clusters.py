"""Confusion counts of images cut into clusters: pixels are looked at once, however many rows name the clusters."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ovss.data.labels import IGNORED, ignored_in
from ovss.evaluation.preprocess import resize_nearest

Ints = npt.NDArray[np.int64]
DROPPED = -1
"""A cluster whose pixels count nowhere."""
_CLUSTERS = 256


def count_cells(clusters: npt.NDArray[np.uint8], label: npt.NDArray[Any]) -> tuple[Ints, Ints, Ints]:
    """Pixels of every pair (cluster, class in the label).

    Args:
        clusters: (H, W).
        label: (H', W') class indices, uint8 or uint16, brought to the clusters' size (nearest neighbour).

    Returns:
        (cluster, truth, pixels), each (m,) int64; ignored pixels are left out.
    """
    label = resize_nearest(torch.from_numpy(label), (clusters.shape[0], clusters.shape[1])).numpy()
    ignored = ignored_in(label)
    values = ignored + 1
    pairs = (clusters.astype(np.intp) * values + label).ravel()
    if ignored > IGNORED:  # a table of all pairs would have 16 million entries
        cells, pixels = np.unique(pairs, return_counts=True)
    else:
        pixels = np.bincount(pairs)
        (cells,) = np.nonzero(pixels)
        pixels = pixels[cells]
    scored = cells % values != ignored
    cells = cells[scored]
    return cells // values, cells % values, pixels[scored]


def cluster_classes(
    clusters: npt.NDArray[np.integer],
    class_index: Ints,
    num_classes: int,
    below_threshold: Literal["dropped", "wrong"],
) -> Ints:
    """What each cluster of an image is.

    Args:
        clusters: (n,) numbers in the map of the image's segments.
        class_index: (n,) their classes, -1 = below the threshold.
        num_classes: C.
        below_threshold: whether pixels of such a segment count nowhere, or as of no class.

    Returns:
        (256,) a class, C = no class, or ``DROPPED``. A cluster that is no segment (its embedding was not finite) has no
        class.
    """
    below = DROPPED if below_threshold == "dropped" else num_classes
    classes = np.full(_CLUSTERS, num_classes, np.int64)
    classes[clusters] = np.where(class_index < 0, below, class_index)
    return classes


def count_clusters(cells: tuple[Ints, Ints, Ints], classes: Ints, num_classes: int) -> Ints:
    """Confusion counts of an image, as ``ovss.evaluation.confusion.count_pixels`` gives them.

    Args:
        cells: of ``count_cells``.
        classes: of ``cluster_classes``.
        num_classes: C.

    Returns:
        (k, 3) int64, columns truth, prediction, pixels, sorted by truth then prediction.

    Raises:
        ValueError: the label has a value above the classes.
    """
    cluster, truth, pixels = cells
    if truth.size and truth.max() >= num_classes:
        raise ValueError(f"label has the value {truth.max()}, the highest allowed is {num_classes - 1}")
    counted = classes[cluster] != DROPPED
    pairs = truth[counted] * (num_classes + 1) + classes[cluster[counted]]
    kinds, place = np.unique(pairs, return_inverse=True)
    sums = np.zeros(len(kinds), np.int64)
    np.add.at(sums, place, pixels[counted])
    return np.stack([kinds // (num_classes + 1), kinds % (num_classes + 1), sums], axis=1)
