"""Images with texts of a prepared source: captions with true words, concepts, expressions with masks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovss.data.ahead import in_order
from ovss.data.images import read_image
from ovss.data.labels import read_label
from ovss.errors import UserError

TEXTS, FACTS = "texts.jsonl", "facts.json"


@dataclass(frozen=True)
class Text:
    """A text of an image.

    ``caption`` is empty where there are only ``words`` (the concepts of a list). ``relevant``: for each word whether
    the image shows it; None where nobody said. ``image`` and ``mask`` are paths in the prepared source.
    """

    id: str
    image: str
    caption: str
    words: tuple[str, ...]
    relevant: tuple[bool, ...] | None
    mask: str | None


@dataclass(frozen=True)
class TextImage:
    """A text with its image, RGB (H, W, 3) uint8, and the mask of what it names, (H, W) bool or None.

    Texts of the same image share the array.
    """

    id: str
    image: NDArray[np.uint8]
    caption: str
    words: tuple[str, ...]
    relevant: tuple[bool, ...] | None
    mask: NDArray[np.bool_] | None


def read_texts(directory: Path) -> list[Text]:
    """Texts of a prepared source in its order, without images.

    Raises:
        UserError: the directory is no prepared source of images with texts.
    """
    lists = dict[tuple[Any, ...], tuple[Any, ...]]()
    try:
        with (directory / TEXTS).open(encoding="utf-8") as stream:
            return [_text(json.loads(line), lists) for line in stream]
    except OSError as error:
        raise UserError(f"{directory}: not a prepared source with texts ({TEXTS}: {error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory / TEXTS}: damaged ({error}); prepare the source again") from error


def _text(line: Mapping[str, Any], lists: dict[tuple[Any, ...], tuple[Any, ...]]) -> Text:
    relevant = None if line["relevant"] is None else tuple(bool(value) for value in line["relevant"])
    words = tuple(map(sys.intern, line["words"]))  # a list of concepts comes with every image
    if relevant is not None and len(relevant) != len(words):
        raise ValueError(f"{line['id']} has {len(words)} words and {len(relevant)} marks")
    if not line["caption"]:  # every image has the same list, and many the same marks: one tuple for all
        words = lists.setdefault(words, words)
        relevant = relevant and lists.setdefault(relevant, relevant)
    return Text(line["id"], line["image"], line["caption"], words, relevant, line["mask"])


class TextImages:
    """Iterates over texts ``start`` to ``stop`` of a prepared source, in its order.

    Every iteration starts anew. An image is decoded once for all its texts; at most ``2 * workers`` images are in
    memory beside the one handed out. The number of workers changes nothing else.

    Args:
        directory: output of ``ovss.data.prepare_texts``.
        start, stop: positions; None = to the end.
        workers: threads that decode ahead.
    """

    def __init__(self, directory: Path, start: int = 0, stop: int | None = None, workers: int = 1) -> None:
        self.texts = read_texts(directory)[start:stop]
        self._directory = directory
        self._workers = workers

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.texts)

    @property
    def ids(self) -> list[str]:
        """Ids in order."""
        return [text.id for text in self.texts]

    def __iter__(self) -> Iterator[TextImage]:
        """Texts with images and masks, in order.

        Raises:
            UserError: an image or mask cannot be read, or their sizes differ (names the file).
        """
        groups = [list(group) for _, group in groupby(self.texts, key=lambda text: text.image)]
        decoded = in_order(partial(_decode, self._directory), groups, self._workers)
        for group, image in zip(groups, decoded, strict=True):
            for text in group:
                yield self._join(text, image)

    def _join(self, text: Text, image: NDArray[np.uint8]) -> TextImage:
        mask = None
        if text.mask is not None:
            mask = read_label(self._directory / text.mask) > 0
            if mask.shape != image.shape[:2]:
                raise UserError(
                    f"{self._directory / text.mask}: size {mask.shape}, but {image.shape[:2]} for its image; "
                    "prepare the source again"
                )
        return TextImage(text.id, image, text.caption, text.words, text.relevant, mask)


def _decode(directory: Path, texts: list[Text]) -> NDArray[np.uint8]:
    return read_image(directory / texts[0].image)
