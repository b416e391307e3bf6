"""Image-text pairs for training: which can be used, and reading them by row of an index.

The stage ``ovss.data.index_pairs`` reads every pair once; training then reads rows of its index in any order it likes,
so that a run can go on at any step.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from ovss.config.base import Strict
from ovss.data.ahead import in_order
from ovss.data.images import FORMATS
from ovss.data.webdataset import Member, Sample
from ovss.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp")
ROW = np.dtype([("shard", "<u4"), ("image", "<u8"), ("image_bytes", "<u4"), ("text", "<u8"), ("text_bytes", "<u4")])
"""A usable pair: number of its shard, and where its image and its caption lie there."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error,
              Image.DecompressionBombError)  # fmt: skip
"""What Pillow raises on damaged images."""
INDEX, FACTS = "pairs.npy", "facts.json"


class PairRules(Strict):
    """Which pairs are left out; those without a readable image or without a caption always are."""

    max_words: int | None = Field(
        default=77, ge=1, description="longest caption in words (CLIP reads 77 tokens); null: any"
    )
    cut_shards: Literal["refuse", "use"] = Field(
        default="refuse", description="a shard that ends in the middle: stop, or use the pairs before its end"
    )


@dataclass(frozen=True)
class Pair:
    """A pair: shard and key, RGB (H, W, 3) uint8, caption without line breaks and repeated blanks."""

    id: str
    image: NDArray[np.uint8]
    caption: str


def image_of(sample: Sample) -> Member:
    """The image among a pair's members."""
    return next(sample.members[kind] for kind in IMAGES if kind in sample.members)


def problem_of(sample: Sample, rules: PairRules) -> str | None:
    """Why a pair cannot be used, or None."""
    if not any(kind in sample.members for kind in IMAGES):
        return "no image"
    if "txt" not in sample.members:
        return "no caption"
    try:
        caption = caption_of(sample.members["txt"].data)
    except UnicodeDecodeError:
        return "caption is not UTF-8"
    if not caption:
        return "empty caption"
    if rules.max_words is not None and len(caption.split()) > rules.max_words:
        return f"caption of more than {rules.max_words} words"
    return _image_problem(image_of(sample).data)


def _image_problem(data: bytes) -> str | None:
    if not data:
        return "empty image"
    if data[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page in place of the image"
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # all bytes are decoded, few pixels are computed
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except UNREADABLE:
        return "image cannot be read"
    return None


def caption_of(data: bytes) -> str:
    """Caption of a ``.txt`` member, blanks and line breaks as single blanks."""
    return " ".join(data.decode("utf-8-sig").split())


class Pairs:
    """Pairs of an index by row.

    Args:
        index: output folder of the stage.
        shards: folder with the shards it was made from.
        keep: rows (n,) to use, in the order given (those that pruning kept); None: all.
    """

    def __init__(self, index: Path, shards: Path, keep: NDArray[np.integer] | None = None) -> None:
        try:
            self._rows = np.load(index / INDEX, mmap_mode="r", allow_pickle=False)
            names = json.loads((index / FACTS).read_text(encoding="utf-8"))["shards"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{index}: no index of pairs ({error}); make it again") from error
        self._paths = [shards / name for name in names]
        self._keep = keep
        if keep is not None and len(keep) and not 0 <= int(keep.min()) <= int(keep.max()) < len(self._rows):
            raise UserError(f"{index}: rows to keep reach {int(keep.max())}, the index has {len(self._rows)} pairs")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._rows) if self._keep is None else len(self._keep)

    def __getitem__(self, position: int) -> Pair:
        """The pair at a position.

        Raises:
            UserError: its shard is missing or is no longer the one that was indexed.
        """
        row = self._row(position)
        with self._shard(row) as (stem, stream):
            key = _read(stream, int(row["image"]) - 512, 100).split(b"\0")[0].decode(errors="replace").partition(".")[0]
            data = _read(stream, int(row["image"]), int(row["image_bytes"]))
            caption = caption_of(_read(stream, int(row["text"]), int(row["text_bytes"])))
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return Pair(f"{stem}/{key}", np.array(image.convert("RGB")), caption)

    def caption(self, position: int) -> str:
        """The caption at a position; its image is not read.

        Raises:
            UserError: as for the pair.
        """
        row = self._row(position)
        with self._shard(row) as (_, stream):
            return caption_of(_read(stream, int(row["text"]), int(row["text_bytes"])))

    @contextmanager
    def _shard(self, row: np.void) -> Iterator[tuple[str, io.BufferedReader]]:
        """Name and contents of a row's shard."""
        path = self._paths[int(row["shard"])]
        try:
            with path.open("rb") as stream:
                yield path.stem, stream
        except UNREADABLE as error:
            raise UserError(f"{path}: not the shard that was indexed ({error}); index the pairs again") from error

    def read(self, positions: Iterable[int], workers: int = 1) -> Iterator[Pair]:
        """Pairs at the positions, in this order, read ahead by ``workers`` threads."""
        return in_order(self.__getitem__, positions, workers)

    def _row(self, position: int) -> np.void:
        if not 0 <= position < len(self):
            raise IndexError(position)
        row: np.void = self._rows[position if self._keep is None else int(self._keep[position])]
        return row


def _read(stream: io.BufferedReader, offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(size)
