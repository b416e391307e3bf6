"""What was counted of every text of a source: words with scores, masks, or scores of a list of concepts.

The counterpart of ``ovss.evaluation.confusion`` for rows that judge texts. All figures and their intervals come from
these arrays (``ovss.evaluation.item_metrics``) and never from the images.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from ovss.errors import UserError
from ovss.evaluation.arrays_file import write_arrays, write_ids

ITEMS_FILE = "items.npz"
IDS_FILE = "texts.txt"
Kind = Literal["words", "masks", "scores"]
Arrays = Mapping[str, npt.NDArray[Any]]
_DTYPES: Mapping[Kind, Mapping[str, type[np.generic]]] = {
    "words": {"lengths": np.int32, "truth": np.bool_, "chosen": np.bool_, "scores": np.float32},
    "masks": {"counts": np.int64},
    "scores": {"truth": np.bool_, "scores": np.float32},
}
_MEND = "remove the directory and run again"


class Words(NamedTuple):
    """A caption's n words: whether the image shows each, whether it was chosen, and its score; all (n,).

    scores: float; NaN for all where the choice ranks nothing (a list of nouns, say).
    """

    id: str
    truth: Sequence[bool]
    chosen: Sequence[bool]
    scores: npt.NDArray[np.floating]


class Mask(NamedTuple):
    """Right and wrong pixels of a text's mask, (4,) int64 of ``caption_metrics.count_mask``."""

    id: str
    counts: npt.NDArray[np.int64]


class Concepts(NamedTuple):
    """Of K concepts whether the image shows each, and its score, (K,) float."""

    id: str
    truth: Sequence[bool]
    scores: npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class ItemCounts:
    """Counts of n texts, sorted by id, each id once.

    arrays of kind ``words``: lengths (n,) int32, words of each text; truth, chosen (words,) bool; scores (words,)
    float32. Of kind ``masks``: counts (n, 4) int64. Of kind ``scores``: truth (n, K) bool; scores (n, K) float32.
    Build with ``of_words``, ``of_masks``, ``of_scores``, ``load`` or ``concat``: they bring the texts into this order.
    """

    kind: Kind
    ids: tuple[str, ...]
    arrays: Arrays

    @classmethod
    def of_words(cls, items: Iterable[Words]) -> ItemCounts:
        """From captions in any order.

        Raises:
            ValueError: an id occurs twice, or a caption's lists differ in length.
        """
        found = list(items)
        for item in found:
            if not len(item.truth) == len(item.chosen) == len(item.scores):
                lengths = (len(item.truth), len(item.chosen), len(item.scores))
                raise ValueError(f"text {item.id!r} has {lengths} truths, choices and scores")
        arrays = {name: _joined([getattr(item, name) for item in found]) for name in ("truth", "chosen", "scores")}
        return cls._sorted("words", [item.id for item in found], arrays | {"lengths": [len(i.truth) for i in found]})

    @classmethod
    def of_masks(cls, items: Iterable[Mask]) -> ItemCounts:
        """From masks in any order; errors as ``of_words``."""
        found = list(items)
        counts = np.stack([item.counts for item in found]) if found else np.zeros((0, 4))
        return cls._sorted("masks", [item.id for item in found], {"counts": counts})

    @classmethod
    def of_scores(cls, items: Iterable[Concepts]) -> ItemCounts:
        """From images with the same concepts, in any order; errors as ``of_words``."""
        found = list(items)
        arrays = {name: np.array([getattr(item, name) for item in found]) for name in ("truth", "scores")}
        return cls._sorted("scores", [item.id for item in found], arrays)

    @classmethod
    def _sorted(cls, kind: Kind, ids: Sequence[str], arrays: Mapping[str, Any]) -> ItemCounts:
        if len(set(ids)) != len(ids):
            raise ValueError(f"text {next(name for name in sorted(ids) if ids.count(name) > 1)!r} is counted twice")
        order = sorted(range(len(ids)), key=ids.__getitem__)
        cast = {name: np.asarray(arrays[name]).astype(dtype) for name, dtype in _DTYPES[kind].items()}
        places = {name: _word_places(cast["lengths"], order) for name in cast} if kind == "words" else {}
        places["lengths"] = np.array(order, np.int64)
        ordered = {name: values[places.get(name, places["lengths"])] for name, values in cast.items()}
        return cls(kind, tuple(ids[place] for place in order), ordered)

    @classmethod
    def concat(cls, shards: Sequence[ItemCounts]) -> ItemCounts:
        """Join the shards of one source; the result does not depend on how the source was cut.

        Raises:
            ValueError: no shard, shards of different kinds or lists of concepts, or a text in two shards.
        """
        if not shards:
            raise ValueError("no counts to join")
        kind = shards[0].kind
        if len(kinds := {(shard.kind, shard.width) for shard in shards if shard.ids}) > 1:
            raise ValueError(f"shards hold different things: {sorted(kinds)}")
        filled = [shard for shard in shards if shard.ids] or list(shards[:1])
        arrays = {name: np.concatenate([shard.arrays[name] for shard in filled]) for name in _DTYPES[kind]}
        return cls._sorted(kind, [name for shard in filled for name in shard.ids], arrays)

    @property
    def width(self) -> int:
        """Number of concepts; 0 for other kinds."""
        return self.arrays["scores"].shape[-1] if self.kind == "scores" else 0

    def per_item(self, name: str) -> list[npt.NDArray[Any]]:
        """An array of the words, cut into those of each text."""
        return np.split(self.arrays[name], np.cumsum(self.arrays["lengths"])[:-1]) if self.ids else []

    def save(self, directory: Path) -> None:
        """Write items.npz (stored, not compressed: the bytes depend on the counts only) and texts.txt."""
        write_arrays(directory / ITEMS_FILE, {**self.arrays, "kind": np.array(self.kind)})
        write_ids(directory / IDS_FILE, self.ids)

    @classmethod
    def load(cls, directory: Path) -> ItemCounts:
        """Read what ``save`` wrote.

        Raises:
            UserError: a file is missing, damaged or not consistent.
        """
        path = directory / ITEMS_FILE
        try:
            ids = (directory / IDS_FILE).read_text(encoding="utf-8").split("\n")[:-1]
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                kind: Any = str(file["kind"])
                arrays = {name: file[name] for name in _DTYPES.get(kind, ())}
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: cannot be read ({error}); {_MEND}") from error
        try:
            _check(kind, len(ids), arrays)
            return cls._sorted(kind, ids, arrays)
        except ValueError as error:
            raise UserError(f"{path}: {error}; {_MEND}") from error


def _joined(parts: Sequence[Any]) -> npt.NDArray[Any]:
    return np.concatenate([np.asarray(part) for part in parts]) if parts else np.zeros(0)


def _word_places(lengths: npt.NDArray[Any], order: Sequence[int]) -> npt.NDArray[np.int64]:
    """Where the words of the texts stand, text after text in the given order."""
    ends = np.cumsum(lengths)
    parts = [np.arange(ends[text] - lengths[text], ends[text]) for text in order]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _check(kind: Kind, texts: int, arrays: Arrays) -> None:
    """Refuse arrays that ``save`` cannot have written."""
    if kind not in get_args(Kind):
        raise ValueError(f"kind '{kind}' is not one of {', '.join(get_args(Kind))}")
    rows = {name: texts for name in arrays}
    if kind == "words":
        rows = {name: int(arrays["lengths"].sum()) for name in arrays} | {"lengths": texts}
    for name, values in arrays.items():
        sides = {"masks": (4,), "scores": arrays["truth"].shape[1:] if kind == "scores" else ()}.get(kind, ())
        good = values.dtype == _DTYPES[kind][name] and values.shape == (rows[name], *sides)
        if not good or (values.dtype.kind == "i" and values.size and values.min() < 0) or np.isinf(values).any():
            raise ValueError(f"array {name!r} is not what was written")
