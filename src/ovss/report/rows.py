"""Numbers of row directories: counts checked against their origin, resampled once, refused where edited."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ovss import origin
from ovss.errors import UserError
from ovss.evaluation.bootstrap import Resampled, resample, resample_items
from ovss.evaluation.confusion import ConfusionCounts
from ovss.evaluation.items import ITEMS_FILE, ItemCounts
from ovss.evaluation.metrics import Absent, FloatArray, per_class_iou

DECIMALS = 4


@dataclass(frozen=True)
class Measure:
    """What is computed from counts: a metric and the convention for absent classes."""

    metric: str = "miou"
    absent: Absent = "skip"


@dataclass(frozen=True)
class Bootstrap:
    """Resamples, level of the intervals and the seed of the resampling."""

    resamples: int
    level: float
    seed: int

    @classmethod
    def of(cls, params: Mapping[str, Any], seed: int) -> Bootstrap:
        """From ``{"resamples": R, "level": ...}``."""
        return cls(int(params["resamples"]), float(params["level"]), seed)


@dataclass(frozen=True)
class Score:
    """A number with what it rests on.

    resampled: its values. keys: of the rows. images: ids of the images, or of the texts of a row that judges texts.
    classes: per-class IoU in percent (NaN: absent); None for texts.
    """

    resampled: Resampled
    keys: tuple[str, ...]
    images: tuple[str, ...] = ()
    classes: FloatArray | None = None


def key_of(directory: Path) -> str:
    """The key in a directory's name, ``<name>.<key>``."""
    return directory.name.rpartition(".")[2]


def load_counts(directories: Sequence[Path]) -> ConfusionCounts | ItemCounts:
    """Counts of one row on one data set from its shards, each checked against its origin: of pixels, or of texts.

    Raises:
        UserError: an origin is missing or edited, or the shards do not belong together.
    """
    for directory in directories:
        try:
            origin.check(directory)
        except UserError as error:
            raise UserError(f"origin missing or edited: {_without_folder(error, directory)}") from error
    try:
        if directories and all((directory / ITEMS_FILE).is_file() for directory in directories):
            return ItemCounts.concat([ItemCounts.load(directory) for directory in directories])
        return ConfusionCounts.concat([ConfusionCounts.load(directory) for directory in directories])
    except ValueError as error:
        raise UserError(_without_folder(error, *directories)) from error


def counted(directories: Sequence[Path], resamples: int) -> Resampled:
    """The image-text pairs that a training had (facts.json), which no resampling of test images changes.

    Raises:
        UserError: the training's directory is edited or lacks the number.
    """
    (directory,) = directories
    origin.check(directory)
    path = directory / "facts.json"
    try:
        pairs = float(json.loads(path.read_text(encoding="utf-8"))["pairs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path.name}: no number of pairs ({error}); remove the directory and run again") from error
    return Resampled(pairs, np.full(resamples, pairs))


def _without_folder(error: ValueError, *directories: Path) -> str:
    """A message in which row directories stand without the machine's path to them: it ends up in results."""
    text = str(error)
    for directory in directories:
        text = text.replace(f"{directory.parent}/", "")
    return text


@dataclass(frozen=True)
class Rows:
    """The row directories among a job's inputs; every (directories, measure) is computed once."""

    inputs: Mapping[str, Path]
    bootstrap: Bootstrap
    _scores: dict[tuple[tuple[str, ...], Measure], Score | UserError] = field(default_factory=dict)

    def keys(self, names: Iterable[str]) -> tuple[str, ...]:
        """Keys of some inputs."""
        return tuple(key_of(self._directory(name)) for name in names)

    def _directory(self, name: str) -> Path:
        if name not in self.inputs:
            raise UserError(f"input {name!r} is not among those of the job: {', '.join(sorted(self.inputs))}")
        return self.inputs[name]

    def score(self, names: Sequence[str], measure: Measure) -> Score:
        """The measure on the images of some shards.

        Raises:
            UserError: why there is no number (``load_counts``, or nothing to measure).
        """
        task = (tuple(names), measure)
        if task not in self._scores:
            self._scores[task] = self._compute(*task)
        found = self._scores[task]
        if isinstance(found, UserError):
            raise found
        return found

    def _compute(self, names: tuple[str, ...], measure: Measure) -> Score | UserError:
        directories = [self._directory(name) for name in names]
        seed, resamples = self.bootstrap.seed, self.bootstrap.resamples
        try:
            if measure.metric == "count":
                return Score(counted(directories, resamples), self.keys(names))
            counts = load_counts(directories)
            if isinstance(counts, ItemCounts):
                return Score(resample_items(counts, measure.metric, seed, resamples), self.keys(names), counts.ids)
            values = resample(counts, measure.metric, measure.absent, seed, resamples)
        except UserError as error:
            return error
        intersection, union = counts.intersections_unions()
        classes = per_class_iou(intersection.sum(axis=0), union.sum(axis=0))
        return Score(values, self.keys(names), counts.images, classes)


def rounded(value: float) -> float:
    """A number as files have it; a zero without sign."""
    return round(float(value), DECIMALS) + 0.0


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys; refuses numbers that are not finite."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8", newline="\n")
