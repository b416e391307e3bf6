"""Batches of image-text pairs as a function of the step, so that a run can go on anywhere and processes can share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ovss.data.ahead import in_order
from ovss.data.captions_words import CaptionWords
from ovss.data.pairs import Pair
from ovss.errors import UserError
from ovss.training.ttd.augment import Crop, CropSettings, random_crop
from ovss.training.ttd.processes import Process
from ovss.training.ttd.step import Batch

AHEAD = 2
"""Batches whose crops are made while a step runs: fewer would keep a GPU waiting, since a step takes all at once."""


class PairSource(Protocol):
    """Pairs by position, as ``ovss.data.pairs.Pairs`` has them."""

    def __len__(self) -> int:
        """Number of pairs."""

    def __getitem__(self, position: int) -> Pair:
        """The pair at a position."""


def steps_of(count: int, batch: int, epochs: int = 1) -> int:
    """Steps of some epochs of ``count`` pairs; the last pairs of an epoch that fill no batch are left out.

    Raises:
        UserError: there are fewer pairs than one batch has.
    """
    if count < batch:
        raise UserError(f"training: {count} pairs do not fill a batch of {batch}; lower training.batch or add pairs")
    return epochs * (count // batch)


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch, a permutation of 0..count-1."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def positions(count: int, batch: int, seed: int, first: int, process: Process) -> Iterator[tuple[int, int]]:
    """(number in the run, position) of this process's pairs from step ``first`` on, without end."""
    steps, rows, order = steps_of(count, batch), process.share(batch), np.zeros(0, np.int64)
    for step in itertools.count(first):
        if step == first or step % steps == 0:
            order = epoch_order(count, seed, step // steps)
        for row in range(rows.start, rows.stop):
            yield step * batch + row, int(order[step % steps * batch + row])


def pair_batches(
    pairs: PairSource, batch: int, crops: CropSettings, seed: int, first: int, process: Process, workers: int = 1
) -> Iterator[Batch]:
    """This process's share of the batches of steps ``first``, ``first`` + 1, ..., without end.

    Args:
        pairs: all pairs.
        batch: images of a step over all processes.
        crops: sides and normalisation.
        seed: of order and crops.
        first: first step.
        process: this process.
        workers: threads that read, decode and crop ahead, up to ``AHEAD`` batches.
    """

    def prepare(place: tuple[int, int]) -> tuple[Crop, str]:
        number, position = place
        pair = pairs[position]
        return random_crop(pair.image, crops, seed, number), pair.caption

    rows = process.share(batch)
    count = rows.stop - rows.start
    places = positions(len(pairs), batch, seed, first, process)
    stream = in_order(prepare, places, workers, ahead=max(2 * workers, AHEAD * count))
    views = (list(itertools.islice(stream, count)) for _ in itertools.count())
    # Putting a batch together takes time too: it is done while the one before is learnt from.
    return in_order(make_batch, views, min(workers, 2), ahead=1)


def make_batch(views: Sequence[tuple[Crop, str]]) -> Batch:
    """A batch of crops and their captions."""
    images, boxes = torch.stack([crop.image for crop, _ in views]), torch.tensor([crop.box for crop, _ in views])
    captions = [caption for _, caption in views]
    return Batch(images, boxes, captions, [CaptionWords.of(caption).tags for caption in captions])
