"""A data set of one's own: a folder of images and a folder of label PNGs, a label named as its image."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from ovss.data.layouts import Entry, need, pair
from ovss.errors import UserError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png",)


def extract(archives: Mapping[str, Path], split: str, out: Path) -> list[Entry]:
    """Copy the images (what is returned may be moved) and take the labels where they are; there is one split."""
    folders = need(archives, "images"), need(archives, "labels")
    found = pair(files_in(folders[0], IMAGE_SUFFIXES), files_in(folders[1], LABEL_SUFFIXES), split)
    return [Entry(item, Path(shutil.copyfile(image, out / image.name)), label) for item, image, label in found]


def files_in(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Files of a folder with one of the suffixes, by name without suffix; hidden and other files are left out.

    Raises:
        UserError: there is no such folder, no such file in it, two of one name, or a folder in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; make it and place the files in it")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            raise UserError(f"{path}: a folder in the folder; place all files side by side in {folder}")
        if path.suffix.lower() in suffixes:
            if path.stem in found:
                raise UserError(f"{path}: {found[path.stem].name} has the same name; rename one (and its label)")
            found[path.stem] = path
    if not found:
        raise UserError(f"{folder}: no file in this folder ends in {', '.join(suffixes)}; place the files in it")
    return found
