"""RefCOCO, RefCOCO+, RefCOCOg: expressions for one object each, on COCO's training images of 2014.

``<name>.zip`` holds ``<name>/instances.json`` (masks) and ``<name>/refs(<by>).p``, a list of dictionaries with ref_id,
ann_id, image_id, split and sentences, which is a list of {sent_id, sent}. It is a Python 2 pickle and is read as plain
values only (``ovss.data.plain_pickle``), once; what the tables read is the JSON lines of the prepared source.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovss.data import rle
from ovss.data.archives import read_member
from ovss.data.layouts import need, unpack
from ovss.data.plain_pickle import LARGEST, read_plain
from ovss.data.polygons import fill
from ovss.data.text_layouts import Extracted, TextEntry, is_text, words_of
from ovss.errors import UserError

IMAGES = "train2014.zip"
LARGEST_JSON = 1 << 30
EMPTY = "empty expression"


def extract(archives: Mapping[str, Path], split: str, out: Path) -> Extracted:
    """Unpack the images and draw the masks of ``split``: name/by/part, for example ``refcoco+/unc/testA``.

    Raises:
        UserError: a file is missing or is not what it should be, or an object is not in it.
    """
    name, by, part = _parts(split)
    source = need(archives, f"{name}.zip")
    listing = f"{name}/refs({by}).p"
    images, objects = _instances(source, f"{name}/instances.json")
    refs = [ref for ref in _refs(source, listing) if ref["split"] == part]
    folder = out / "objects"
    folder.mkdir(parents=True)
    found = unpack(
        need(archives, IMAGES),
        out,
        r"train2014/(?P<id>COCO_train2014_\d{12})\.jpg",
        {Path(images[ref["image_id"]]["file_name"]).stem for ref in refs if ref["image_id"] in images},
    )
    entries, left_out = [], Counter[str]()
    for ref in refs:
        image_id, image = _image(ref, images, found, source)
        mask = _mask(ref, images[ref["image_id"]], objects, folder, source)
        for number, sentence in enumerate(ref["sentences"]):
            text = " ".join(str(sentence["sent"]).split())
            if not text:
                left_out[EMPTY] += 1
                continue
            item = f"{image_id}_{ref['ref_id']:06d}_{number:02d}"
            entries.append(TextEntry(item, image_id, image, text, words_of(text), None, mask.stem, (mask,)))
    return Extracted(entries, left_out)


def _parts(split: str) -> tuple[str, str, str]:
    parts = split.split("/")
    if len(parts) != 3 or not all(parts):
        raise UserError(f"split {split!r}: write name/by/part, for example refcoco/unc/val, in datasets.yaml")
    return parts[0], parts[1], parts[2]


def _instances(archive: Path, member: str) -> tuple[dict[int, Any], dict[int, Any]]:
    """Images and annotations of instances.json by their ids."""
    try:
        data = json.loads(read_member(archive, member, LARGEST_JSON))
        images = {int(image["id"]): _known(image) for image in data["images"]}
        return images, {int(note["id"]): {"segmentation": note["segmentation"]} for note in data["annotations"]}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{archive}: {member} is not COCO's form of instances ({error}); fetch it again") from error


def _known(image: Mapping[str, Any]) -> dict[str, Any]:
    height, width = int(image["height"]), int(image["width"])
    if min(height, width) < 1 or height * width > rle.LARGEST:
        raise ValueError(f"an image of {height} x {width} pixels")
    if not is_text(image["file_name"]):
        raise ValueError("file_name is no text")
    return {"file_name": image["file_name"], "height": height, "width": width}


def _refs(archive: Path, member: str) -> list[Any]:
    """The references in a pickle of the archive, nothing of it believed."""
    refs = read_plain(read_member(archive, member, LARGEST), f"{archive}: {member}")
    try:
        if not isinstance(refs, list):
            raise TypeError(f"it holds a {type(refs).__name__}")
        for ref in refs:
            if not all(type(ref[key]) is int and 0 <= ref[key] < 1 << 63 for key in ("ref_id", "ann_id", "image_id")):
                raise ValueError("ref_id, ann_id and image_id are whole numbers")
            if not isinstance(ref["split"], str) or not isinstance(ref["sentences"], list | tuple):
                raise ValueError("split is a text, and sentences a list")
            if not all(is_text(one["sent"]) for one in ref["sentences"]):
                raise ValueError("every sent is a text")
    except (ValueError, LookupError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{archive}: {member} is not a list of references ({reason}); fetch the archive again"
        ) from error
    return refs


def _image(ref: Any, images: Mapping[int, Any], found: Mapping[str, Path], source: Path) -> tuple[str, Path]:
    stem = Path(images.get(ref["image_id"], {}).get("file_name", "?")).stem
    if stem not in found:
        raise UserError(f"{source}: image {ref['image_id']} of reference {ref['ref_id']} is not in {IMAGES} ({stem})")
    return stem, found[stem]


def _mask(ref: Any, image: Any, objects: Mapping[int, Any], folder: Path, source: Path) -> Path:
    """Draw an object's mask, once."""
    path = folder / f"{ref['ann_id']}.png"
    if not path.is_file():
        if ref["ann_id"] not in objects:
            raise UserError(f"{source}: object {ref['ann_id']} of reference {ref['ref_id']} is not in instances.json")
        segments = objects[ref["ann_id"]]["segmentation"]
        shape = int(image["height"]), int(image["width"])
        mask = fill(segments, *shape) if isinstance(segments, list) else rle.decode(segments)
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(path)
    return path
