"""The stage that brings one split of images with texts into the common form that ``ovss.data.text_images`` reads.

Output: ``images/<id>.<jpg|png>`` (original bytes), ``masks/<id>.png`` (8-bit gray, 255 = what the text names, else 0),
``texts.jsonl`` (id, image, caption, words, relevant, mask; sorted by image, then id), ``facts.json``.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ovss.data import text_layouts
from ovss.data.ahead import in_order
from ovss.data.images import read_image
from ovss.data.text_images import FACTS, TEXTS
from ovss.data.text_layouts import TextEntry
from ovss.errors import UserError
from ovss.jobs import JobContext

COUNTED = ("images", "texts", "masks")


class _Converted(NamedTuple):
    """The lines of one image, its size, and its masks."""

    lines: list[dict[str, Any]]
    size: tuple[int, int]
    masks: int


def run(ctx: JobContext) -> dict[str, object]:
    """Prepare one source of images with texts.

    Params: source (name), archives, layout, split, expected ({"images", "texts", "masks": count or null}, each may be
    missing). Inputs: archive name -> directory of its fetch job.

    Returns:
        the content of ``facts.json``.

    Raises:
        UserError: an archive is damaged or another one than expected.
    """
    source, split = str(ctx.params["source"]), str(ctx.params["split"])
    files = {path.name: path for name in ctx.params["archives"] for path in sorted(ctx.inputs[name].iterdir())}
    unpacked = ctx.out / "unpacked"
    unpacked.mkdir()
    found = text_layouts.load(ctx.params["layout"])(files, split, unpacked)
    facts = convert(found.entries, ctx.out, ctx.machine.workers)
    shutil.rmtree(unpacked)
    facts = {"source": source, "split": split, **facts, "left_out": dict(sorted(found.left_out.items()))}
    check(facts, ctx.params.get("expected") or {}, found.left_out)
    (ctx.out / FACTS).write_text(json.dumps(facts, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    return facts


def check(facts: Mapping[str, Any], expected: Mapping[str, int | None], left_out: Counter[str]) -> None:
    """Compare what was prepared with what the description of the source expects.

    Raises:
        UserError: there is no text, or a count is another one.
    """
    name, reasons = facts["source"], ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    if not facts["texts"]:
        why = reasons or "the split is empty"
        raise UserError(f"{name}: split '{facts['split']}' has no text ({why}); the archive is not the expected one")
    for what in COUNTED:
        if expected.get(what) not in (None, facts[what]):
            raise UserError(
                f"{name}: split '{facts['split']}' has {facts[what]} {what}, {expected[what]} are expected"
                + (f" ({reasons})" if reasons else "")
                + f" (expected.{what} in datasets.yaml); the archive is not the expected one"
            )


def convert(entries: Sequence[TextEntry], out: Path, workers: int = 1) -> dict[str, Any]:
    """Move the images to ``out/images``, write the masks to ``out/masks`` and the lines; counts of all.

    Raises:
        UserError: an image or mask cannot be read, their sizes differ, or two texts have the same id.
    """
    for folder in ("images", "masks"):
        (out / folder).mkdir()
    if len({entry.id for entry in entries}) < len(entries):
        raise UserError(f"{out}: two texts have the same id; the archive is not the expected one")
    ordered = sorted(entries, key=lambda entry: (entry.image_id, entry.id))
    groups = [list(group) for _, group in groupby(ordered, key=lambda entry: entry.image_id)]
    texts, words, masks, relevant, sizes = 0, 0, 0, 0, []
    with (out / TEXTS).open("w", encoding="utf-8", newline="\n") as stream:
        for done in in_order(partial(_convert_image, out=out), groups, workers):
            for line in done.lines:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
                texts, words, relevant = texts + 1, words + len(line["words"]), relevant + sum(line["relevant"] or ())
            masks += done.masks
            sizes.append(done.size)
    sides = {
        name: [min(side), max(side)] for name, side in zip(("height", "width"), zip(*sizes, strict=True), strict=False)
    }
    return {"images": len(groups), "texts": texts, "masks": masks, "words": words, "relevant": relevant, **sides}


def _convert_image(entries: Sequence[TextEntry], out: Path) -> _Converted:
    first = entries[0]
    size = read_image(first.image).shape[:2]
    image = f"images/{first.image_id}{first.image.suffix.lower()}"
    masks: dict[str, str] = {}
    lines = []
    for entry in entries:
        if entry.mask_id is not None and entry.mask_id not in masks:
            masks[entry.mask_id] = f"masks/{entry.mask_id}.png"
            mask = union(entry.masks, (size[0], size[1]))
            Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(out / masks[entry.mask_id])
        lines.append({
            "id": entry.id, "image": image, "caption": entry.caption, "words": list(entry.words),
            "relevant": None if entry.relevant is None else list(entry.relevant),
            "mask": None if entry.mask_id is None else masks[entry.mask_id],
        })  # fmt: skip
    first.image.rename(out / image)
    return _Converted(lines, (size[0], size[1]), len(masks))


def union(paths: Sequence[Path], shape: tuple[int, int]) -> np.ndarray:
    """Union of mask images: everything but 0 is foreground.

    Returns:
        ``shape`` bool.

    Raises:
        UserError: a mask cannot be read, has another size than its image, or more than one value beside 0.
    """
    total = np.zeros(shape, dtype=bool)
    for path in paths:
        try:
            with Image.open(path, formats=("PNG",)) as image:
                mask = np.array(image.convert("L"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: this mask cannot be read ({error}); fetch the archive again") from error
        if mask.shape != shape:
            raise UserError(f"{path}: the mask has size {mask.shape}, its image {shape}; not the expected archive")
        if len(np.union1d(mask, [0])) > 2:
            raise UserError(f"{path}: a mask has one value beside 0, this one has more; not the expected archive")
        total |= mask > 0
    return total
