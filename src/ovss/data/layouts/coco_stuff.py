"""COCO-Stuff: the split's image zip and the zip of label maps (things 0..90, stuff 91..181, 255 unlabelled)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ovss.data.layouts import Entry, need, pair, unpack

MAPS = "stuffthingmaps_trainval2017.zip"


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the images and label maps of ``split`` (train2017, val2017).

    Both zips have the same folders and differ only in the suffix, so they unpack into one tree.
    """
    folder = re.escape(split)
    images = unpack(need(archives, f"{split}.zip"), out, rf"{folder}/(?P<id>\d{{12}})\.jpg")
    labels = unpack(need(archives, MAPS), out, rf"{folder}/(?P<id>\d{{12}})\.png")
    return pair(images, labels, f"{split}.zip and {MAPS}")
