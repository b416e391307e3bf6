"""Stage ``retrieve``: the nearest captions of every segment, and which of them are near-duplicates (TAG section 3.2).

All items of a pass search the same captions: their queries are put together and the collection is read once. Which hits
of a segment are linked is computed from the stored vectors of these hits, 2 Q n (n + 8) D operations and 2 Q n D bytes
of scattered reads at most (hits that queries share are read once a block).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss.errors import UserError
from ovss.evaluation.progress import Progress
from ovss.evaluation.segments_file import SegmentsFile
from ovss.jobs import Item, JobContext
from ovss.retrieval.neighbours import duplicate_links, pack_links, write_neighbours
from ovss.retrieval.prebuilt import ENCODER, Prebuilt
from ovss.retrieval.search import search_exact
from ovss.retrieval.shards import Collection
from ovss.retrieval.vectors import check_encoder, encoder_of, gather

_LINK_BLOCK = 64
_TEXT_BLOCK = 65536
Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


def run(ctx: JobContext) -> None:
    """Retrieve for every item of a pass; see the module.

    Item parameters: ``keep``, ``duplicate_cosine``, ``search`` (exact, prebuilt), and for a prebuilt database
    ``database`` (the archive's name, where the input has several). Item inputs: ``model``, ``segments`` and
    ``captions`` (a collection, the same for all items) or ``database`` (CaSED's). Output of an item: a NEIGHBOURS
    directory, see ``ovss.retrieval.neighbours``.

    Raises:
        UserError: the captions are of another model than the segments, or an input is damaged; the message names it.
    """
    exact = {name: item for name, item in sorted(ctx.items.items()) if item.params["search"] == "exact"}
    for name, item in sorted(ctx.items.items()):
        if item.params["search"] not in {"exact", "prebuilt"}:
            raise UserError(f"{name}: search '{item.params['search']}' is not one of exact, prebuilt")
    if exact:
        _run_exact(ctx, exact)
    for name, item in sorted(ctx.items.items()):
        if name not in exact:
            ctx.finish(name, _run_prebuilt(item, ctx.scratch))


def _run_exact(ctx: JobContext, items: Mapping[str, Item]) -> None:
    started = time.monotonic()
    (captions,) = {item.inputs["captions"] for item in items.values()}
    collection = Collection.open(captions)
    for item in items.values():
        check_encoder(collection.encoder, captions, encoder_of(item.inputs["model"]))
    queries = Queries.of([item.inputs["segments"] for item in items.values()])
    keep = max(item.params["keep"] for item in items.values())
    ids, scores = search_exact(queries.vectors, collection, keep, ctx.machine.device, ctx.scratch)
    for name, item in items.items():
        part, count = queries.of_segments[item.inputs["segments"]], item.params["keep"]
        mine = np.ascontiguousarray(ids[part, :count])
        links = np.concatenate(list(_links(mine, collection, item.params["duplicate_cosine"], name)), axis=0)
        write_neighbours(item.out, mine, scores[part, :count], links, texts_of(mine, collection.captions))
        facts = {"queries": len(mine), "rows": collection.rows, "encoder": collection.encoder}
        ctx.finish(name, {**facts, "seconds": round(time.monotonic() - started, 3)})


def _run_prebuilt(item: Item, scratch: Path) -> dict[str, Any]:
    started = time.monotonic()
    if "database" in item.inputs:
        database = Prebuilt.open(item.inputs["database"], scratch, item.params.get("database", ""))
    else:
        collection = Collection.open(item.inputs["captions"])
        if collection.prebuilt is None:
            raise UserError(f"{collection.directory}: has no prebuilt index; use search: exact")
        database = Prebuilt.of(collection.prebuilt, collection.captions)
    queries = Queries.of([item.inputs["segments"]]).vectors
    keep, cosine = item.params["keep"], item.params["duplicate_cosine"]
    ids, scores = np.full((len(queries), keep), -1, np.int64), np.full((len(queries), keep), -np.inf, np.float32)
    links = np.zeros((len(queries), keep, -(-keep // 8)), np.uint8)
    progress = Progress(f"search {database.path.name}", len(queries), unit="queries")
    for first, (found, cosines, vectors) in database.search(queries, keep):
        part = slice(first, first + len(found))
        ids[part], scores[part] = found, cosines
        links[part] = pack_links(duplicate_links(vectors, cosine))
        progress(first + len(found))
    write_neighbours(item.out, ids, scores, links, texts_of(ids, database.captions))
    rows, seconds = int(database.index.ntotal), round(time.monotonic() - started, 3)
    return {"queries": len(queries), "rows": rows, "seconds": seconds, "encoder": ENCODER}


@dataclass(frozen=True)
class Queries:
    """Segment embeddings of all items, (Q, D) float32, and which of them are whose."""

    vectors: npt.NDArray[np.float32]
    of_segments: Mapping[Path, slice]

    @classmethod
    def of(cls, directories: Sequence[Path]) -> Queries:
        """Read segments directories, each once.

        Raises:
            UserError: one is damaged, or they have embeddings of different sizes.
        """
        parts = {path: SegmentsFile.open(path).embeddings.numpy() for path in sorted(set(directories))}
        if len(sizes := {part.shape[1] for part in parts.values() if len(part)}) > 1:
            raise UserError(f"segments: embeddings of {sorted(sizes)} numbers in one search; their models differ")
        size = sizes.pop() if sizes else 0
        ends = np.cumsum([len(part) for part in parts.values()])
        places = {
            path: slice(int(end) - len(part), int(end)) for (path, part), end in zip(parts.items(), ends, strict=True)
        }
        return cls(np.concatenate([part.reshape(len(part), size) for part in parts.values()]), places)


def _links(ids: Ids, collection: Collection, cosine: float, name: str) -> Iterator[npt.NDArray[np.uint8]]:
    """Packed links of all queries, block by block."""
    progress = Progress(f"duplicates {name}", len(ids), unit="queries")
    yield np.zeros((0, ids.shape[1], -(-ids.shape[1] // 8)), np.uint8)
    for first in range(0, len(ids), _LINK_BLOCK):
        vectors = gather(ids[first : first + _LINK_BLOCK], collection)
        yield pack_links(duplicate_links(vectors, cosine))
        progress(min(first + _LINK_BLOCK, len(ids)))


def texts_of(ids: Ids, captions: Any) -> Iterator[tuple[int, str]]:
    """Number and text of every caption among ``ids``, by ascending number."""
    wanted = np.unique(ids[ids >= 0])
    for first in range(0, len(wanted), _TEXT_BLOCK):
        block = wanted[first : first + _TEXT_BLOCK].tolist()
        yield from zip(block, captions(block), strict=True)
