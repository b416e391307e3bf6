"""COCO 2017's things as label maps: the split's image zip and ``instances_<split>.json``.

Things are painted as ``ovss.data.instances`` says; raw values are category ids (1..90, some never used), 0 elsewhere.
Images without a thing belong to the split, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ovss.data.instances import paint_file
from ovss.data.layouts import Entry, need, pair, unpack

ANNOTATIONS = "annotations_trainval2017.zip"
_NAME = re.compile(r"([0-9]{12})\.jpg")


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the images of ``split`` (train2017, val2017) and paint their label maps."""
    source = need(archives, ANNOTATIONS)
    labels = paint_file(source, f"annotations/instances_{split}.json", partial(listed, split=split), out, np.uint8)
    ids = {photo.id for photo in labels}
    images = unpack(need(archives, f"{split}.zip"), out, rf"{re.escape(split)}/(?P<id>\d{{12}})\.jpg", ids)
    return pair(images, {photo.id: path for photo, path in labels.items()}, str(source))


def listed(image: Mapping[str, Any], split: str) -> tuple[str, str]:
    """Folder and name of an image's file.

    Raises:
        ValueError: it has another kind of name.
    """
    found = _NAME.fullmatch(str(image["file_name"]))
    if not found:
        raise ValueError(f"file_name {str(image['file_name'])[:60]!r}")
    return split, found[1]
