"""PASCAL Context with all 459 classes: a MATLAB file per image (LabelMap), images of VOC 2010; raw values 1..459.

The archive has no split. The splits are those of the 59 and 60 classes (``phase`` in trainval_merged.json), so that the
same images are scored; CAT-Seg's and MESS's list of images lies elsewhere and may differ by a few.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from ovss.data.layouts import Entry, context, need, pair, unpack
from ovss.data.mat import read_label_map

ARCHIVE = "trainval.tar.gz"


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the images of ``split`` (train, val) and convert their label maps."""
    archive = need(archives, ARCHIVE)
    ids = context.listed(need(archives, context.ANNOTATIONS), split)
    maps = unpack(archive, out, r"(?:\./)?trainval/(?P<id>[^/]+)\.mat", ids)
    labels = {item: path.with_suffix(".png") for item, path in maps.items()}
    for item, path in maps.items():
        Image.fromarray(read_label_map(path, "LabelMap")).save(labels[item])
        path.unlink()
    images = unpack(need(archives, context.ARCHIVE), out, rf"{context.ROOT}/JPEGImages/(?P<id>[^/]+)\.jpg", ids)
    return pair(images, labels, ARCHIVE, ids)
