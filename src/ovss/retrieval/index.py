"""Stage ``index``: a FAISS index of a caption collection for interactive use, with its measured recall.

The tables do not use it: they are searched exactly (``ovss.retrieval.search``). How many lists a search looks into is
the smallest power of two that finds 95 % of the true ten captions of segments, with as few candidates as allow it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss.data.remote import digest
from ovss.evaluation.segments_file import SegmentsFile
from ovss.jobs import JobContext
from ovss.retrieval.build_index import build
from ovss.retrieval.caption_index import INDEX_FILE, MANIFEST, CaptionIndex, recall_of
from ovss.retrieval.recipes import CANDIDATES, Recipe, choose
from ovss.retrieval.search import search_exact
from ovss.retrieval.shards import Collection, write_json
from ovss.retrieval.vectors import check_encoder, encoder_of

__all__ = ["CaptionIndex", "run"]
RECALL, AT = 0.95, 10


def run(ctx: JobContext) -> dict[str, Any]:
    """Build the index of a collection; see the module.

    Parameters: ``recipe`` (auto or FAISS's notation), ``queries`` (how many segments measure the recall), optional
    ``k_factor``. Inputs: ``captions``, ``segments``, optional ``model`` (to compare with the captions' encoder).
    Output: index.faiss and manifest.json.

    Raises:
        UserError: the recipe is unknown, an input is damaged, or the segments are of another model.
    """
    collection = Collection.open(ctx.inputs["captions"])
    if "model" in ctx.inputs:
        check_encoder(collection.encoder, ctx.inputs["captions"], encoder_of(ctx.inputs["model"]))
    recipe = choose(ctx.params["recipe"], collection.rows, ctx.params.get("k_factor", CANDIDATES))
    embeddings = SegmentsFile.open(ctx.inputs["segments"]).embeddings.numpy()
    chosen = np.random.default_rng(ctx.seed).permutation(len(embeddings))[: ctx.params["queries"]]
    build(collection, recipe, ctx.out / INDEX_FILE, ctx.scratch, ctx.seed)
    return finish(collection, recipe, embeddings[np.sort(chosen)], ctx.out, ctx.scratch, ctx.seed)


def finish(
    collection: Collection, recipe: Recipe, queries: npt.NDArray[np.float32], out: Path, scratch: Path, seed: int
) -> dict[str, Any]:
    """Measure the recall, choose how many lists to look into and write the manifest; returns what it says."""
    import faiss

    size = (out / INDEX_FILE).stat().st_size
    facts = {
        "format": 1, "recipe": recipe.factory, "rows": collection.rows, "dimension": collection.dimension,
        "bytes": size, "bytes_per_vector": round(size / collection.rows, 2),
        "recall_at_10": 1.0, "queries": len(queries), "nprobe": 0,
        "rerank": recipe.k_factor, "faiss": faiss.__version__, "encoder": collection.encoder, "seed": seed,
        "sha256": digest(out / INDEX_FILE, "sha256"),
    }  # fmt: skip
    write_json(out / MANIFEST, facts)
    truth, _ = search_exact(queries, collection, min(AT, collection.rows), "cpu", scratch, progress=len(queries) > 1000)
    opened = CaptionIndex.open(out, collection, check=False)
    best = max(_measured(opened, recipe, queries, truth), key=lambda found: found["recall_at_10"])
    facts |= best | {"recall_at_10": round(best["recall_at_10"], 4)}
    write_json(out / MANIFEST, facts)
    return facts


def _measured(
    opened: CaptionIndex, recipe: Recipe, queries: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]
) -> Iterator[dict[str, Any]]:
    """Recall for more and more lists (and then candidates), until it is enough; nearly all lists are never worth it."""
    most = recipe.lists if recipe.lists <= 64 else recipe.lists // 4
    efforts = [1 << power for power in range(most.bit_length())] or [0]
    for k_factor in (recipe.k_factor, 2 * recipe.k_factor, 4 * recipe.k_factor) if recipe.k_factor else (0,):
        for nprobe in efforts:
            opened.set_effort(nprobe, k_factor)
            recall = recall_of(opened.search(queries, truth.shape[1])[0], truth)
            yield {"recall_at_10": recall, "nprobe": nprobe, "rerank": k_factor}
            if recall >= RECALL:
                return
