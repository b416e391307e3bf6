"""A data set in a few lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from ovss.data.labels import ignored_in
from ovss.dataset_check.entry import Expected
from ovss.dataset_check.scan import Scan


def per_class(counts: Mapping[int, int], table: npt.NDArray[Any]) -> Counter[int]:
    """Counts by raw value -> counts by class index."""
    found = Counter[int]()
    for value, count in counts.items():
        found[int(table[value])] += count
    return found


def images_per_class(scan: Scan, table: npt.NDArray[Any]) -> Counter[int]:
    """In how many images each class index occurs."""
    found = Counter[int]()
    for _, values in scan.pairs:
        found.update(set(table[list(values)].tolist()))
    return found


def summary(expected: Expected, scan: Scan) -> str:
    """Images, sizes, every class's share of the scored pixels, what is ignored, classes that never occur."""
    pixels, images = per_class(scan.pixels, expected.table), images_per_class(scan, expected.table)
    heights, widths = zip(*scan.sizes, strict=True)
    ignored = ignored_in(expected.table)
    total = pixels.total()
    scored = total - pixels[ignored]
    lines = [
        f"{expected.name}: {expected.title}",
        f"split {expected.split}: {len(scan.pairs)} images of {_span(widths)} x {_span(heights)} pixels, "
        f"{len(expected.classes)} classes",
        f"{'class':>5}  {'scored':>7}  {'images':>6}  name",
    ]
    for index, name in enumerate(expected.classes):
        if pixels[index]:
            lines.append(f"{index:>5}  {pixels[index] / scored:>7.2%}  {images[index]:>6}  {name}")
    raw = [str(value) for value in sorted(scan.pixels) if expected.table[value] == ignored]
    lines.append(f"ignored: {1 - scored / total:.2%} of all pixels" + (f" (raw {', '.join(raw)})" if raw else ""))
    if never := [name for index, name in enumerate(expected.classes) if not pixels[index]]:
        lines.append(f"never there: {', '.join(never)}")
    return "\n".join(lines)


def _span(sides: tuple[int, ...]) -> str:
    return str(min(sides)) if min(sides) == max(sides) else f"{min(sides)}..{max(sides)}"
