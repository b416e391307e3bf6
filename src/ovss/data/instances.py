"""Label maps from annotations of things (COCO, LVIS): the masks of an image painted over each other.

Masks are painted from the largest to the smallest (field ``area``; equal ones in file order), so that a cup on a table
stays visible. A group marked ``iscrowd`` counts as its class. What no mask covers is 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from ovss.data.archives import open_members
from ovss.data.json_stream import items
from ovss.data.polygons import fill
from ovss.data.rle import LARGEST, decode
from ovss.errors import UserError

PARTS = 64
"""Annotations are first dealt to this many files by image, of which one at a time is in memory."""
LISTS = ("images", "annotations", "categories")
_BAD = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Photo:
    """An image as the annotation file lists it. folder: in the image archive, e.g. val2017. id: name without suffix."""

    number: int
    folder: str
    id: str
    height: int
    width: int


Listed = Callable[[Mapping[str, Any]], tuple[str, str]]
"""Entry of ``images`` -> (folder, id); raises ValueError where it cannot say."""


def paint_file(
    archive: Path, member: str, listed: Listed, out: Path, kind: type[np.unsignedinteger[Any]]
) -> dict[Photo, Path]:
    """Paint a label map for every image of an annotation file.

    Args:
        archive: the zip that holds it.
        member: its name there.
        listed: where an entry of its list of images says what the image file is.
        out: an empty folder to write to; the label maps are ``labels/<id>.png`` (category ids).
        kind: uint8 or uint16, what holds a category id.

    Returns:
        label map by image. Memory: the list of images and a ``PARTS``-th of the annotations.

    Raises:
        UserError: the archive is damaged, lacks the member, or an annotation is not what COCO's format says.
    """
    where = f"{archive}: {member}"
    try:
        photos, parts = _deal(archive, member, listed, out)
    except _BAD as error:
        raise UserError(f"{where}: not the expected annotations ({_reason(error)}); fetch it again") from error
    labels: dict[Photo, Path] = {}
    (out / "labels").mkdir()
    for photo, drawn in _by_photo(photos, parts, where):
        path = labels[photo] = out / "labels" / f"{photo.id}.png"
        painted = paint(photo.height, photo.width, drawn, f"{where}: image {photo.id}", kind)
        Image.fromarray(painted).save(path)
    return labels


def paint(
    height: int,
    width: int,
    annotations: Iterable[Mapping[str, Any]],
    name: str,
    kind: type[np.unsignedinteger[Any]] = np.uint16,
) -> np.ndarray:
    """Category id of every pixel.

    Args:
        height, width: of the image.
        annotations: ``category_id``, ``area`` and ``segmentation`` (polygons, or a run-length code) of each.
        name: what messages call the image.
        kind: uint8 or uint16.

    Returns:
        (height, width) of ``kind``, 0 where no mask lies.

    Raises:
        UserError: a mask is damaged or has another size than the image, or a category id does not fit.
    """
    canvas = np.zeros((height, width), dtype=kind)
    for each in sorted(annotations, key=lambda each: -each["area"]):
        drawn = each["segmentation"]
        try:
            mask = decode(drawn) if isinstance(drawn, dict) else fill(drawn, height, width)
        except (UserError, TypeError) as error:
            raise UserError(f"{name}: {error}") from error
        if mask.shape != canvas.shape:
            raise UserError(f"{name}: a mask of size {mask.shape} on an image of size {canvas.shape}")
        if not 1 <= each["category_id"] <= np.iinfo(kind).max:
            raise UserError(f"{name}: category {each['category_id']} is none of this data set")
        canvas[mask] = each["category_id"]
    return canvas


def _deal(archive: Path, member: str, listed: Listed, out: Path) -> tuple[dict[int, Photo], dict[int, Path]]:
    """Images by number, and the files that the annotations were dealt to."""
    photos: dict[int, Photo] = {}
    categories: set[int] = set()
    used: set[int] = set()
    parts: dict[int, Path] = {}
    with ExitStack() as stack:
        files: dict[int, IO[str]] = {}
        for key, item in _read(archive, member):
            if key == "images":
                photo = _photo(item, listed)
                if photo.number in photos:
                    raise ValueError(f"image {photo.number} is there twice")
                photos[photo.number] = photo
            elif key == "categories":
                categories.add(int(item["id"]))
            else:
                line = _annotation(item)
                part = line["image_id"] % PARTS
                if part not in files:
                    parts[part] = out / f"annotations_{part:02}.jsonl"
                    files[part] = stack.enter_context(parts[part].open("x", encoding="utf-8"))
                files[part].write(json.dumps(line) + "\n")
                used.add(line["category_id"])
    if not photos or len({photo.id for photo in photos.values()}) < len(photos):
        raise ValueError("two images have one name" if photos else "no image is listed")
    if unknown := sorted(used - categories):
        raise ValueError(f"category {unknown[0]} is not in the list of categories")
    return photos, parts


def _read(archive: Path, member: str) -> Iterator[tuple[str, Any]]:
    found = False
    for _, stream in open_members(archive, lambda name: name == member):
        if found:
            raise ValueError("the archive has two of this name")
        found = True
        yield from items(stream, LISTS)
    if not found:
        raise UserError(f"{archive}: there is no member {member!r}; this is not the expected archive")


def _photo(item: Mapping[str, Any], listed: Listed) -> Photo:
    height, width = int(item["height"]), int(item["width"])
    if min(height, width) < 1 or height * width > LARGEST:
        raise ValueError(f"an image of {height} x {width} pixels")
    return Photo(int(item["id"]), *listed(item), height, width)


def _annotation(item: Mapping[str, Any]) -> dict[str, Any]:
    """What is needed of an annotation, checked as far as that goes without its image."""
    category, area, drawn = int(item["category_id"]), float(item["area"]), item["segmentation"]
    if not math.isfinite(area):
        raise ValueError(f"an area of {area}")
    if not isinstance(drawn, (dict, list)):
        raise TypeError(f"a segmentation is {type(drawn).__name__}")
    return {"image_id": int(item["image_id"]), "category_id": category, "area": area, "segmentation": drawn}


def _by_photo(
    photos: Mapping[int, Photo], parts: Mapping[int, Path], where: str
) -> Iterator[tuple[Photo, list[dict[str, Any]]]]:
    """Every image with its annotations in file order, part by part; a part's file is removed when it was read."""
    numbers: dict[int, list[int]] = {}
    for number in sorted(photos):
        numbers.setdefault(number % PARTS, []).append(number)
    for part in range(PARTS):
        annotations: dict[int, list[dict[str, Any]]] = {number: [] for number in numbers.get(part, ())}
        if part in parts:
            with parts[part].open(encoding="utf-8") as lines:
                for line in map(json.loads, lines):
                    if line["image_id"] not in annotations:
                        raise UserError(f"{where}: an annotation is of image {line['image_id']}, which is not listed")
                    annotations[line["image_id"]].append(line)
            parts[part].unlink()
        yield from ((photos[number], found) for number, found in annotations.items())


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
