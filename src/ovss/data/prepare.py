"""The stage that brings one split of a data set into the common form: images as they are, raw labels, an index.

Output: ``images/<id>.<jpg|png>`` (original bytes), ``labels/<id>.png`` (gray, the source's raw values: 8-bit, or
16-bit where the source allows values above 255),
``index.csv`` (id, image, label, height, width; sorted by id), ``facts.json``.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ovss.data import layouts
from ovss.data.images import read_image
from ovss.data.labels import check_values, is_wide, read_label
from ovss.data.layouts import Entry
from ovss.errors import UserError
from ovss.jobs import JobContext


class Row(NamedTuple):
    """One line of the index, and the label's pixels by raw value (those that occur)."""

    id: str
    image: str
    label: str
    height: int
    width: int
    pixels: dict[int, int]


def run(ctx: JobContext) -> dict[str, object]:
    """Prepare one source.

    Params: source (name), archives, layout, split, images (expected count or null), allowed_values (list or null).
    Inputs: archive name -> directory of its fetch job.

    Returns:
        the content of ``facts.json``.

    Raises:
        UserError: an archive is damaged or another one than expected (count, pairs, sizes, label values).
    """
    source, split = str(ctx.params["source"]), str(ctx.params["split"])
    files = {path.name: path for name in ctx.params["archives"] for path in sorted(ctx.inputs[name].iterdir())}
    unpacked = ctx.out / "unpacked"
    unpacked.mkdir()
    entries = layouts.load(ctx.params["layout"])(files, split, unpacked)
    check_count(source, split, len(entries), ctx.params.get("images"))
    rows = convert(sorted(entries), ctx.out, ctx.params.get("allowed_values"), ctx.machine.workers)
    shutil.rmtree(unpacked)
    write_index(rows, ctx.out)
    facts = facts_of(source, split, rows)
    (ctx.out / "facts.json").write_text(json.dumps(facts, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    return facts


def check_count(source: str, split: str, found: int, expected: int | None) -> None:
    """Check the number of images of a split.

    Raises:
        UserError: it is another number than the data set's description says.
    """
    if found == 0 or (expected is not None and found != expected):
        raise UserError(
            f"{source}: split '{split}' has {found} images, {expected or 'some'} are expected "
            f"(sources.{source}.images in datasets.yaml); the archive is not the expected one"
        )


def convert(entries: Sequence[Entry], out: Path, allowed: Collection[int] | None, workers: int = 1) -> list[Row]:
    """Move the images to ``out/images`` and write the labels to ``out/labels``, in order.

    Raises:
        UserError: an image cannot be decoded, a label holds a value that is not allowed, or their sizes differ.
    """
    for folder in ("images", "labels"):
        (out / folder).mkdir()
    if len({entry.id for entry in entries}) < len(entries):
        raise UserError(f"{out}: two images have the same id; the archive is not the expected one")
    known = None if allowed is None else frozenset(allowed)
    one = partial(_convert_one, out=out, allowed=known, wide=is_wide(allowed))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(one, entries))


def _convert_one(entry: Entry, out: Path, allowed: frozenset[int] | None, wide: bool) -> Row:
    height, width = read_image(entry.image).shape[:2]
    label = read_label(entry.label, wide)
    if label.shape != (height, width):
        raise UserError(f"{entry.id}: the image has size {(height, width)}, its label {label.shape}")
    pixels = check_values(label, allowed, entry.id)
    image, mask = f"images/{entry.id}{entry.image.suffix.lower()}", f"labels/{entry.id}.png"
    entry.image.rename(out / image)
    Image.fromarray(label).save(out / mask)
    return Row(
        entry.id, image, mask, height, width, {value: int(pixels[value]) for value in np.flatnonzero(pixels).tolist()}
    )


def write_index(rows: Sequence[Row], out: Path) -> None:
    """Write ``index.csv``."""
    with (out / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Row._fields[:5])
        writer.writerows(row[:5] for row in rows)


def facts_of(source: str, split: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What was prepared: number of images, their sides, pixels and images per raw label value."""
    pixels, images = Counter[int](), Counter[int]()
    for row in rows:
        pixels.update(row.pixels)
        images.update(row.pixels.keys())
    return {
        "source": source,
        "split": split,
        "images": len(rows),
        "height": [min(row.height for row in rows), max(row.height for row in rows)],
        "width": [min(row.width for row in rows), max(row.width for row in rows)],
        "pixels_of_value": {str(value): pixels[value] for value in sorted(pixels)},
        "images_with_value": {str(value): images[value] for value in sorted(images)},
    }
