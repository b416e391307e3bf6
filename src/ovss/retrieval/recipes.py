"""Kinds of FAISS index for caption collections, by size.

Measured on 768 numbers a vector: codes of 64 bytes alone find 39 % of the true ten neighbours of an image's query, 8
bits a number 98 %. So small codes only choose candidates, which are then compared exactly by their stored vectors. A
product quantiser is written ``PQ64np``: without ``np`` FAISS reorders its codes, which takes long and brings nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ovss.errors import UserError

_FACTORY = re.compile(r"(?:IVF(?P<lists>[1-9]\d*)(?:_HNSW(?P<links>\d+))?,)?(?P<codes>Flat|SQfp16|SQ8|PQ\d+np)")
_SIZES = ((1_000_000, "SQfp16"), (20_000_000, "IVF16384,SQ8"))
_LARGEST = "IVF32768_HNSW32,PQ64np"
CANDIDATES = 64
"""Candidates for each hit asked for where codes are too small to rank by."""


@dataclass(frozen=True)
class Recipe:
    """How an index is made. factory: FAISS's own notation. lists: inverted lists, 0 = every vector is compared.

    points: training vectors for each list. iterations: of the k-means. k_factor: candidates for each hit that are
    compared again by their stored vectors, 0 = none are.
    """

    factory: str
    lists: int
    points: int
    iterations: int
    k_factor: int

    @property
    def sample(self) -> int:
        """Vectors to train on; enough for the codes even with few lists."""
        return max(self.lists * self.points, 10_000)


def choose(name: str, rows: int, k_factor: int = CANDIDATES) -> Recipe:
    """The recipe of a name: FAISS's notation, or ``auto`` for the one of the collection's size.

    Raises:
        UserError: the notation is not one of ours (or has a polysemous product quantiser, ``PQ64`` for ``PQ64np``), or
            there are fewer rows than lists.
    """
    factory = name if name != "auto" else next((kind for most, kind in _SIZES if rows <= most), _LARGEST)
    found = _FACTORY.fullmatch(factory)
    if found is None:
        raise UserError(
            f"recipe '{name}': write auto, or [IVF<lists>[_HNSW<links>],] and one of Flat, SQfp16, SQ8, PQ<bytes>np"
        )
    lists = int(found["lists"] or 0)
    if lists > rows:
        raise UserError(f"recipe '{name}': {lists} lists for {rows} captions; choose at most a list a caption")
    points, iterations = (30, 8) if found["links"] else (40, 10)
    return Recipe(factory, lists, points, iterations, k_factor if found["codes"].startswith("PQ") else 0)
