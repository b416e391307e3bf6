"""Several collections of pairs as one, each cut to the pairs that pruning kept."""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovss.data.pairs import FACTS, Pair, Pairs
from ovss.errors import UserError


class JoinedPairs:
    """Pairs of several collections, one collection after the other."""

    def __init__(self, parts: Sequence[Pairs]) -> None:
        self._parts = tuple(parts)
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        """Number of pairs."""
        return self._ends[-1]

    def __getitem__(self, position: int) -> Pair:
        """The pair at a position from 0."""
        part, place = self._place(position)
        return part[place]

    def caption(self, position: int) -> str:
        """The caption at a position; its image is not read."""
        part, place = self._place(position)
        return part.caption(place)

    def _place(self, position: int) -> tuple[Pairs, int]:
        part = bisect.bisect_right(self._ends, position)
        return self._parts[part], position - (self._ends[part - 1] if part else 0)


@dataclass(frozen=True)
class Sources:
    """pairs: all that are used. facts: for each collection the pairs that are there, expected and kept."""

    pairs: JoinedPairs
    facts: dict[str, dict[str, int | None]]


def open_sources(inputs: Mapping[str, Path], collections: Sequence[str]) -> Sources:
    """Pairs of some collections.

    Args:
        inputs: ``index_<collection>`` and ``shards_<collection>``; ``kept``, the output of pruning, where there was
            one.
        collections: their names, in the order of the rows.

    Raises:
        UserError: an index, or what pruning kept, is missing or damaged.
    """
    parts, facts = [], {}
    for name in collections:
        rows = kept_rows(inputs["kept"], name) if "kept" in inputs else None
        parts.append(Pairs(inputs[f"index_{name}"], inputs[f"shards_{name}"], rows))
        known = index_facts(inputs[f"index_{name}"])
        facts[name] = {"pairs": known["pairs"], "expected": known["expected"], "kept": len(parts[-1])}
    return Sources(JoinedPairs(parts), facts)


def kept_file(name: str) -> str:
    """File with the rows of a collection that pruning kept."""
    return f"kept_{name}.npy"


def kept_rows(directory: Path, name: str) -> NDArray[np.int64]:
    """Rows of a collection that pruning kept, (n,) int64.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = directory / kept_file(name)
    try:
        rows: NDArray[np.int64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); prune the pairs again") from error
    return rows


def index_facts(index: Path) -> dict[str, Any]:
    """What the stage ``index_pairs`` says of a collection."""
    facts: dict[str, Any] = json.loads((index / FACTS).read_text(encoding="utf-8"))
    return facts
