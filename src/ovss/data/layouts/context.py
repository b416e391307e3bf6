"""PASCAL Context: the VOC 2010 tar and ``trainval_merged.json`` with run-length coded segments.

The segments of an image are painted in file order, a later one over an earlier one (getMask of the detail toolkit);
category ids become 0 (background) and 1..59 in the order of their numbers, which is the alphabetical order of the names
(tools/convert_datasets/pascal_context.py of mmsegmentation).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovss.data.layouts import Entry, ids_in, need, pair, unpack
from ovss.data.rle import LARGEST, decode
from ovss.errors import UserError

ARCHIVE = "VOCtrainval_03-May-2010.tar"
ANNOTATIONS = "trainval_merged.json"
ROOT = "VOCdevkit/VOC2010"

CATEGORY_IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""Category ids of the 59 classes (and 0), sorted: position = raw label value."""


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the images of ``split`` (train, val: the field ``phase``) and paint their label maps."""
    source = need(archives, ANNOTATIONS)
    images, segments = _read(source, split)
    ids_in("\n".join(images).encode(errors="surrogatepass"), str(source))
    labels: dict[str, Path] = {}
    (out / "labels").mkdir(parents=True)
    for item, image in images.items():
        name = f"{source}: {item}"
        painted = paint(image["height"], image["width"], segments.get(image["image_id"], ()), name)
        labels[item] = out / "labels" / f"{item}.png"
        Image.fromarray(to_raw(painted, name)).save(labels[item])
    found = unpack(need(archives, ARCHIVE), out, rf"{ROOT}/JPEGImages/(?P<id>[^/]+)\.jpg", set(images))
    return pair(found, labels, ARCHIVE)


def listed(source: Path, split: str) -> set[str]:
    """Ids of the images of a split.

    Raises:
        UserError: the annotation file is damaged, or has no such split.
    """
    return set(ids_in("\n".join(_read(source, split)[0]).encode(errors="surrogatepass"), str(source)))


def paint(height: int, width: int, segments: Iterable[Mapping[str, Any]], name: str) -> np.ndarray:
    """Category id of every pixel; a later segment covers an earlier one.

    Returns:
        (height, width) int32, 0 where no segment lies.

    Raises:
        UserError: a segment has another size than the image (``name`` is what the message calls it).
    """
    canvas = np.zeros((height, width), dtype=np.int32)
    for segment in segments:
        mask = decode(segment["segmentation"])
        if mask.shape != canvas.shape:
            raise UserError(f"{name}: a segment of size {mask.shape} on an image of size {canvas.shape}")
        canvas[mask] = segment["category_id"]
    return canvas


def to_raw(painted: np.ndarray, name: str) -> np.ndarray:
    """Category ids -> 0..59.

    Raises:
        UserError: an id is none of the 59 classes and not 0 (looking it up would give it a neighbour's class).
    """
    stray = np.setdiff1d(painted, CATEGORY_IDS)
    if stray.size:
        raise UserError(f"{name}: category id {stray[0]} is none of the 59 classes; not the merged annotation file")
    return np.searchsorted(CATEGORY_IDS, painted).astype(np.uint8)


def _read(source: Path, split: str) -> tuple[dict[str, Any], dict[int, list[Any]]]:
    """The split's images by id, and all segments by image id."""
    try:
        data = json.loads(source.read_bytes())
        images = {Path(image["file_name"]).stem: _known(image) for image in data["images"] if image["phase"] == split}
        segments: dict[int, list[Any]] = {}
        for segment in data["annos_segmentation"]:
            segments.setdefault(int(segment["image_id"]), []).append({
                "category_id": int(np.int32(segment["category_id"])), "segmentation": segment["segmentation"],
            })  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{source}: not the merged annotation file ({reason}); fetch it again") from error
    return images, segments


def _known(image: Mapping[str, Any]) -> dict[str, int]:
    height, width = int(image["height"]), int(image["width"])
    if min(height, width) < 1 or height * width > LARGEST or len(str(image["file_name"])) > 200:
        raise ValueError(f"an image of {height} x {width} pixels, {str(image['file_name'])[:40]}")
    return {"image_id": int(image["image_id"]), "height": height, "width": width}
