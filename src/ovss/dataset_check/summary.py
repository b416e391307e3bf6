"""A data set in a few lines of text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ovss.data.label_maps import IGNORED
from ovss.dataset_check.entry import Expected
from ovss.dataset_check.scan import Scan


def per_class(counts: npt.NDArray[np.int64], table: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(256,) counts of raw values -> (256,) counts of class indices."""
    found = np.zeros(256, np.int64)
    np.add.at(found, table, counts)
    return found


def images_per_class(scan: Scan, table: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(256,): in how many images each class index occurs."""
    found = np.zeros(256, np.int64)
    for _, values in scan.pairs:
        found[np.unique(table[list(values)])] += 1
    return found


def summary(expected: Expected, scan: Scan) -> str:
    """Images, sizes, every class's share of the scored pixels, what is ignored, classes that never occur."""
    pixels, images = per_class(scan.pixels, expected.table), images_per_class(scan, expected.table)
    heights, widths = zip(*scan.sizes, strict=True)
    total, scored = int(pixels.sum()), int(pixels[:IGNORED].sum())
    lines = [
        f"{expected.name}: {expected.title}",
        f"split {expected.split}: {len(scan.pairs)} images of {_span(widths)} x {_span(heights)} pixels, "
        f"{len(expected.classes)} classes",
        f"{'class':>5}  {'scored':>7}  {'images':>6}  name",
    ]
    for index, name in enumerate(expected.classes):
        if pixels[index]:
            lines.append(f"{index:>5}  {pixels[index] / scored:>7.2%}  {images[index]:>6}  {name}")
    raw = [str(value) for value in np.flatnonzero((expected.table == IGNORED) & (scan.pixels > 0)).tolist()]
    lines.append(f"ignored: {1 - scored / total:.2%} of all pixels" + (f" (raw {', '.join(raw)})" if raw else ""))
    if never := [name for index, name in enumerate(expected.classes) if not pixels[index]]:
        lines.append(f"never there: {', '.join(never)}")
    return "\n".join(lines)


def _span(sides: tuple[int, ...]) -> str:
    return str(min(sides)) if min(sides) == max(sides) else f"{min(sides)}..{max(sides)}"
