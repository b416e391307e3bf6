"""Small archives with the real trees, names and encodings of the five data sets (drawn here, no real pixels).

Each builder returns file name -> bytes, and the labels that must come out: split -> id -> raw label (H, W) uint8.
Images differ in size, one is a gray JPEG, one is portrait; lists end in a blank line; zips hold the Finder's litter.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import numpy as np
from PIL import Image

from ovss.data import rle
from ovss.data.layouts.context import CATEGORY_IDS

Files = dict[str, bytes]
Labels = dict[str, dict[str, np.ndarray]]
SIZES = [(48, 64), (37, 50), (64, 48)]


def voc_palette() -> list[int]:
    """VOC's colours: the bits of the index, dealt to red, green and blue from the top."""
    colours = np.zeros((256, 3), dtype=int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((np.arange(256) >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.ravel().tolist()


def png(array: np.ndarray, palette: list[int] | None = None) -> bytes:
    image = Image.fromarray(array)
    if palette is not None:
        image = Image.frombytes("P", image.size, array.tobytes())
        image.putpalette(palette)
    return _saved(image, "PNG")


def jpg(seed: int, height: int, width: int, gray: bool = False) -> bytes:
    shape = (height // 8 + 1, width // 8 + 1) + (() if gray else (3,))
    coarse = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    return _saved(Image.fromarray(coarse).resize((width, height)), "JPEG")


def _saved(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def stripes(height: int, width: int, values: list[int]) -> np.ndarray:
    """Vertical stripes of the values."""
    return np.tile(np.array(values, np.uint8)[np.arange(width) * len(values) // width], (height, 1))


def tar_of(files: Files) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zip_of(files: Files) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return stream.getvalue()


def voc2012(val_values: tuple[int, ...] = (0, 1, 255, 20)) -> tuple[Files, Labels]:
    root = "VOCdevkit/VOC2012"
    ids = {"train": ["2007_000032"], "val": ["2007_000033", "2007_000039"]}
    files: Files = {f"{root}/JPEGImages/2012_000001.jpg": jpg(9, 40, 40)}  # in no split
    labels: Labels = {"train": {}, "val": {}}
    for split, items in ids.items():
        files[f"{root}/ImageSets/Segmentation/{split}.txt"] = "".join(f"{item}\n" for item in [*items, ""]).encode()
        for k, item in enumerate(items):
            height, width = SIZES[k]
            label = stripes(height, width, list(val_values if split == "val" else (0, 5)))
            labels[split][item] = label
            files[f"{root}/JPEGImages/{item}.jpg"] = jpg(k, height, width, gray=k == 1)
            files[f"{root}/SegmentationClass/{item}.png"] = png(label, voc_palette())
            files[f"{root}/SegmentationObject/{item}.png"] = png(label, voc_palette())
            files[f"{root}/Annotations/{item}.xml"] = b"<annotation/>"
    return {"VOCtrainval_11-May-2012.tar": tar_of(files)}, labels


def ade20k(values: tuple[int, ...] = (0, 1, 150)) -> tuple[Files, Labels]:
    root = "ADEChallengeData2016"
    files: Files = {f"{root}/objectInfo150.txt": b"Idx\tRatio\n", f"{root}/.DS_Store": b"x", "__MACOSX/._a.jpg": b"x"}
    labels: Labels = {"training": {}, "validation": {}}
    for split, short in (("training", "train"), ("validation", "val")):
        for k, (height, width) in enumerate(SIZES):
            item = f"ADE_{short}_{k + 1:08d}"
            labels[split][item] = stripes(height, width, list(values))
            files[f"{root}/images/{split}/{item}.jpg"] = jpg(k, height, width, gray=k == 2)
            files[f"{root}/annotations/{split}/{item}.png"] = png(labels[split][item])
    return {"ADEChallengeData2016.zip": zip_of(files)}, labels


def coco(values: tuple[int, ...] = (0, 89, 91, 181, 255)) -> tuple[Files, Labels]:
    images: dict[str, Files] = {"train2017": {}, "val2017": {}}
    maps: Files = {"__MACOSX/val2017/._000000000139.png": b"x"}
    labels: Labels = {"train2017": {}, "val2017": {}}
    for split, numbers in (("train2017", [9]), ("val2017", [139, 285])):
        for k, number in enumerate(numbers):
            height, width = SIZES[k]
            item = f"{number:012d}"
            labels[split][item] = stripes(height, width, list(values))
            images[split][f"{split}/{item}.jpg"] = jpg(k, height, width, gray=k == 1)
            maps[f"{split}/{item}.png"] = png(labels[split][item])
    zips = {f"{split}.zip": zip_of(files) for split, files in images.items()}
    return {**zips, "stuffthingmaps_trainval2017.zip": zip_of(maps)}, labels


def cityscapes(values: tuple[int, ...] = (0, 7, 8, 26, 33)) -> tuple[Files, Labels]:
    fine: Files = {"README": b"x", "license.txt": b"x"}
    left: Files = {"README": b"x", "license.txt": b"x"}
    labels: Labels = {"train": {}, "val": {}, "test": {}}
    for k, (split, city) in enumerate((("train", "aachen"), ("val", "frankfurt"), ("test", "berlin"))):
        item = f"{city}_000000_000294"
        label = stripes(32, 64, list(values))
        labels[split][item] = label
        start = f"gtFine/{split}/{city}/{item}_gtFine"
        fine[f"{start}_labelIds.png"] = png(label)
        fine[f"{start}_color.png"] = png(np.dstack([label] * 3))
        fine[f"{start}_instanceIds.png"] = png(label.astype(np.uint16) * 1000)
        fine[f"{start}_polygons.json"] = b'{"imgHeight":32,"imgWidth":64,"objects":[]}'
        pixels = np.random.default_rng(k).integers(0, 255, (32, 64, 3), dtype=np.uint8)
        left[f"leftImg8bit/{split}/{city}/{item}_leftImg8bit.png"] = png(pixels)
    return {"gtFine_trainvaltest.zip": zip_of(fine), "leftImg8bit_trainvaltest.zip": zip_of(left)}, labels


def context(last_id: int = 458) -> tuple[Files, Labels]:
    """Three segments per image, each over part of the one before; ``last_id`` is the topmost one's category."""
    root = "VOCdevkit/VOC2010"
    files: Files = {f"{root}/JPEGImages/2008_000099.jpg": jpg(9, 40, 40)}  # in no phase
    images, segments = [], []
    labels: Labels = {"train": {}, "val": {}}
    for k, phase in enumerate(["train", "val", "val"]):
        (height, width), item = SIZES[k], f"2008_{k + 2:06d}"
        files[f"{root}/JPEGImages/{item}.jpg"] = jpg(k, height, width)
        number = 2008000002 + k
        image = {"image_id": number, "file_name": f"{item}.jpg", "height": height, "width": width, "phase": phase}
        images.append(image)
        painted = np.zeros((height, width), dtype=int)
        parts = [(2, np.s_[:, :30]), (259, np.s_[10:, 20:]), (last_id, np.s_[30:, 5:25])]
        for category, part in parts:
            mask = np.zeros((height, width), dtype=np.uint8)
            mask[part] = 1
            painted[part] = category
            code = rle.encode(mask)
            segments.append({"id": len(segments), "image_id": number, "category_id": category, "segmentation": code})
        position = {category: index for index, category in enumerate(sorted(CATEGORY_IDS))}
        raw = [[position.get(value, 0) for value in row] for row in painted.tolist()]
        labels[phase][item] = np.array(raw, dtype=np.uint8)
    merged = {"images": images, "annos_segmentation": segments, "categories": [], "info": {}}
    return {"VOCtrainval_03-May-2010.tar": tar_of(files), "trainval_merged.json": json.dumps(merged).encode()}, labels


BUILDERS = {
    "voc2012": voc2012,
    "ade20k": ade20k,
    "coco_stuff": coco,
    "cityscapes": cityscapes,
    "context": context,
}
