"""LVIS v1: a zip of annotations per split; images are those of COCO 2017, of train2017 and val2017 mixed.

Which of the two archives has an image is said by its ``coco_url``. Things are painted as ``ovss.data.instances`` says;
raw values are category ids (1..1203). A pixel without a mask is 0 and may be anything, as LVIS does not annotate every
thing in an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ovss.data.instances import paint_file
from ovss.data.layouts import Entry, need, pair, unpack

_URL = re.compile(r"https?://[\w.-]+/(train2017|val2017)/([0-9]{12})\.jpg")


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the images of ``split`` (train, val) and paint their label maps."""
    source = need(archives, f"lvis_v1_{split}.json.zip")
    labels = paint_file(source, f"lvis_v1_{split}.json", listed, out, np.uint16)
    images: dict[str, Path] = {}
    for folder in sorted({photo.folder for photo in labels}):
        ids = {photo.id for photo in labels if photo.folder == folder}
        images |= unpack(need(archives, f"{folder}.zip"), out, rf"{folder}/(?P<id>\d{{12}})\.jpg", ids)
    return pair(images, {photo.id: path for photo, path in labels.items()}, str(source))


def listed(image: Mapping[str, Any]) -> tuple[str, str]:
    """Folder and name of an image's file.

    Raises:
        ValueError: the entry does not say.
    """
    found = _URL.fullmatch(str(image["coco_url"]))
    if not found:
        raise ValueError(f"coco_url {str(image['coco_url'])[:60]!r}")
    return found[1], found[2]
