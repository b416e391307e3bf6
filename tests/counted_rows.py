"""Row directories with random counts, for the tests of tables, claims and diff."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ovss import origin
from ovss.evaluation.confusion import ConfusionCounts, count_pixels


def random_counts(
    seed: int, images: int = 12, classes: int = 4, hit: float = 0.5, first: int = 0, world: int = 0
) -> ConfusionCounts:
    """Random labels (by ``world`` and image) with predictions that are right with probability ``hit``."""
    counted = []
    for index in range(first, first + images):
        labels = np.random.default_rng([world, index]).integers(0, classes, (6, 7)).astype(np.uint8)
        random = np.random.default_rng([seed, index])
        predicted = np.where(random.random(labels.shape) < hit, labels, random.integers(0, classes, labels.shape))
        counted.append((f"image{index:03d}", count_pixels(labels, predicted, classes)))
    return ConfusionCounts.collect(counted, classes)


def write_row(root: Path, name: str, key: str, counts: ConfusionCounts, parts: dict[str, Any] | None = None) -> Path:
    """A finished row directory ``<name>.<key>`` with its origin."""
    directory = root / f"{name}.{key}"
    directory.mkdir(parents=True)
    counts.save(directory)
    origin.write(directory, {"key": key, "stage": "evaluate", "name": name, "parts": parts or {}})
    return directory
