"""Small archives with the real trees, names and encodings of the five data sets (drawn here, no real pixels).

Each builder returns file name -> bytes, and the labels that must come out: split -> id -> raw label (H, W) uint8.
Images differ in size, one is a gray JPEG, one is portrait; lists end in a blank line; zips hold the Finder's litter.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import scipy.io
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


# --- labels of 16 bits, of MATLAB files, of colours, of polygons


def mat(variables: dict[str, object], compressed: bool = True) -> bytes:
    """A MATLAB file; its header without the date."""
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, do_compression=compressed)
    return b"MATLAB 5.0 MAT-file".ljust(116) + stream.getvalue()[116:]


def tgz_of(files: Files) -> bytes:
    return gzip.compress(tar_of(files), mtime=0)


def wide_stripes(height: int, width: int, values: list[int]) -> np.ndarray:
    return np.array(values, np.uint16)[stripes(height, width, [*range(len(values))])]


def sbd() -> tuple[Files, Labels]:
    """One image of VOC's train (VOC has labels of its own), one of VOC's val, and two that VOC does not split."""
    voc, voc_labels = voc2012()
    root = "benchmark_RELEASE/dataset"
    ids = {"train": ["2007_000032", "2008_000008"], "val": ["2007_000033", "2008_000012"]}
    files: Files = {}
    labels: Labels = {"train": {}, "val": {}}
    for split, items in ids.items():
        files[f"{root}/{split}.txt"] = "".join(f"{item}\n" for item in [*items, ""]).encode()
        for k, item in enumerate(items):
            label = stripes(*SIZES[k], [0, 1, 20])
            truth = {"Boundaries": np.zeros((20, 1), object), "Segmentation": label, "CategoriesPresent": [[1], [20]]}
            labels[split][item] = label
            files[f"{root}/img/{item}.jpg"] = jpg(k, *SIZES[k])
            files[f"{root}/cls/{item}.mat"] = mat({"GTcls": truth}, compressed=k == 1)
            files[f"{root}/inst/{item}.mat"] = mat({"GTinst": truth})
    own = {item: labels[split][item] for split, item in (("train", "2008_000008"), ("val", "2008_000012"))}
    labels |= {"aug": own, "train_aug": own | voc_labels["train"]}
    return {**voc, "benchmark.tgz": tgz_of(files)}, labels


def context459() -> tuple[Files, Labels]:
    files, narrow = context()
    maps: Files = {"labels.txt": b"1: accordion\n459: wool\n", "trainval/2008_000099.mat": mat({"LabelMap": [[1]]})}
    labels: Labels = {}
    for split, items in narrow.items():
        labels[split] = {item: wide_stripes(*label.shape, [1, 255, 256, 459]) for item, label in items.items()}
        maps |= {f"trainval/{item}.mat": mat({"LabelMap": label}) for item, label in labels[split].items()}
    return {**files, "trainval.tar.gz": tgz_of(maps)}, labels


TRAP = b"cposix\nsystem\n(S'touch opened'\ntR."
"""A pickle that leaves a file behind where it is opened."""


def coloured(low: np.ndarray, high: np.ndarray, blue: int = 7) -> bytes:
    """A PNG with these values of red and green."""
    return png(np.dstack([low, high, np.full_like(low, blue)]).astype(np.uint8))


def ade20k_full() -> tuple[Files, Labels]:
    root = "ADE20K_2021_17_01"
    files: Files = {f"{root}/index_ade20k.pkl": TRAP, f"{root}/objects.txt": b"x", f"{root}/images/.DS_Store": b"x"}
    labels: Labels = {"training": {}, "validation": {}}
    for split, short in (("training", "train"), ("validation", "val")):
        for k, (height, width) in enumerate(SIZES):
            item = f"ADE_{short}_{k + 1:08d}"
            label = labels[split][item] = wide_stripes(height, width, [0, 312, 2978, 6655, 1])
            start = f"{root}/images/ADE/{split}/{('urban/street', 'home_or_hotel/attic', 'unknown')[k]}/{item}"
            files[f"{start}.jpg"] = jpg(k, height, width, gray=k == 2)
            files[f"{start}_seg.png"] = coloured(label // 256 * 10 + k, label % 256)
            files[f"{start}.json"] = b"{}"
            files[f"{start}_parts_1.png"] = files[f"{start}/instance_000_{item}.png"] = png(np.ones((4, 4), np.uint8))
    return {"ADE20K_2021_17_01.zip": zip_of(files)}, labels


def box(top: int, left: int, bottom: int, right: int) -> list[float]:
    """Corners of the pixels ``[top:bottom, left:right]``."""
    return [left, top, right, top, right, bottom, left, bottom]


def thing(number: int, image: int, category: int, drawn: object, area: float, crowd: int = 0) -> dict[str, object]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": drawn, "area": area,
            "bbox": [0, 0, 1, 1], "iscrowd": crowd}  # fmt: skip


def lvis() -> tuple[Files, Labels]:
    """A cup on a table, annotated in both orders; images of both archives, one without a thing in it."""
    folders = {"val": {9: "train2017", 139: "val2017", 285: "val2017"}, "train": {25: "train2017"}}
    zips: dict[str, Files] = {"train2017": {}, "val2017": {}}
    labels: Labels = {}
    files: Files = {}
    for split, found in folders.items():
        images, annotations = [], []
        labels[split] = {}
        for k, (number, folder) in enumerate(found.items()):
            (height, width), item = SIZES[k], f"{number:012d}"
            label = labels[split][item] = np.zeros((height, width), np.uint16)
            zips[folder][f"{folder}/{item}.jpg"] = jpg(k, height, width, gray=k == 1)
            images.append({"id": number, "height": height, "width": width, "neg_category_ids": [],
                           "coco_url": f"http://images.cocodataset.org/{folder}/{item}.jpg"})  # fmt: skip
            if k < 2:
                label[5:30, 3:40] = 1
                label[10:15, 8:20] = label[20:22, 30:33] = 1203
                table = thing(2 * k, number, 1, [box(5, 3, 30, 40)], 925.0)
                cups = thing(2 * k + 1, number, 1203, [box(10, 8, 15, 20), box(20, 30, 22, 33)], 66.0)
                annotations += [cups, table] if k else [table, cups]
        categories = [{"id": number, "name": f"n{number}", "synonyms": []} for number in (1, 2, 1203)]
        listed = {"info": {}, "annotations": annotations, "images": images, "licenses": [], "categories": categories}
        files[f"lvis_v1_{split}.json.zip"] = zip_of({f"lvis_v1_{split}.json": json.dumps(listed).encode()})
    return {**files, **{f"{folder}.zip": zip_of(content) for folder, content in zips.items()}}, labels


def coco_things() -> tuple[Files, Labels]:
    """A polygon over a crowd (an uncompressed run-length code); the last image shows nothing."""
    zips: dict[str, Files] = {"train2017": {}, "val2017": {}}
    labels: Labels = {"train2017": {}, "val2017": {}}
    notes: Files = {"annotations/captions_val2017.json": b"{", "annotations/person_keypoints_val2017.json": b"{"}
    for split, numbers in (("train2017", [9]), ("val2017", [139, 285])):
        images, annotations = [], []
        for k, number in enumerate(numbers):
            (height, width), item = SIZES[k], f"{number:012d}"
            label = labels[split][item] = np.zeros((height, width), np.uint8)
            zips[split][f"{split}/{item}.jpg"] = jpg(k, height, width)
            images.append({"id": number, "file_name": f"{item}.jpg", "height": height, "width": width})
            if not k:
                label[:, :20] = 1
                label[4:9, 6:12] = 90
                runs = {"size": [height, width], "counts": [0, 20 * height, (width - 20) * height]}
                annotations += [thing(1, number, 90, [box(4, 6, 9, 12)], 30.0), thing(2, number, 1, runs, 960.0, 1)]
        categories = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
        listed = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        notes[f"annotations/instances_{split}.json"] = json.dumps(listed).encode()
    zips_of = {f"{folder}.zip": zip_of(content) for folder, content in zips.items()}
    return {**zips_of, "annotations_trainval2017.zip": zip_of(notes)}, labels


IMAGENET_S = {
    "ImageNetS50": ("ImageNetS50-a0fe9d82231f9bc4787ee76e304dfa51.zip", [0, 1, 50, 1000]),
    "ImageNetS300": ("ImageNetS300-dd8e42e156bac415a35c3c239de297bf.zip", [0, 1, 255, 256, 300, 1000]),
    "ImageNetS919": ("ImageNetS919-5f7f58ae1003d21da9409a8576bf7680.zip", [0, 1, 255, 256, 919, 1000]),
}


def imagenet_s() -> tuple[Files, Labels]:
    images: Files = {"ILSVRC2012_val_00000003.JPEG": jpg(9, 8, 8)}  # has no label
    items = {"ILSVRC2012_val_00000001": "JPEG", "ILSVRC2012_val_00000002": "jpeg"}
    files: Files = {}
    labels: Labels = {}
    for split, (name, values) in IMAGENET_S.items():
        maps: Files = {f"{split}/train-semi-segmentation/n01443537/n01443537_2.png": b"x"}
        labels[split] = {}
        for k, (item, suffix) in enumerate(items.items()):
            label = labels[split][item] = wide_stripes(*SIZES[k], values)
            maps[f"{split}/validation-segmentation/n01443537/{item}.png"] = coloured(label % 256, label // 256, 0)
            images[f"{item}.{suffix}"] = jpg(k, *SIZES[k])
        files[name] = zip_of(maps)
    return {**files, "ILSVRC2012_img_val.tar": tar_of(images)}, labels


BUILDERS = {
    "voc2012": voc2012,
    "ade20k": ade20k,
    "coco_stuff": coco,
    "cityscapes": cityscapes,
    "context": context,
    "sbd": sbd,
    "pascal_context_459": context459,
    "ade20k_full": ade20k_full,
    "lvis": lvis,
    "coco_instances": coco_things,
    "imagenet_s": imagenet_s,
}
