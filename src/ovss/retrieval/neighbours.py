"""The stored nearest captions of segments, and the removal of near-duplicates among the first n of them.

TAG's published code links hits whose cosine is above 0.94 and keeps the best-ranked hit of each connected component,
without filling up. Which pairs are linked is stored as bits, so that any n can be evaluated without the vectors.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ovss.errors import UserError

NEIGHBOURS_FILE = "neighbours.safetensors"
TEXTS_FILE = "texts.jsonl"


def remove_duplicates(linked: npt.NDArray[np.bool_]) -> list[int]:
    """Positions that remain when each connected component of near-duplicates keeps its best-ranked member.

    Args:
        linked: (n, n), whether hits i and j are near-duplicates; rank order, best first.

    Returns:
        Positions, ascending. Being linked is transitive: a chain of near-duplicates is one component.
    """
    count = len(linked)
    either = linked | linked.T | np.eye(count, dtype=bool)
    best = np.arange(count)  # best-ranked member known of each hit's component
    while True:
        nearer = np.where(either, best[None, :], count).min(axis=1, initial=count)
        if np.array_equal(nearer, best):
            return [int(position) for position in np.flatnonzero(best == np.arange(count))]
        best = nearer


def duplicate_links(vectors: npt.NDArray[np.floating], duplicate_cosine: float) -> npt.NDArray[np.bool_]:
    """Which hits of a query are near-duplicates: (Q, n, n) from vectors (Q, n, D) of any length and float type.

    Computed in float64, so no pair's answer hangs on how a product was cut into blocks. Zero or NaN rows (places
    without a hit) are linked to nothing.
    """
    exact = np.nan_to_num(vectors.astype(np.float64))
    length = np.linalg.norm(exact, axis=-1, keepdims=True)
    unit = np.divide(exact, length, out=np.zeros_like(exact), where=length > 0)
    linked: npt.NDArray[np.bool_] = unit @ unit.transpose(0, 2, 1) > duplicate_cosine
    return linked


def pack_links(linked: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """(Q, n, n) bool as (Q, n, ceil(n / 8)) uint8, bit j of row i = hits i and j are linked (least bit first)."""
    return np.packbits(linked, axis=-1, bitorder="little")


@dataclass(frozen=True)
class Neighbours:
    """Nearest captions of S segments, best first.

    directory: where they are. ids: (S, n) int64 caption numbers, -1 where the collection has no more. scores: (S, n)
    float32 cosines. links: (S, n, ceil(n / 8)) uint8, see ``pack_links``.
    """

    directory: Path
    ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    links: npt.NDArray[np.uint8]

    @classmethod
    def open(cls, directory: Path) -> Neighbours:
        """Read a directory of the stage ``retrieve``.

        Raises:
            UserError: the file is missing or damaged, or its arrays do not fit together.
        """
        path = directory / NEIGHBOURS_FILE
        try:
            arrays = load_file(path)
            found = cls(directory, arrays["ids"], arrays["scores"], arrays["links"])
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path}: missing or damaged ({error}); delete the folder and retrieve again") from error
        segments, keep = found.ids.shape
        if found.scores.shape != (segments, keep) or found.links.shape != (segments, keep, -(-keep // 8)):
            raise UserError(f"{path}: ids, scores and links differ in size; delete the folder and retrieve again")
        return found

    def kept(self, segment: int, n: int, deduplicate: bool) -> list[int]:
        """Positions among the first ``n`` hits that remain, best first, at most n.

        Raises:
            UserError: more hits are asked for than were kept.
        """
        if not 0 < n <= self.ids.shape[1]:
            raise UserError(f"{self.directory}: {n} captions a segment are asked for and {self.ids.shape[1]} were kept")
        count = int((self.ids[segment, :n] >= 0).sum())
        if not deduplicate:
            return list(range(count))
        bits = np.unpackbits(self.links[segment, :count], axis=-1, bitorder="little", count=count)
        return remove_duplicates(bits.astype(bool))

    def text(self, caption: int) -> str:
        """Text of a caption by its number.

        Raises:
            UserError: no segment has this caption.
        """
        ids, starts, data = self._texts
        place = int(np.searchsorted(ids, caption))
        if place == len(ids) or ids[place] != caption:
            raise UserError(f"{self.directory / TEXTS_FILE}: caption {caption} is missing; retrieve again")
        text: str = json.loads(data[starts[place] : starts[place + 1]])["text"]
        return text

    @cached_property
    def _texts(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], mmap.mmap | bytes]:
        """Numbers, byte offsets and bytes of the lines; the bytes stay in the file."""
        path, ids, starts = self.directory / TEXTS_FILE, [], [0]
        try:
            with path.open("rb") as stream:
                for line in stream:
                    ids.append(json.loads(line)["id"])
                    starts.append(starts[-1] + len(line))
                data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if ids else b""
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: missing or damaged ({error}); delete the folder and retrieve again") from error
        return np.array(ids, np.int64), np.array(starts, np.int64), data


def write_neighbours(
    out: Path,
    ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    links: npt.NDArray[np.uint8],
    texts: Iterable[tuple[int, str]],
) -> None:
    """Write a directory that ``Neighbours.open`` reads; ``texts``: every caption that occurs, by ascending number."""
    arrays = {"ids": ids, "scores": scores, "links": links}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, out / NEIGHBOURS_FILE)
    with (out / TEXTS_FILE).open("w", encoding="utf-8", newline="\n") as stream:
        for caption, text in texts:
            stream.write(json.dumps({"id": caption, "text": text}, ensure_ascii=False) + "\n")
