"""SBD (Semantic Boundaries Dataset): images of VOC 2011 with label maps in MATLAB files; 0 background, 1..20 classes.

Splits: ``train`` and ``val`` are its own lists; ``aug`` is both without VOC 2012's train and val; ``train_aug`` is
``aug`` with SBD's labels and VOC 2012's train with VOC's (they alone have a border of 255).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from PIL import Image

from ovss.data.archives import read_member
from ovss.data.layouts import Entry, ids_in, need, pair, unpack, voc2012
from ovss.data.mat import read_label_map
from ovss.errors import UserError

ARCHIVE = "benchmark.tgz"
ROOT = "benchmark_RELEASE/dataset"


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the images of ``split`` (train, val, aug, train_aug) and convert their label maps.

    Raises:
        UserError: also where there is no such split.
    """
    archive = need(archives, ARCHIVE)
    if split in ("train", "val"):
        return _entries(archive, _listed(archive, split), out)
    if split not in ("aug", "train_aug"):
        raise UserError(f"{archive}: there is no split '{split}'; there are train, val, aug and train_aug")
    voc = need(archives, voc2012.ARCHIVE)
    voc_train, voc_val = (voc2012.listed(voc, name) for name in ("train", "val"))
    own = {*_listed(archive, "train"), *_listed(archive, "val")} - {*voc_train, *voc_val}
    found = _entries(archive, own, out / "sbd")
    return found if split == "aug" else [*found, *voc2012.extract(archives, "train", out / "voc")]


def _listed(archive: Path, split: str) -> list[str]:
    listing = f"{ROOT}/{split}.txt"
    return ids_in(read_member(archive, listing), f"{archive}: {listing}")


def _entries(archive: Path, ids: Collection[str], out: Path) -> list[Entry]:
    images = unpack(archive, out, rf"{ROOT}/img/(?P<id>[^/]+)\.jpg", ids)
    maps = unpack(archive, out, rf"{ROOT}/cls/(?P<id>[^/]+)\.mat", ids)
    labels = {item: path.with_suffix(".png") for item, path in maps.items()}
    for item, path in maps.items():
        Image.fromarray(read_label_map(path, "GTcls", "Segmentation")).save(labels[item])
        path.unlink()
    return pair(images, labels, ARCHIVE, ids)
