"""TAG's retrieval against the published code: nearest captions, cosines, and what near-duplicate removal leaves."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ovss.errors import UserError
from ovss.retrieval.neighbours import Neighbours, duplicate_links, pack_links, remove_duplicates
from ovss.retrieval.search import search_exact

SIZES = (5, 10, 20, 40, 60)
DUPLICATE = 0.94
TOLERANCE = 1e-4


class Rows:
    """Caption vectors as published, float32, in the form that the search reads."""

    encoder = "golden"

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors, (self.rows, self.dimension) = vectors, vectors.shape
        self.shards = [SimpleNamespace(rows=120), SimpleNamespace(rows=self.rows - 120)]

    def first_row(self, number: int) -> int:
        return 120 * number

    def vectors(self, number: int) -> np.ndarray:
        return self._vectors[120 * number :][: self.shards[number].rows]

    def verify_shard(self, number: int) -> None:
        """Nothing is on disk."""


@pytest.fixture(scope="module")
def golden(tag_golden: Path) -> dict[str, np.ndarray]:
    with np.load(tag_golden / "arrays.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def found(golden: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    captions: Any = Rows(golden["caption_embeddings"])
    return search_exact(golden["segment_embeddings"], captions, max(SIZES), progress=False)


@pytest.mark.parametrize("size", SIZES)
def test_nearest_captions_and_cosines(
    golden: dict[str, np.ndarray], found: tuple[np.ndarray, np.ndarray], size: int
) -> None:
    np.testing.assert_array_equal(found[0][:, :size], golden[f"topn_ids_{size}"])
    np.testing.assert_allclose(found[1][:, :size], golden[f"topn_scores_{size}"], atol=TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
def test_captions_left_after_removing_near_duplicates(
    golden: dict[str, np.ndarray], found: tuple[np.ndarray, np.ndarray], tag_golden: Path, size: int
) -> None:
    expected = json.loads((tag_golden / "retrieved_after_dedup.json").read_text(encoding="utf-8"))[str(size)]
    links = pack_links(duplicate_links(golden["caption_embeddings"][found[0]], DUPLICATE))
    stored = Neighbours(tag_golden, found[0], found[1], links)
    kept = [[int(ids[place]) for place in stored.kept(row, size, True)] for row, ids in enumerate(found[0])]
    assert kept == expected


def test_a_chain_of_near_duplicates_is_one(golden: dict[str, np.ndarray]) -> None:
    vectors = golden["dedup_case_embeddings"]
    (linked,) = duplicate_links(vectors[None], DUPLICATE)
    removed = set(range(len(vectors))) - set(remove_duplicates(linked))
    assert sorted(removed) == golden["dedup_case_removed_rows"].tolist()
    (halves,) = duplicate_links(vectors[None].astype(np.float16), DUPLICATE)
    np.testing.assert_array_equal(halves, linked)


def test_an_empty_cluster_is_refused(golden: dict[str, np.ndarray]) -> None:
    captions: Any = Rows(golden["caption_embeddings"])
    with pytest.raises(UserError, match=r"query 4 .*no direction"):
        search_exact(golden["segment_embeddings_empty_cluster"], captions, 5, progress=False)
