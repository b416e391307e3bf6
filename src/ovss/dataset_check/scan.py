"""Every image and label of a data set, read and compared with what its entry says."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ovss.data.images import read_image
from ovss.data.labels import is_wide, read_label
from ovss.data.layouts import Entry
from ovss.dataset_check.entry import Expected
from ovss.errors import UserError
from ovss.evaluation.progress import Progress

_BATCH = 256
_ADVICE = "; fetch the archive again"


@dataclass(frozen=True)
class Good:
    """A pair that is right: its size, and its label's pixels by raw value (those that occur)."""

    entry: Entry
    size: tuple[int, int]
    pixels: dict[int, int]


@dataclass
class Scan:
    """Right pairs with the raw values in each, their sizes and pixels by raw value; a sentence on each wrong one."""

    pairs: list[tuple[Entry, frozenset[int]]] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, found: Good | str) -> None:
        """Count one pair."""
        if isinstance(found, str):
            self.wrong.append(found)
            return
        self.pairs.append((found.entry, frozenset(found.pixels)))
        self.sizes.append(found.size)
        self.pixels.update(found.pixels)


def scan(entries: Sequence[Entry], expected: Expected) -> Scan:
    """Read every pair; a progress line every few seconds."""
    result, progress = Scan(), Progress(expected.name, len(entries))
    for done, found in enumerate(_checked(entries, expected), start=1):
        result.add(found)
        if done < len(entries):  # a data set that is read at once has no line
            progress(done)
    return result


def _checked(entries: Sequence[Entry], expected: Expected) -> Iterator[Good | str]:
    """In order, some read at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(entries), _BATCH):
            yield from pool.map(partial(check_pair, expected=expected), entries[start : start + _BATCH])


def check_pair(entry: Entry, expected: Expected) -> Good | str:
    """A pair's size and label values, or one sentence on what is wrong with it."""
    try:
        size, label = read_image(entry.image).shape[:2], read_label(entry.label, is_wide(expected.allowed))
    except UserError as error:
        return str(error).replace(_ADVICE, "")
    if label.shape != size:
        turned = label.shape == size[::-1]
        hint = " (turned by 90 degrees: an EXIF rotation is not applied)" if turned else ""
        return f"{entry.label}: {_sides(label.shape)} pixels, but its image has {_sides(size)}{hint}"
    counts = np.bincount(label.ravel())
    pixels = {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}
    if stray := sorted(set(pixels) - set(pixels if expected.allowed is None else expected.allowed)):
        values = ", ".join(map(str, stray[:5])) + (f" and {len(stray) - 5} more" if len(stray) > 5 else "")
        where = "labels or ignore" if expected.own else "the source's allowed_values"
        return f"{entry.label}: raw value {values} is not in {where}"
    return Good(entry, (size[0], size[1]), pixels)


def _sides(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"
