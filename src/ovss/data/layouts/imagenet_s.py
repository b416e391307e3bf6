"""ImageNet-S: a zip of coloured label maps for 50, 300 or 919 classes; images are ImageNet's validation images.

A pixel's value is R + 256 * G: 0 other, 1..N classes, 1000 not scored. The zip's name ends in 32 digits that look like
its md5; where they are not, a warning says so and nothing else happens (that they are is not confirmed).
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ovss.data.images import read_colours
from ovss.data.layouts import Entry, need, pair, unpack
from ovss.errors import UserError

IMAGES = "ILSVRC2012_img_val.tar"
_NAME = re.compile(r"(ImageNetS\d+)-([0-9a-f]{32})\.zip")


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Unpack the validation images of ``split`` (ImageNetS50, ImageNetS300, ImageNetS919) and convert their label maps.

    Raises:
        UserError: also where there is no zip for this split.
    """
    found = [name for name in archives if (match := _NAME.fullmatch(name)) and match[1] == split]
    if len(found) != 1:
        raise UserError(f"{split}-<md5>.zip: this file is needed but there are only: {', '.join(sorted(archives))}")
    archive = archives[found[0]]
    warn_of_digits(archive)
    item = r"(?P<id>ILSVRC2012_val_\d{8})"
    coloured = unpack(archive, out, rf"{re.escape(split)}/validation-segmentation/n\d{{8}}/{item}\.png")
    for path in coloured.values():
        Image.fromarray(values(read_colours(path))).save(path)
    images = unpack(need(archives, IMAGES), out, rf"(?:[^/]+/)*{item}\.(?i:jpe?g)", set(coloured))
    return pair(images, coloured, f"{found[0]} and {IMAGES}")


def warn_of_digits(archive: Path) -> None:
    """Say on stderr if the digits in the zip's name are not its md5."""
    match = _NAME.fullmatch(archive.name)
    with archive.open("rb") as stream:
        measured = hashlib.file_digest(stream, "md5").hexdigest()
    if match and match[2] != measured:
        print(f"{archive.name}: its md5 is {measured}, not the digits in its name; they may mean something else",
              file=sys.stderr)  # fmt: skip


def values(colours: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) uint16, R + 256 * G."""
    return colours[..., 0].astype(np.uint16) + 256 * colours[..., 1].astype(np.uint16)
