"""The stage that keeps the pairs of each collection that are much more alike than usual (Jo et al. 2024, section 4.1).

What is compared: see ``ovss.training.ttd.prune``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ovss.config.base import validate
from ovss.config.ttd import PruneJob
from ovss.data.ahead import in_order
from ovss.data.pairs import Pairs
from ovss.errors import UserError
from ovss.evaluation.progress import Progress
from ovss.jobs import JobContext
from ovss.training.loop import one_thread
from ovss.training.ttd.augment import FILTERS, normalise
from ovss.training.ttd.bases import BaseTower, open_tower
from ovss.training.ttd.prune import Moments, kept, pair_similarities
from ovss.training.ttd.settings import normalisation, whole_patches
from ovss.training.ttd.sources import index_facts, kept_file
from ovss.training.ttd.step import autocast

BATCHES = 64
"""Batches between savings."""


@dataclass(frozen=True)
class Pruning:
    """What similarities are computed with."""

    tower: BaseTower
    job: PruneJob
    device: torch.device
    workers: int = 1

    def square(self, image: NDArray[np.uint8]) -> Tensor:
        """The whole image, (H, W, 3) uint8 -> (3, S, S) float32 normalised."""
        side = self.job.side
        picture = Image.fromarray(image).resize((side, side), FILTERS[self.job.resize_filter])
        mean, std = normalisation(self.tower.clip, self.job.mean, self.job.std)
        square = np.empty((3, side, side), np.float32)
        normalise(np.asarray(picture), mean, std, square)
        return torch.from_numpy(square)

    def similarities(self, pairs: Pairs, first: int) -> Iterator[NDArray[np.float32]]:
        """Similarities of the pairs from ``first`` on, batch by batch."""

        def prepare(position: int) -> tuple[Tensor, str]:
            pair = pairs[position]
            return self.square(pair.image), pair.caption

        ahead = max(2 * self.workers, 2 * self.job.batch)  # fewer would keep a GPU waiting
        stream = in_order(prepare, range(first, len(pairs)), self.workers, ahead)
        while views := list(islice(stream, self.job.batch)):
            images = torch.stack([image for image, _ in views]).to(self.device, non_blocking=True)
            with autocast(self.device, self.job.precision):
                found = pair_similarities(self.tower, images, [caption for _, caption in views], self.job.flip)
            yield found.float().cpu().numpy()


def run(ctx: JobContext) -> dict[str, object]:
    """Choose the pairs of each collection whose similarity lies above its mean plus deviation.

    Params: ``ovss.config.ttd.PruneJob``. Inputs: ``model``; ``index_<collection>``, ``shards_<collection>``.
    Output: ``kept_<collection>.npy`` (int64 rows of the index, ascending), ``facts.json``. A killed run goes on behind
    the last batches that it saved.

    Returns:
        {collection: {"pairs", "expected", "kept", "mean", "deviation", "threshold"}}.

    Raises:
        UserError: model or pairs cannot be read, a similarity is not a number, or no pair of a collection stays.
    """
    job = validate(dict(ctx.params), PruneJob, "prune")
    tower = open_tower(ctx.inputs["model"], job.base)
    whole_patches(job.side, tower.clip, "prune_side")
    device = torch.device(ctx.machine.device)
    tower.model.to(device)
    pruning = Pruning(tower, job, device, ctx.machine.workers)
    facts: dict[str, object] = {}
    with one_thread(0) if device.type == "cpu" else nullcontext():
        for name in job.collections:
            pairs = Pairs(ctx.inputs[f"index_{name}"], ctx.inputs[f"shards_{name}"])
            values = _all(name, pairs, pruning, ctx.scratch)
            expected = index_facts(ctx.inputs[f"index_{name}"])["expected"]
            rows, facts[name] = kept_rows_of(name, values, expected)
            np.save(ctx.out / kept_file(name), rows)
    (ctx.out / "facts.json").write_text(json.dumps(facts, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    return facts


def kept_rows_of(
    name: str, similarities: NDArray[np.float32], expected: int | None
) -> tuple[NDArray[np.int64], dict[str, float | None]]:
    """Rows above mean plus deviation of the similarities (n,) of a collection, and what to say of them."""
    moments = Moments()
    moments.add(torch.from_numpy(similarities))
    rows = np.flatnonzero(kept(torch.from_numpy(similarities)).numpy())
    if not len(rows):
        raise UserError(f"{name}: no pair is more alike than the others; check model and images, or set pruning: none")
    print(f"{name}: {len(rows)} of {len(similarities)} pairs stay, above {moments.threshold:.4f}", file=sys.stderr)
    deviation = moments.threshold - moments.mean
    return rows.astype(np.int64), {
        "pairs": len(similarities), "expected": expected, "kept": len(rows), "mean": moments.mean,
        "deviation": deviation, "threshold": moments.threshold,
    }  # fmt: skip


def _all(name: str, pairs: Pairs, pruning: Pruning, scratch: Path) -> NDArray[np.float32]:
    """Similarities of all pairs (n,); those that a killed run saved are read."""
    scratch.mkdir(parents=True, exist_ok=True)
    parts = _saved(name, scratch)
    done = sum(map(len, parts))
    progress = Progress(f"pruning {name}", len(pairs), "pairs")
    stream = pruning.similarities(pairs, done)
    while batches := list(islice(stream, BATCHES)):
        parts.append(np.concatenate(batches))
        done += len(parts[-1])
        _save(scratch / f"{name}.{len(parts) - 1:06d}.npy", parts[-1])
        progress(done)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _saved(name: str, scratch: Path) -> list[NDArray[np.float32]]:
    return [np.load(path, allow_pickle=False) for path in sorted(scratch.glob(f"{name}.{'[0-9]' * 6}.npy"))]


def _save(path: Path, values: NDArray[np.float32]) -> None:
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.save(file, values)
    os.replace(unfinished, path)
