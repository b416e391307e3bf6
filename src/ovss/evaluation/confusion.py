"""Per-image confusion counts: one (truth, prediction) pixel table per image, kept sparse.

Intersections and unions are sums over images, so everything that is reported (mIoU over the split, per-class IoU,
intervals from resampled images, paired differences of two rows) comes from these counts and never from the images.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss.data.label_maps import IGNORED
from ovss.errors import UserError
from ovss.evaluation.arrays_file import write_arrays, write_ids

IntArray = npt.NDArray[np.int64]

COUNTS_FILE = "counts.npz"
IMAGES_FILE = "images.txt"
_DTYPES = {"image": np.int32, "truth": np.int16, "prediction": np.int16, "pixels": np.int64}
_MEND = "remove the directory and run again"


def count_pixels(
    label: npt.NDArray[Any], prediction: npt.NDArray[Any], num_classes: int, ignore: int = IGNORED
) -> IntArray:
    """Count the (truth, prediction) pairs of one image.

    Args:
        label: (H, W) integers, class index or ``ignore``; ignored pixels are counted nowhere.
        prediction: (H, W) integers in [0, num_classes]; the value ``num_classes`` means "no class": such a pixel
            is missing from its true class and adds to no predicted class.
        num_classes: number of classes C.
        ignore: label value of ignored pixels.

    Returns:
        (m, 3) int64, columns truth, prediction, pixels (> 0), sorted by truth then prediction.

    Raises:
        ValueError: shapes differ, or a value is outside its range.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label is {label.shape}, prediction is {prediction.shape}: they must have one shape")
    for name, values in (("label", label), ("prediction", prediction)):
        if values.size and values.min() < 0:
            raise ValueError(f"{name} has the negative value {values.min()}")
    width = num_classes + 1
    if prediction.size and prediction.max() > num_classes:
        raise ValueError(f"prediction has the value {prediction.max()}, the highest allowed is {num_classes}")
    cells, pixels = _occurring((label.astype(np.intp) * width + prediction).ravel(), ignore)
    truth = cells // width
    outside = (truth >= num_classes) & (truth != ignore)
    if outside.any():
        raise ValueError(f"label has the value {truth[outside][0]}, the highest allowed is {num_classes - 1}")
    rows = np.stack([truth, cells % width, pixels], axis=1).astype(np.int64)
    kept: IntArray = rows[truth != ignore]
    return kept


def _occurring(pairs: npt.NDArray[np.intp], ignore: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The different numbers and how often each occurs.

    One bincount over all label values, the ignored one among them, is faster than cutting the pixels out first; with
    labels of 16 bits its table would have up to 65536 times the number of classes entries, so they are sorted.
    """
    if ignore > IGNORED:
        return np.unique(pairs, return_counts=True)
    table = np.bincount(pairs)
    (cells,) = np.nonzero(table)
    return cells, table[cells]


@dataclass(frozen=True, eq=False)
class ConfusionCounts:
    """Confusion counts of a set of images in coordinate form, sorted by (image, truth, prediction).

    images: n image ids, sorted, each once. image: (k,) int32 index into images. truth: (k,) int16 in [0, C).
    prediction: (k,) int16 in [0, C], C = no class. pixels: (k,) int64 > 0. num_classes: C.
    Build with ``collect``, ``load`` or ``concat``: they bring the entries into this order.
    """

    images: tuple[str, ...]
    image: npt.NDArray[np.int32]
    truth: npt.NDArray[np.int16]
    prediction: npt.NDArray[np.int16]
    pixels: IntArray
    num_classes: int

    @classmethod
    def collect(cls, counts: Iterable[tuple[str, IntArray]], num_classes: int) -> ConfusionCounts:
        """Join ``(image id, result of count_pixels)`` pairs, given in any order.

        Raises:
            ValueError: an image id occurs twice.
        """
        pairs = list(counts)
        tables = [table for _, table in pairs]
        rows = np.concatenate([np.zeros((0, 3), np.int64), *tables])
        image = np.repeat(np.arange(len(pairs)), [len(table) for table in tables])
        return cls._canonical([name for name, _ in pairs], image, rows[:, 0], rows[:, 1], rows[:, 2], num_classes)

    @classmethod
    def _canonical(
        cls,
        names: Sequence[str],
        image: npt.NDArray[Any],
        truth: npt.NDArray[Any],
        prediction: npt.NDArray[Any],
        pixels: npt.NDArray[Any],
        num_classes: int,
    ) -> ConfusionCounts:
        """Sort images by id and entries by (image, truth, prediction)."""
        if len(set(names)) != len(names):
            twice = next(name for name in sorted(names) if list(names).count(name) > 1)
            raise ValueError(f"image {twice!r} is counted twice")
        by_id = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names), np.int64)
        rank[by_id] = np.arange(len(names))
        image = rank[image.astype(np.int64)]
        order = np.lexsort((prediction, truth, image))
        return cls(
            images=tuple(names[i] for i in by_id),
            image=image[order].astype(np.int32),
            truth=truth[order].astype(np.int16),
            prediction=prediction[order].astype(np.int16),
            pixels=pixels[order].astype(np.int64),
            num_classes=int(num_classes),
        )

    @classmethod
    def concat(cls, shards: Sequence[ConfusionCounts]) -> ConfusionCounts:
        """Join the shards of one split; the result does not depend on how the split was cut.

        Raises:
            ValueError: no shard, different numbers of classes, or an image in two shards.
        """
        if not shards:
            raise ValueError("no counts to join")
        if len({shard.num_classes for shard in shards}) > 1:
            raise ValueError(f"shards have different numbers of classes: {[s.num_classes for s in shards]}")
        starts = np.cumsum([0] + [len(shard.images) for shard in shards])
        return cls._canonical(
            [name for shard in shards for name in shard.images],
            np.concatenate([s.image.astype(np.int64) + start for s, start in zip(shards, starts, strict=False)]),
            np.concatenate([shard.truth for shard in shards]),
            np.concatenate([shard.prediction for shard in shards]),
            np.concatenate([shard.pixels for shard in shards]),
            shards[0].num_classes,
        )

    def save(self, directory: Path) -> None:
        """Write counts.npz (stored, not compressed: the bytes depend on the counts only) and images.txt."""
        arrays = {name: getattr(self, name) for name in _DTYPES} | {"num_classes": np.int64(self.num_classes)}
        write_arrays(directory / COUNTS_FILE, arrays)
        write_ids(directory / IMAGES_FILE, self.images)

    @classmethod
    def load(cls, directory: Path) -> ConfusionCounts:
        """Read what ``save`` wrote.

        Raises:
            UserError: a file is missing, damaged or not consistent.
        """
        path = directory / COUNTS_FILE
        try:
            images = (directory / IMAGES_FILE).read_text(encoding="utf-8").split("\n")[:-1]
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in _DTYPES}
                num_classes = int(file["num_classes"])
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: cannot be read ({error}); {_MEND}") from error
        _check_entries(path, arrays, len(images), num_classes)
        try:
            return cls._canonical(images, **arrays, num_classes=num_classes)
        except ValueError as error:
            raise UserError(f"{path}: {error}; {_MEND}") from error

    def areas(self) -> tuple[IntArray, IntArray, IntArray]:
        """Pixels per image and class: (intersection, truth, prediction), each (n, C) int64."""
        shape = (len(self.images), self.num_classes)
        hit = self.truth == self.prediction
        known = self.prediction < self.num_classes
        return (
            _scatter(shape, self.image[hit], self.truth[hit], self.pixels[hit]),
            _scatter(shape, self.image, self.truth, self.pixels),
            _scatter(shape, self.image[known], self.prediction[known], self.pixels[known]),
        )

    def intersections_unions(self) -> tuple[IntArray, IntArray]:
        """Intersection and union of truth and prediction per image and class, each (n, C) int64 pixels."""
        intersection, truth, prediction = self.areas()
        return intersection, truth + prediction - intersection


def _scatter(shape: tuple[int, int], rows: npt.NDArray[Any], columns: npt.NDArray[Any], values: IntArray) -> IntArray:
    out = np.zeros(shape, np.int64)
    np.add.at(out, (rows.astype(np.int64), columns.astype(np.int64)), values)
    return out


def _check_entries(path: Path, arrays: dict[str, npt.NDArray[Any]], images: int, num_classes: int) -> None:
    """Refuse arrays that ``save`` cannot have written."""
    limits = {"image": images - 1, "truth": num_classes - 1, "prediction": num_classes, "pixels": None}
    for name, highest in limits.items():
        array = arrays[name]
        good = array.ndim == 1 and array.dtype == _DTYPES[name] and len(array) == len(arrays["pixels"])
        if good and array.size:
            good = array.min() >= 0 and (highest is None or array.max() <= highest)
        if not good:
            raise UserError(f"{path}: array {name!r} is not what was written; {_MEND}")
