"""COCO's run-length code for masks (the format of pycocotools), in numpy.

Runs go down the columns and alternate between 0 and 1, starting with 0. The compressed form writes each run (from the
fourth on: its difference to the run two before) as 5-bit groups, lowest first: bit 5 of a character says that another
group follows, bit 4 of the last group is the sign; characters start at ``chr(48)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovss.errors import UserError

LARGEST = 1 << 26
"""Pixels of a mask; no image of these data sets comes near."""


def decode(code: Mapping[str, Any]) -> np.ndarray:
    """Mask of a run-length code ``{"size": [H, W], "counts": str | bytes | list of int}``.

    Returns:
        (H, W) bool.

    Raises:
        UserError: the runs do not add up to H * W, or the text is no code.
    """
    try:
        height, width = (int(side) for side in code["size"])
        counts = code["counts"]
        runs = runs_of(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts, dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"run-length code: {type(error).__name__}: {error}; the annotation file is damaged") from error
    pixels = height * width
    if min(height, width) < 0 or pixels > LARGEST:
        raise UserError(f"run-length code: {height} x {width} is no size of an image; the annotation file is damaged")
    if runs.ndim != 1 or (runs.size and not 0 <= runs.min() <= runs.max() <= pixels) or runs.sum() != pixels:
        raise UserError(f"run-length code: the runs do not fill {height} x {width} pixels; the file is damaged")
    values = np.arange(runs.size) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def runs_of(text: str | bytes) -> np.ndarray:
    """Run lengths of compressed counts.

    Returns:
        (runs,) int64.

    Raises:
        ValueError: a character is not in the code or the last run is cut off.
    """
    raw = text.encode("ascii") if isinstance(text, str) else text
    groups = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if not groups.size:
        return groups
    last = (groups & 0x20) == 0
    if groups.min() < 0 or groups.max() > 63 or not last[-1]:
        raise ValueError("not a compressed run-length code")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(groups.size) - np.repeat(starts, np.diff(np.append(starts, groups.size)))
    if place.max() > 11:
        raise ValueError("a run of more than 60 bits")
    numbers = np.add.reduceat((groups & 0x1F) << (5 * place), starts)
    negative = (groups[last] & 0x10) != 0
    numbers -= np.where(negative, np.int64(1) << (5 * (place[last] + 1)), 0)
    for parity in (1, 2):  # the difference is to the run two before, from the fourth run on
        numbers[parity::2] = np.cumsum(numbers[parity::2])
    return numbers


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Run-length code of a mask, compressed.

    Args:
        mask: (H, W), zero or not.

    Returns:
        ``{"size": [H, W], "counts": str}``.
    """
    flat = (np.asarray(mask) != 0).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
    if flat.size and flat[0]:
        runs = np.concatenate([[0], runs])
    return {"size": list(mask.shape), "counts": "".join(_characters(runs.tolist()))}


def _characters(runs: Sequence[int]) -> list[str]:
    text = []
    for position, run in enumerate(runs):
        number = run - runs[position - 2] if position > 2 else run
        more = True
        while more:
            group = number & 0x1F
            number >>= 5
            more = number != (-1 if group & 0x10 else 0)
            text.append(chr(48 + (group | 0x20 if more else group)))
    return text
