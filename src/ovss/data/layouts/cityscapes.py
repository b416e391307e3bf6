"""Cityscapes: a zip of images and a zip of fine annotations, a folder per split and city; labelIds 0..33.

The archives hold labelIds, not the 19 training ids. We remap labelIds; the official script draws the polygons anew with
the installed PIL, which moves some boundary pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ovss.data.layouts import Entry, need, pair, unpack

IMAGES = "leftImg8bit_trainvaltest.zip"
LABELS = "gtFine_trainvaltest.zip"


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the images and labelIds maps of ``split`` (train, val, test)."""
    folder = rf"{re.escape(split)}/[a-z-]+/(?P<id>[a-z-]+_\d{{6}}_\d{{6}})"
    images = unpack(need(archives, IMAGES), out, rf"leftImg8bit/{folder}_leftImg8bit\.png")
    labels = unpack(need(archives, LABELS), out, rf"gtFine/{folder}_gtFine_labelIds\.png")
    return pair(images, labels, f"{IMAGES} and {LABELS}")
