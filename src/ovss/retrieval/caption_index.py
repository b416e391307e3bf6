"""Searching a finished index of a caption collection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss.errors import UserError
from ovss.retrieval.search import check_dimension, unit_queries
from ovss.retrieval.shards import Collection, wrong_file
from ovss.retrieval.vectors import check_encoder, gather

INDEX_FILE = "index.faiss"
MANIFEST = "manifest.json"
_BLOCK = 32
Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


@dataclass
class CaptionIndex:
    """An opened index. collection: the captions it indexes; their stored vectors rank its candidates where codes are
    too small for that. facts: the manifest. nprobe: lists looked into. k_factor: candidates for each hit, 0 = none.
    """

    index: Any
    collection: Collection
    facts: Mapping[str, Any]
    k_factor: int = 0

    @classmethod
    def open(cls, directory: Path, collection: Collection, check: bool = True) -> CaptionIndex:
        """Open an index that the stage ``index`` made; it is mapped, not read.

        Args:
            directory: its folder.
            collection: the captions.
            check: compare the file's hash with the manifest.

        Raises:
            UserError: the index is missing, damaged, or of other captions or of another text encoder.
        """
        import faiss

        path = directory / MANIFEST
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            stated = {INDEX_FILE: {"bytes": facts["bytes"], "sha256": facts["sha256"]}}
            encoder, rows, effort = facts["encoder"], facts["rows"], (facts["nprobe"], facts["rerank"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no readable manifest ({error}); make the index again") from error
        check_encoder(encoder, directory, collection.encoder)
        if rows != collection.rows:
            raise UserError(
                f"{directory}: indexes {rows} captions, not the {collection.rows} of {collection.directory}"
            )
        if check and wrong_file(directory, stated):
            raise UserError(f"{directory / INDEX_FILE}: missing or not the bytes of {path}; make the index again")
        try:
            index = faiss.read_index(str(directory / INDEX_FILE), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise UserError(f"{directory / INDEX_FILE}: missing or damaged; make the index again") from error
        found = cls(index, collection, facts)
        found.set_effort(*effort)
        return found

    def set_effort(self, nprobe: int, k_factor: int) -> None:
        """How many lists to look into, and how many candidates for each hit to compare again."""
        import faiss

        self.k_factor = k_factor
        if nprobe:
            ivf = faiss.extract_index_ivf(self.index)
            ivf.nprobe = nprobe
            centres = faiss.downcast_index(ivf.quantizer)
            if hasattr(centres, "hnsw"):
                centres.hnsw.efSearch = max(64, 2 * nprobe)

    def search(self, queries: npt.NDArray[np.float32], n: int) -> Found:
        """Nearest captions of queries (Q, D): (row numbers (Q, n) int64, cosines (Q, n) float32), best first.

        Ties go to the lower row number; -1 and -inf where there are no more. Cosines are approximate where the codes
        are and nothing is compared again.

        Raises:
            UserError: a query has no direction or another size than the vectors.
        """
        check_dimension(queries, self.index.d, "index")
        unit = unit_queries(queries)
        ids, scores = np.full((len(unit), n), -1, np.int64), np.full((len(unit), n), -np.inf, np.float32)
        many = min(n * max(self.k_factor, 1), self.index.ntotal)
        for first in range(0, len(unit), _BLOCK):  # of one size: FAISS sums in another order for few queries
            block = np.repeat(unit[first : first + 1], _BLOCK, axis=0)
            count = len(unit[first : first + _BLOCK])
            block[:count] = unit[first : first + count]
            found, cosines = self._ranked(block[:count], *self.index.search(block, many))
            ids[first : first + count, :many], scores[first : first + count, :many] = found[:, :n], cosines[:, :n]
        return ids, scores

    def _ranked(
        self, unit: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]
    ) -> Found:
        """Candidates of each query by cosine, from the stored vectors where codes are too small."""
        ids, scores = ids[: len(unit)], scores[: len(unit)]
        if self.k_factor:
            scores = np.einsum("qkd,qd->qk", gather(ids, self.collection).astype(np.float32), unit)
        scores = np.where(ids < 0, np.float32(-np.inf), scores)
        order = np.lexsort((ids, -scores), axis=-1)
        return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)


def recall_of(found: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    """Share of the true ids (Q, n) that were found, in any order; 1 for no queries."""
    if not truth.size:
        return 1.0
    return float(np.mean([np.isin(true, row).mean() for row, true in zip(found, truth, strict=True)]))
