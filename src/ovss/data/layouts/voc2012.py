"""PASCAL VOC 2012: one tar; a split list; palette label maps (0 background, 1..20 classes, 255 border)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ovss.data.archives import read_member
from ovss.data.layouts import Entry, ids_in, need, pair, unpack

ARCHIVE = "VOCtrainval_11-May-2012.tar"
ROOT = "VOCdevkit/VOC2012"


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the images and label maps of ``split`` (train, val, trainval)."""
    archive = need(archives, ARCHIVE)
    ids = listed(archive, split)
    images = unpack(archive, out, rf"{ROOT}/JPEGImages/(?P<id>[^/]+)\.jpg", set(ids))
    labels = unpack(archive, out, rf"{ROOT}/SegmentationClass/(?P<id>[^/]+)\.png", set(ids))
    return pair(images, labels, ARCHIVE, ids)


def listed(archive: Path, split: str) -> list[str]:
    """Ids of a split.

    Raises:
        UserError: there is no list of it, or it is damaged.
    """
    listing = f"{ROOT}/ImageSets/Segmentation/{split}.txt"
    return ids_in(read_member(archive, listing), f"{archive}: {listing}")
