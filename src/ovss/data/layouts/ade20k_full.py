"""ADE20K with all its labels (2021_17_01): an image and a coloured label map side by side, a folder per scene.

A pixel's class number is (R // 10) * 256 + G, 0 for none; blue tells things of a class apart. The list of all files,
``index_ade20k.pkl``, is a pickle and is not opened: the folders say what it says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ovss.data.images import read_colours
from ovss.data.layouts import Entry, need, pair, unpack

ARCHIVE = "ADE20K_2021_17_01.zip"
ROOT = "ADE20K_2021_17_01/images/ADE"


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the images of ``split`` (training, validation) and convert their label maps."""
    archive = need(archives, ARCHIVE)
    folder = rf"{ROOT}/{re.escape(split)}/(?:[^/]+/)*"
    images = unpack(archive, out, rf"{folder}(?P<id>ADE_[A-Za-z]+_\d+)\.jpg")
    coloured = unpack(archive, out, rf"{folder}(?P<id>ADE_[A-Za-z]+_\d+)_seg\.png")
    for path in coloured.values():
        Image.fromarray(class_numbers(read_colours(path))).save(path)
    return pair(images, coloured, ARCHIVE)


def class_numbers(colours: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) uint16, (R // 10) * 256 + G."""
    red, green = colours[..., 0].astype(np.uint16), colours[..., 1].astype(np.uint16)
    return red // 10 * 256 + green
