"""ADE20K scene parsing: one zip; folders images and annotations, each with a folder per split; 0 other, 1..150."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ovss.data.layouts import Entry, need, pair, unpack

ARCHIVE = "ADEChallengeData2016.zip"
ROOT = "ADEChallengeData2016"


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the images and label maps of ``split`` (training, validation)."""
    archive = need(archives, ARCHIVE)
    images = unpack(archive, out, rf"{ROOT}/images/{re.escape(split)}/(?P<id>ADE_\w+)\.jpg")
    labels = unpack(archive, out, rf"{ROOT}/annotations/{re.escape(split)}/(?P<id>ADE_\w+)\.png")
    return pair(images, labels, ARCHIVE)
