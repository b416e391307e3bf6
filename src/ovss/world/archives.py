"""The archives of the tiny data sets, laid out member by member like the originals, with their odd details."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovss.world.classes import CLASSES, STUFF
from ovss.world.files import Files, compressed_rle, jpeg, png, run_lengths, to_json, voc_palette
from ovss.world.scenes import View

Labels = NDArray[np.uint8]
VOID = 255


@dataclass(frozen=True)
class Example:
    """One image of a data set: its split ("train" or "val"), its number in the split, what it shows, five captions."""

    split: str
    number: int
    view: View
    captions: Sequence[str]

    def objects(self) -> list[tuple[int, int]]:
        """(instance number, class index) of every visible thing."""
        numbers = [int(n) for n in np.unique(self.view.instance) if n]
        return [(n, int(self.view.label[self.view.instance == n][0])) for n in numbers]


def raw_labels(label: Labels, values: dict[str, int], missing: int = 0) -> Labels:
    """World classes (H, W) -> a data set's own values; classes without one become ``missing``."""
    table = np.full(len(CLASSES), missing, np.uint8)
    for name, value in values.items():
        table[CLASSES.index(name)] = value
    return table[label]


def borders(instance: Labels) -> NDArray[np.bool_]:
    """Pixels (H, W) on either side of a thing's outline."""
    edge = np.zeros(instance.shape, bool)
    across, down = instance[:, 1:] != instance[:, :-1], instance[1:] != instance[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def unlabelled(example: Example, every: int, value: int, raw: Labels) -> Labels:
    """Every ``every``-th image has a corner that nobody labelled (``value``)."""
    if example.number % every == 0:
        raw = raw.copy()
        raw[: raw.shape[0] // 8, : raw.shape[1] // 4] = value
    return raw


def _lines(names: Iterable[str]) -> bytes:
    return "".join(name + "\n" for name in names).encode()


def voc2012(examples: Sequence[Example], values: dict[str, int]) -> dict[str, Files]:
    """VOCtrainval_11-May-2012.tar: indexed PNG labels, 255 along outlines, images in no split, a blank last line."""
    root, files, splits = "VOCdevkit/VOC2012/", Files(), {"train": [], "val": []}  # type: ignore[var-annotated]
    palette = voc_palette()
    for e in examples:
        name = f"{2007 + e.number % 4}_{e.number * 2 + (e.split == 'val') + 32:06d}"
        splits[e.split].append(name)
        edge = borders(e.view.instance)
        files[f"{root}JPEGImages/{name}.jpg"] = jpeg(e.view.image)
        label = np.where(edge, VOID, raw_labels(e.view.label, values)).astype(np.uint8)
        files[f"{root}SegmentationClass/{name}.png"] = png(label, palette)
        files[f"{root}SegmentationObject/{name}.png"] = png(
            np.where(edge, VOID, e.view.instance).astype(np.uint8), palette
        )
        files[f"{root}Annotations/{name}.xml"] = f"<annotation><filename>{name}.jpg</filename></annotation>\n".encode()
    files[f"{root}JPEGImages/2012_004331.jpg"] = jpeg(examples[0].view.image)
    everything = sorted(splits["train"] + splits["val"])
    lists = f"{root}ImageSets/Segmentation/"
    files[lists + "train.txt"] = _lines(sorted(splits["train"]))
    files[lists + "val.txt"] = _lines(sorted(splits["val"])) + b"\n"
    files[lists + "trainval.txt"] = _lines(everything)
    for kind in ("Action", "Layout", "Main"):
        files[f"{root}ImageSets/{kind}/trainval.txt"] = _lines([*everything, "2012_004331"])
    return {"VOCtrainval_11-May-2012.tar": files}


def ade20k(examples: Sequence[Example], values: dict[str, int]) -> dict[str, Files]:
    """ADEChallengeData2016.zip: 0 = other; with the litter of a Mac."""
    root, files = "ADEChallengeData2016/", Files()
    folders = {"train": "training", "val": "validation"}
    scenes = []
    for e in examples:
        name = f"ADE_{e.split}_{e.number + 1:08d}"
        files[f"{root}images/{folders[e.split]}/{name}.jpg"] = jpeg(e.view.image)
        label = unlabelled(e, 5, 0, raw_labels(e.view.label, values))
        files[f"{root}annotations/{folders[e.split]}/{name}.png"] = png(label)
        scenes.append(f"{name} {CLASSES[int(np.bincount(e.view.label.ravel()).argmax())]}")
    rows = [f"{value}\t0.01\t1\t1\t{name}" for name, value in sorted(values.items(), key=lambda item: item[1])]
    files[root + "objectInfo150.txt"] = _lines(["Idx\tRatio\tTrain\tVal\tName", *rows])
    files[root + "sceneCategories.txt"] = _lines(scenes)
    files["__MACOSX/._ADEChallengeData2016"] = files[root + "images/.DS_Store"] = b"\x00\x00\x00\x01Bud1"
    return {"ADEChallengeData2016.zip": files}


def coco(examples: Sequence[Example], values: dict[str, int]) -> dict[str, Files]:
    """train2017.zip, val2017.zip, annotations_trainval2017.zip, stuffthingmaps_trainval2017.zip.

    Some photographs are grey; 255 = unlabelled.
    """
    archives: dict[str, Files] = {f"{split}2017.zip": {} for split in ("train", "val")}
    maps, notes = Files(), {split: _coco_notes(values) for split in ("train", "val")}
    for e in examples:
        image_id = 139 + 7 * e.number + 2_000_000 * (e.split == "train")
        folder, name = f"{e.split}2017", f"{image_id:012d}"
        archives[folder + ".zip"][f"{folder}/{name}.jpg"] = jpeg(e.view.image, grey=e.number % 17 == 3)
        maps[f"{folder}/{name}.png"] = png(unlabelled(e, 4, VOID, raw_labels(e.view.label, values, VOID)))
        _annotate_coco(notes[e.split], e, image_id, folder, values)
    annotations = Files()
    for split, (instances, captions) in notes.items():
        annotations[f"annotations/instances_{split}2017.json"] = to_json(instances)
        annotations[f"annotations/captions_{split}2017.json"] = to_json(captions)
    archives["annotations_trainval2017.zip"] = annotations
    archives["stuffthingmaps_trainval2017.zip"] = maps
    return archives


def _coco_notes(values: dict[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    head: dict[str, Any] = {"info": {}, "licenses": [], "images": [], "annotations": []}
    things = [(name, value) for name, value in values.items() if name not in STUFF]
    categories = [{"id": value + 1, "name": name, "supercategory": "thing"} for name, value in things]
    return {**head, "images": [], "annotations": [], "categories": categories}, head


def _annotate_coco(
    notes: tuple[dict[str, Any], dict[str, Any]], e: Example, image_id: int, folder: str, values: dict[str, int]
) -> None:
    instances, captions = notes
    rows, columns = e.view.label.shape
    image = {
        "id": image_id, "file_name": f"{image_id:012d}.jpg", "height": rows, "width": columns, "license": 1,
        "coco_url": f"http://images.cocodataset.org/{folder}/{image_id:012d}.jpg",
    }  # fmt: skip
    instances["images"].append(image)
    captions["images"].append(image)
    for text in e.captions:
        captions["annotations"].append({"id": len(captions["annotations"]), "image_id": image_id, "caption": text})
    for number, index in e.objects():
        mask = e.view.instance == number
        crowd = len(instances["annotations"]) == 1
        counts = {"size": [rows, columns], "counts": run_lengths(mask)}
        instances["annotations"].append({
            "id": len(instances["annotations"]) + 1, "image_id": image_id, "category_id": values[CLASSES[index]] + 1,
            "bbox": _bounding_box(mask), "area": int(mask.sum()), "iscrowd": int(crowd),
            "segmentation": counts if crowd else [_outline(mask)],
        })  # fmt: skip


def _bounding_box(mask: NDArray[np.bool_]) -> list[int]:
    y, x = np.nonzero(mask)
    return [int(x.min()), int(y.min()), int(x.max() - x.min() + 1), int(y.max() - y.min() + 1)]


def _outline(mask: NDArray[np.bool_]) -> list[int]:
    """A polygon x, y, x, y, ... through the leftmost and rightmost pixel of every row (coarse, like a human's)."""
    rows = np.flatnonzero(mask.any(axis=1))
    left = [(int(mask[y].argmax()), int(y)) for y in rows]
    right = [(int(mask.shape[1] - mask[y, ::-1].argmax()), int(y)) for y in rows[::-1]]
    low = int(rows[-1]) + 1
    return [n for point in [*left, (left[-1][0], low), (right[0][0], low), *right] for n in point]


def context(examples: Sequence[Example], values: dict[str, int]) -> dict[str, Files]:
    """VOCtrainval_03-May-2010.tar and trainval_merged.json: run-length masks; later annotations cover earlier ones."""
    root, files = "VOCdevkit/VOC2010/", Files()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for e in examples:
        name = f"2008_{e.number * 2 + (e.split == 'val') + 2:06d}"
        files[f"{root}JPEGImages/{name}.jpg"] = jpeg(e.view.image)
        rows, columns = e.view.label.shape
        image_id = int(name.replace("_", ""))
        size = {"height": rows, "width": columns, "phase": e.split}
        images.append({"image_id": image_id, "file_name": f"{name}.jpg", **size})
        for index, mask in _context_masks(e):
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": values[CLASSES[index]],
                "segmentation": compressed_rle(mask), "area": int(mask.sum()), "iscrowd": 0, "parts": [],
            })  # fmt: skip
    files[f"{root}JPEGImages/2010_003000.jpg"] = jpeg(examples[0].view.image)
    files[f"{root}ImageSets/Main/trainval.txt"] = _lines(sorted(image["file_name"][:-4] for image in images))
    categories = [
        {"category_id": value, "name": name, "supercategory": "world", "onlysemantic": int(name in STUFF), "parts": []}
        for name, value in values.items()
    ]
    merged = {
        "images": images, "annos_segmentation": annotations, "annos_occlusion": [], "annos_boundary": [], "parts": [],
        "categories": categories, "info": {},
    }  # fmt: skip
    return {"VOCtrainval_03-May-2010.tar": files, "trainval_merged.json": {"": to_json(merged)}}


def _context_masks(e: Example) -> list[tuple[int, NDArray[np.bool_]]]:
    """Stuff first (the first runs on beneath the things), then things; every seventh image has stuff left out."""
    label, things = e.view.label, e.view.instance > 0
    stuff = [int(i) for i in np.unique(label[~things])] if not things.all() else []
    masks = [(i, (label == i) | (things & (k == 0))) for k, i in enumerate(stuff)]
    kept = masks[1:] if e.number % 7 == 0 and len(masks) > 1 else masks
    return kept + [(index, e.view.instance == number) for number, index in e.objects()]


CITIES = {"train": "aachen", "val": "frankfurt", "test": "berlin"}
INSTANCE_IDS = range(24, 34)
CITY_COLOURS = {
    7: (128, 64, 128), 11: (70, 70, 70), 12: (102, 102, 156), 21: (107, 142, 35), 22: (152, 251, 152),
    23: (70, 130, 180), 24: (220, 20, 60), 26: (0, 0, 142), 28: (0, 60, 100), 33: (119, 11, 32),
}  # fmt: skip


def cityscapes(examples: Sequence[Example], values: dict[str, int]) -> dict[str, Files]:
    """gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip; the test city's labels are all void."""
    truth, photos = Files(), Files()
    for e in [*examples, Example("test", 0, examples[0].view, ())]:
        city = CITIES[e.split]
        stem = f"{e.split}/{city}/{city}_{e.number // 20:06d}_{294 + 25 * (e.number % 20):06d}_"
        label = raw_labels(e.view.label, values) * np.uint8(e.split != "test")
        numbered = np.isin(label, INSTANCE_IDS)
        instance = np.where(numbered, label.astype(np.uint16) * 1000 + e.view.instance, label).astype(np.uint16)
        colours = np.zeros((256, 3), np.uint8)
        for value, colour in CITY_COLOURS.items():
            colours[value] = colour
        photos[f"leftImg8bit/{stem}leftImg8bit.png"] = png(e.view.image)
        truth[f"gtFine/{stem}gtFine_labelIds.png"] = png(label)
        truth[f"gtFine/{stem}gtFine_instanceIds.png"] = png(instance)
        truth[f"gtFine/{stem}gtFine_color.png"] = png(colours[label])
        rows, columns = label.shape
        truth[f"gtFine/{stem}gtFine_polygons.json"] = to_json({"imgHeight": rows, "imgWidth": columns, "objects": []})
    for files in (truth, photos):
        files["README"] = b"Drawn by a program in the layout of Cityscapes; no image of Cityscapes is in here.\n"
        files["license.txt"] = b"Free of rights.\n"
    return {"gtFine_trainvaltest.zip": truth, "leftImg8bit_trainvaltest.zip": photos}


LAYOUTS: dict[str, Callable[[Sequence[Example], dict[str, int]], dict[str, Files]]] = {
    "voc2012": voc2012,
    "ade20k": ade20k,
    "coco": coco,
    "context": context,
    "cityscapes": cityscapes,
}
