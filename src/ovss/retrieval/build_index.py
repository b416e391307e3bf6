"""Making a FAISS index of a caption collection, step by step, so that a killed run goes on.

Trained once on a seeded sample over all shards, filled shard by shard, then merged; every step is kept under its own
name once it is complete. With one thread and fixed seeds the same collection gives the same bytes on a CPU.

Cost for N rows of D numbers and L lists: training about 2 x 10 x 40 L^2 D operations, filling 2 N L D (with an HNSW
over the lists' centres about 2 N x 2000 x D), reading 2 N D bytes. Memory: 4 bytes x D x 40 L for the sample.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss.errors import UserError
from ovss.evaluation.progress import Progress
from ovss.retrieval.recipes import Recipe
from ovss.retrieval.shards import Collection, describe, write_json
from ovss.retrieval.vectors import gather

_ROWS = 25_000
_EF = 64
"""Centres that an HNSW over the lists looks at for each row that is added."""


def build(collection: Collection, recipe: Recipe, path: Path, scratch: Path, seed: int, threads: int = 1) -> None:
    """Make the index file of a collection, going on with what an earlier run left in ``scratch``.

    Raises:
        UserError: a shard is damaged or has a vector that is not finite.
    """
    import faiss

    faiss.omp_set_num_threads(threads)
    steps = _Steps(scratch, _fingerprint(collection, recipe, seed, threads))
    trained = steps.get("trained") or steps.put("trained", _train(collection, recipe, seed))
    progress = Progress("index", len(collection.shards), unit="shards")
    parts = []
    for number, shard in enumerate(collection.shards):
        part = steps.get(shard.name) or steps.put(shard.name, _filled(trained, collection, number))
        parts.append(part)
        progress(number + 1)
    merged = faiss.read_index(str(trained))
    for part in parts:
        merged.merge_from(faiss.read_index(str(part)), 0)
    _write(merged, path)


def _train(collection: Collection, recipe: Recipe, seed: int) -> Any:
    """An empty index with its centres and codes: k-means on rows drawn evenly over the collection."""
    import faiss

    index = faiss.index_factory(collection.dimension, recipe.factory, faiss.METRIC_INNER_PRODUCT)
    if recipe.lists:
        ivf = faiss.extract_index_ivf(index)
        ivf.cp.niter, ivf.cp.seed, ivf.cp.max_points_per_centroid = recipe.iterations, seed, recipe.points
        ivf.cp.min_points_per_centroid = 1
        centres = faiss.downcast_index(ivf.quantizer)
        if hasattr(centres, "hnsw"):
            centres.hnsw.efSearch = _EF
    codes = faiss.downcast_index(index)
    if hasattr(codes, "pq"):
        codes.pq.cp.seed, codes.pq.cp.min_points_per_centroid = seed, 1
    if not index.is_trained:
        generator = np.random.default_rng(seed)
        count = min(recipe.sample, collection.rows)
        index.train(_rows(collection, np.sort(generator.choice(collection.rows, count, replace=False, shuffle=False))))
    return index


def _rows(collection: Collection, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Vectors of rows by ascending number, float32, without a second copy of all of them."""
    vectors = np.empty((len(ids), collection.dimension), np.float32)
    for first in range(0, len(ids), _ROWS):
        vectors[first : first + _ROWS] = gather(ids[first : first + _ROWS], collection)
    return vectors


def _filled(trained: Path, collection: Collection, number: int) -> Any:
    """The trained index with the rows of one shard, under their numbers in the collection."""
    import faiss

    collection.verify_shard(number)
    index, rows, start = faiss.read_index(str(trained)), collection.vectors(number), collection.first_row(number)
    for first in range(0, len(rows), _ROWS):
        block = rows[first : first + _ROWS].astype(np.float32)
        if not np.isfinite(block).all():
            raise UserError(
                f"{collection.directory}: shard {collection.shards[number].name} has a vector that is not finite; make "
                "the collection again"
            )
        if hasattr(index, "nlist"):
            index.add_with_ids(block, np.arange(start + first, start + first + len(block)))
        else:  # numbered by their order, which merging keeps
            index.add(block)
    return index


@dataclass(frozen=True)
class _Steps:
    """Index files in the scratch folder; one counts only if its record has its bytes and the same fingerprint."""

    folder: Path
    fingerprint: str

    def get(self, name: str) -> Path | None:
        """The file of a step that is complete."""
        path, record = self.folder / f"{name}.faiss", self.folder / f"{name}.json"
        try:
            facts = json.loads(record.read_text(encoding="utf-8"))
            sound = facts == {**describe(path), "fingerprint": self.fingerprint}
        except (OSError, ValueError):
            return None
        if not sound:
            print(f"{path}: damaged or of another index, and is made again", file=sys.stderr)
        return path if sound else None

    def put(self, name: str, index: Any) -> Path:
        """Keep the result of a step."""
        path = self.folder / f"{name}.faiss"
        _write(index, path)
        write_json(self.folder / f"{name}.json", {**describe(path), "fingerprint": self.fingerprint})
        return path


def _fingerprint(collection: Collection, recipe: Recipe, seed: int, threads: int) -> str:
    import faiss

    facts = (collection.encoder, collection.shards, asdict(recipe), seed, threads, faiss.__version__)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _write(index: Any, path: Path) -> None:
    import faiss

    part = path.with_name(f"{path.name}.part")
    faiss.write_index(index, str(part))
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(part, path)
