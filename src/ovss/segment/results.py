"""What happens to each picture: its files and a line about it, or its name at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ovss.errors import UserError
from ovss.segment.legend import Entry, drawing, palette
from ovss.segment.pictures import Picture, Pixels, write_result

_EVERY = 0.5
"""Seconds between two states of the progress bar."""

_LEAST_SHARE = 0.005
"""Part of a picture from which on a class is named in the line about it."""


class Results:
    """Counts what is done of some pictures and keeps what went wrong with others."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.pictures = pictures
        self._failed: list[str] = []

    def each(self) -> Iterator[Picture]:
        """The pictures one by one; with several, progress in a terminal: elsewhere the line about each is progress."""
        yield from tqdm(self.pictures, "segment", unit=" pictures", file=sys.stderr, mininterval=_EVERY,
                        disable=len(self.pictures) < 2 or not sys.stderr.isatty())  # fmt: skip

    def fail(self, error: UserError) -> None:
        """Keep why a picture cannot be segmented.

        Raises:
            UserError: it is the only one.
        """
        if len(self.pictures) == 1:
            raise error
        self._failed.append(str(error))

    def write(
        self, picture: Picture, image: Pixels, labels: Pixels, found: Sequence[Entry], facts: Mapping[str, Any],
        drawn_labels: Pixels | None = None,
    ) -> None:  # fmt: skip
        """Write a picture's files and say so.

        Args:
            picture: which.
            image: (H, W, 3) uint8 RGB, upright.
            labels: (H, W) uint8, number of each pixel's class; a value that no class has: none.
            found: the classes.
            facts: for the record, beside what is said of every picture.
            drawn_labels: (h, w), drawn in place of ``labels``.

        Raises:
            UserError: the folder cannot be written to.
        """
        words = drawn_labels is not None
        sheet = drawing(image, labels if drawn_labels is None else drawn_labels, found, across=words)
        void = labels.size - sum(entry.pixels for entry in found)
        record = {
            "image": str(picture.path),
            "size": {"width": image.shape[1], "height": image.shape[0]},
            **facts,
            "classes": [entry.record() for entry in found],
            "no_class": {"number": 255, "pixels": void, "share": round(void / labels.size, 6)},
            "files": {"drawing": picture.drawing.name, "labels": picture.labels.name},
        }
        write_result(picture, sheet, labels, palette(found), record)
        tqdm.write(f"{picture.path} -> {picture.drawing}: {_said(found, facts)}", file=sys.stdout)
        sys.stdout.flush()

    def end(self) -> int:
        """Name the pictures that could not be segmented; 1 if there are any."""
        if not self._failed:
            return 0
        print(
            f"ovss segment: {len(self._failed)} of {len(self.pictures)} pictures could not be segmented:",
            file=sys.stderr,
        )
        for line in self._failed:
            print(f"  {line}", file=sys.stderr)
        return 1


def _said(found: Sequence[Entry], facts: Mapping[str, Any]) -> str:
    if "segments" in facts:
        words = dict.fromkeys(segment["word"] for segment in facts["segments"])
        return f"{len(facts['segments'])} segments: {', '.join(words)}"
    shown = sorted((entry for entry in found if entry.share >= _LEAST_SHARE), key=lambda one: (-one.pixels, one.number))
    return ", ".join(f"{entry.name} {100 * entry.share:.0f} %" for entry in shown) or "no class"
