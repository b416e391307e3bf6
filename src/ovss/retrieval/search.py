"""Exact nearest captions of many queries in one streamed pass over a collection (TAG section 3.2, faiss Flat's result).

Cost for Q queries of D numbers and N rows: 2 Q N D floating point operations, and 2 N D bytes read once whatever Q is.
Memory beside the memory map: 4 Q D bytes of queries at unit length, 8 Q ``keep`` of results, and one block of queries
by rows (12 bytes an entry, about 100 for the very first). 128,000 queries of 768 numbers, 60 kept: below 2 GB on a
CPU, the given queries and the libraries included; about 7 GB on a GPU, by count.

All products have one shape: queries and rows come in blocks of fixed size, the last ones padded with zeros. So the
score of a pair depends neither on the other queries nor on where a shard ends. Ties go to the lower row number.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovss.errors import UserError
from ovss.evaluation.progress import Progress
from ovss.retrieval.shards import Collection
from ovss.retrieval.topk import TopK

__all__ = ["TopK", "search_exact"]
BLOCKS = {"cpu": (512, 8192), "cuda": (4096, 16384)}
"""Queries and rows of one product."""
_ROWS = 4096


def unit_queries(queries: npt.NDArray[np.float32], multiple: int = 1) -> npt.NDArray[np.float32]:
    """Queries (Q, D) at unit length, float32, with rows of zeros up to a multiple.

    Raises:
        UserError: a query is not finite or is zero, so it has no direction; the message numbers the first.
    """
    unit = np.zeros((-(-len(queries) // multiple) * multiple, queries.shape[1]), np.float32)
    for first in range(0, len(queries), _ROWS):
        block = queries[first : first + _ROWS].astype(np.float64)
        length = np.sqrt(np.einsum("qd,qd->q", block, block))
        bad = np.flatnonzero(~np.isfinite(length) | (length == 0))
        if bad.size:
            raise UserError(
                f"query {first + bad[0]} has no direction: it is zero or not finite; leave such segments out"
            )
        unit[first : first + len(block)] = block / length[:, None]
    return unit


def check_dimension(queries: npt.NDArray[np.float32], dimension: int, where: str) -> None:
    """Refuse queries (Q, D) of another length than the vectors of ``where``.

    Raises:
        UserError: the sizes differ; the vectors come from another model.
    """
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise UserError(
            f"{where}: vectors have {dimension} numbers and queries {queries.shape[-1]}; they come from different "
            "models, so make the captions with the queries' model"
        )


def search_exact(
    queries: npt.NDArray[np.float32],
    collection: Collection,
    keep: int,
    device: str = "cpu",
    scratch: Path | None = None,
    progress: bool = True,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The ``keep`` captions of largest cosine for each query, ties by ascending row number.

    Args:
        queries: (Q, D) float32, any length.
        collection: rows (N, D) of unit length, read shard by shard through memory maps.
        keep: how many to keep.
        device: "cpu" or "cuda".
        scratch: folder of a checkpoint after each shard; a killed search goes on from there. None: no checkpoint.
        progress: say on standard error how far it is.

    Returns:
        (row numbers (Q, keep) int64, cosines (Q, keep) float32), best first; -1 and -inf where the collection ends.

    Raises:
        UserError: a query has no direction or another size than the vectors; a shard is damaged or not finite.
    """
    if not len(queries):
        return np.zeros((0, keep), np.int64), np.zeros((0, keep), np.float32)
    check_dimension(queries, collection.dimension, "captions")
    torch.set_float32_matmul_precision("highest")  # no TF32
    block, chunk = BLOCKS[torch.device(device).type]
    unit = unit_queries(queries, block)
    padded = torch.from_numpy(unit).to(device)
    top = TopK(len(queries), keep, device)
    state = Checkpoint(scratch / "search.safetensors", fingerprint(unit, collection, keep, device)) if scratch else None
    done = state.load(top) if state else 0
    left = sum(shard.rows for shard in collection.shards[done:])
    report = Progress(f"search {len(queries)} queries", left, unit="captions") if progress else None
    with torch.inference_mode():
        for part in _stream(collection, done, chunk, device):
            for first in range(0, len(queries), block):
                scores = padded[first : first + block] @ part.vectors.T
                top.merge(scores[: len(queries) - first, : part.rows], part.first_row, first)
            if report:
                report(part.first_row + part.rows - (collection.rows - left))
            if part.ends_shard and state:
                state.save(top, part.shard + 1)
    return top.result()


@dataclass(frozen=True)
class _Part:
    """Rows of a shard on the device: (chunk, D) float32, of which the first ``rows`` are rows and the rest zero."""

    vectors: Tensor
    rows: int
    first_row: int
    shard: int
    ends_shard: bool


def _stream(collection: Collection, first_shard: int, chunk: int, device: str) -> Iterator[_Part]:
    """All rows from a shard on; the next part is read while the device works on this one."""
    places = [
        (shard, start)
        for shard in range(first_shard, len(collection.shards))
        for start in range(0, collection.shards[shard].rows, chunk)
    ]
    buffers: list[Tensor] = []
    with ThreadPoolExecutor(1) as pool:

        def read(number: int) -> tuple[int, Tensor]:
            shard, start = places[number]
            if start == 0:
                collection.verify_shard(shard)
            rows = collection.vectors(shard)[start : start + chunk]
            if len(buffers) < 2:
                empty = torch.from_numpy(np.zeros((chunk, collection.dimension), rows.dtype))
                buffers.append(empty.pin_memory() if device.startswith("cuda") else empty)
            buffer = buffers[number % 2]
            buffer.numpy()[: len(rows)] = rows
            buffer.numpy()[len(rows) :] = 0
            return len(rows), buffer

        ahead = pool.submit(read, 0) if places else None
        for number, (shard, start) in enumerate(places):
            assert ahead is not None
            count, buffer = ahead.result()
            vectors = buffer.to(device, non_blocking=True).float()
            if not math.isfinite(vectors.sum().item()):  # also waits for the copy, whose buffer is filled again below
                raise UserError(f"captions, shard {shard}: a vector is not finite; make the collection again")
            ahead = pool.submit(read, number + 1) if number + 1 < len(places) else None
            ends = start + count == collection.shards[shard].rows
            yield _Part(vectors, count, collection.first_row(shard) + start, shard, ends)


def fingerprint(unit: npt.NDArray[np.float32], collection: Collection, keep: int, device: str) -> str:
    """Digest of everything that the state of a search depends on."""
    facts = (unit.shape, keep, BLOCKS[torch.device(device).type], torch.device(device).type, torch.__version__)
    digest = hashlib.sha256(repr((facts, collection.encoder, collection.shards)).encode())
    digest.update(np.ascontiguousarray(unit).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """State of a search after a whole shard, in one file that is replaced by a rename."""

    path: Path
    fingerprint: str

    def save(self, top: TopK, done: int) -> None:
        """Keep the keys after ``done`` shards."""
        keys = top.keys.cpu()
        facts = {"fingerprint": self.fingerprint, "done": str(done), "sha256": _digest(keys)}
        temporary = self.path.with_name(f"{self.path.name}.part")
        save_file({"keys": keys}, temporary, facts)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, self.path)

    def load(self, top: TopK) -> int:
        """Fill ``top`` and return how many shards are done; 0 where there is no usable checkpoint."""
        if not self.path.is_file():
            return 0
        try:
            with safe_open(self.path, "pt") as opened:
                facts, keys = opened.metadata() or {}, opened.get_tensor("keys")
            done = int(facts["done"])
            sound = facts["sha256"] == _digest(keys) and keys.shape == top.keys.shape
        except (SafetensorError, KeyError, ValueError, OSError):
            sound, facts = False, {}
        if not sound:
            print(f"{self.path}: this checkpoint is damaged and is left aside; the search starts from the beginning")
            return 0
        if facts["fingerprint"] != self.fingerprint:
            print(f"{self.path}: this checkpoint is of another search and is left aside")
            return 0
        top.keys.copy_(keys)
        print(f"{self.path}: {done} shards are done; the search goes on from there")
        return done


def _digest(keys: Tensor) -> str:
    return hashlib.sha256(keys.numpy().data).hexdigest()
