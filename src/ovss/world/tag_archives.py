"""Archives of the tiny world whose images come with texts, laid out member by member like the originals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovss.world.captions import Caption, areas
from ovss.world.classes import CLASSES, nouns
from ovss.world.expressions import NAMES
from ovss.world.files import Files, compressed_rle, jpeg, png, to_json, to_pickle
from ovss.world.scenes import View

SPLIT_AUTHORS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
SHOWN = 0.02
"""Share of an image from which on a class counts as shown in the list of concepts."""


def true_words(caption: Caption) -> list[str]:
    """Words of a caption that name what the view shows, in their order."""
    shown = {noun for index in caption.named for noun in nouns(CLASSES[index])}
    return [word for word in caption.text.lower().split() if word in shown]


def tagmask(captioned: Iterable[tuple[View, Caption]], masks: int) -> Files:
    """cc3m_for_evaluation.zip: the first ``masks`` captions that name something also get the mask of what they name."""
    root, files, masked = "cc3m_for_evaluation/", Files(), 0
    for number, (view, caption) in enumerate(captioned):
        item = f"{number:06d}"
        files[f"{root}image/{item}.jpg"] = jpeg(view.image)
        files[f"{root}json_refined/{item}.json"] = to_json({"caption": caption.text, "tags": true_words(caption)})
        if caption.named and masked < masks:
            union = np.isin(view.label, caption.named).astype(np.uint8) * np.uint8(255)
            files[f"{root}mask_using_HQ-SAM/{item}.png"] = png(union)
            masked += 1
    return files


def nuswide(views: Mapping[str, Sequence[View]]) -> dict[str, Files]:
    """NUS-WIDE.zip and Flickr.zip; ``views`` by Train and Test. The last image of a list is lost, as on Flickr."""
    labels, photos = Files(), Files()
    labels["NUS-WIDE/ConceptsList/Concepts81.txt"] = "".join(f"{name}\n" for name in CLASSES).encode()
    for part, shown in views.items():
        names = [f"world\\{k + 1:04d}_{(1 if part == 'Train' else 2) * 10_000_000 + k}" for k in range(len(shown))]
        labels[f"NUS-WIDE/ImageList/{part}Imagelist.txt"] = "".join(f"{name}.jpg\r\n" for name in names).encode()
        table = np.array([areas(view.label) >= SHOWN for view in shown])
        for column, concept in enumerate(CLASSES):
            lines = "".join(f"{int(value)}\n" for value in table[:, column])
            labels[f"NUS-WIDE/Groundtruth/TrainTestLabels/Labels_{concept}_{part}.txt"] = lines.encode()
        for name, view in list(zip(names, shown, strict=True))[: max(1, len(names) - 1)]:
            photos[f"Flickr/{name.replace(chr(92), '/')}.jpg"] = jpeg(view.image)
    return {"NUS-WIDE.zip": labels, "Flickr.zip": photos}


@dataclass
class Referring:
    """train2014.zip, and per data set one zip of its objects and references; filled object by object."""

    photos: Files = field(default_factory=Files)
    images: list[dict[str, Any]] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)
    refs: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in NAMES})

    def add_image(self, view: View) -> None:
        """Add an image; the objects that follow lie on it."""
        image_id = 9 + 16 * len(self.images)
        name = f"COCO_train2014_{image_id:012d}.jpg"
        rows, columns = view.label.shape
        self.photos[f"train2014/{name}"] = jpeg(view.image)
        self.images.append({"id": image_id, "file_name": name, "height": rows, "width": columns})

    def add_object(self, mask: NDArray[np.bool_], index: int, split: str, texts: dict[str, list[str]]) -> None:
        """Add an object of class ``index`` on the last image, with its expressions by data set."""
        image_id, ann_id = self.images[-1]["id"], 1000 + len(self.objects)
        self.objects.append({
            "id": ann_id, "image_id": image_id, "category_id": index + 1, "iscrowd": 0, "area": int(mask.sum()),
            "segmentation": compressed_rle(mask),
        })  # fmt: skip
        for name, sentences in texts.items():
            refs = self.refs[name]
            first = sum(len(ref["sentences"]) for ref in refs)
            listed = [{"sent_id": first + k, "sent": text} for k, text in enumerate(sentences)]
            refs.append({
                "ref_id": len(refs), "ann_id": ann_id, "image_id": image_id, "category_id": index + 1, "split": split,
                "sentences": listed,
            })  # fmt: skip

    def archives(self) -> dict[str, Files]:
        """File name -> members; the references are pickled, as the originals are."""
        categories = [{"id": k + 1, "name": name, "supercategory": "world"} for k, name in enumerate(CLASSES)]
        instances = {"info": {}, "images": self.images, "annotations": self.objects, "categories": categories}
        found: dict[str, Files] = {"train2014.zip": self.photos}
        for name, refs in self.refs.items():
            found[f"{name}.zip"] = {
                f"{name}/instances.json": to_json(instances),
                f"{name}/refs({SPLIT_AUTHORS[name]}).p": to_pickle(refs),
            }
        return found


def shards(stem: str, pairs: Sequence[tuple[bytes, str]], count: int) -> dict[str, Files]:
    """``count`` shards of (JPEG, caption) as img2dataset writes them: <stem>_%05d.tar with .jpg, .txt and .json."""
    found: dict[str, Files] = {}
    for shard in range(count):
        files = found[f"{stem}_{shard:05d}.tar"] = Files()
        for k, (image, caption) in enumerate(pairs[shard * len(pairs) // count : (shard + 1) * len(pairs) // count]):
            key = f"{shard:05d}{k:04d}"
            files[f"{key}.jpg"] = image
            files[f"{key}.txt"] = caption.encode()
            files[f"{key}.json"] = to_json(
                {"caption": caption, "url": f"http://world.invalid/{stem}/{key}.jpg", "key": key, "status": "success",
                 "error_message": None, "exif": "{}"}
            )  # fmt: skip
    return found
