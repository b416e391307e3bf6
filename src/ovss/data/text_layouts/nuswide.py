"""NUS-WIDE: images with the concepts that they show, of 81.

``NUS-WIDE.zip`` holds ``ConceptsList/Concepts81.txt``, ``ImageList/<Split>Imagelist.txt`` (a backslash between folder
and name) and ``Groundtruth/TrainTestLabels/Labels_<concept>_<Split>.txt`` (a line 0 or 1 per image of the list);
``Flickr.zip`` holds ``Flickr/<folder>/<name>.jpg``. A folder around these trees does no harm. The folders ``*_Tags81``
hold what users wrote, which is no ground truth, and are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath

import numpy as np

from ovss.data.layouts import need, unpack
from ovss.data.text_layouts import Extracted, TextEntry, mostly_there
from ovss.errors import UserError

LABELS, IMAGES = "NUS-WIDE.zip", "Flickr.zip"
NO_CONCEPT, NO_IMAGE = "no concept", "image not there"


def extract(archives: Mapping[str, Path], split: str, out: Path) -> Extracted:
    """Unpack the images of ``split``: train, test, or train_labelled, test_labelled (images with a concept only).

    Which images TTD scored is not known: papers leave out images that are lost or show no concept. An entry has no
    caption; its words are the concepts in the list's order, relevant where the image shows them.

    Raises:
        UserError: lists and labels do not agree, or an unknown split.
    """
    part, _, chosen = split.partition("_")
    if part not in ("train", "test") or chosen not in ("", "labelled"):
        raise UserError(f"NUS-WIDE has the splits train, test, train_labelled and test_labelled, not {split!r}")
    part = part.capitalize()
    archive = need(archives, LABELS)
    concepts = _lines(_single(archive, out, r"ConceptsList/(?P<id>Concepts81)\.txt"))
    names = [_image_name(line) for line in _lines(_single(archive, out, rf"ImageList/(?P<id>{part}Imagelist)\.txt"))]
    shown = _labels(archive, out, part, concepts, len(names))
    images = unpack(need(archives, IMAGES), out, r"(?:.*/)?(?P<id>[\w-]+/[\w.-]+)\.jpg", set(names))
    entries, left_out = [], Counter[str]()
    words, seen = tuple(concepts), dict[tuple[bool, ...], tuple[bool, ...]]()
    for name, marks in zip(names, shown, strict=True):
        row = tuple(marks.tolist())
        row = seen.setdefault(row, row)  # many images show the same concepts; 161,789 of 81 each would take 200 MB
        if chosen and not any(row):
            left_out[NO_CONCEPT] += 1
        elif name not in images:
            left_out[NO_IMAGE] += 1
        else:
            item = name.replace("/", "_")
            entries.append(TextEntry(item, item, images[name], "", words, row))
    mostly_there(archives[IMAGES], f"images of {part}Imagelist.txt", left_out[NO_IMAGE], len(names))
    return Extracted(entries, left_out)


def _single(archive: Path, out: Path, pattern: str) -> Path:
    found = list(unpack(archive, out, rf"(?:.*/)?{pattern}").values())
    if not found:
        raise UserError(
            f"{archive}: there is no {pattern.replace('(?P<id>', '').replace(')', '')}; place it in the zip"
        )
    return found[0]


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{path}: this list is not plain text; fetch the archive again") from None


def _image_name(line: str) -> str:
    path = PureWindowsPath(line)  # splits at both kinds of slash
    return f"{path.parent.name}/{path.stem}"


def _labels(archive: Path, out: Path, part: str, concepts: list[str], images: int) -> np.ndarray:
    """(images, concepts) bool, filled column by column and kept so."""
    files = unpack(archive, out, rf"(?:.*/)?TrainTestLabels/Labels_(?P<id>\w+)_{part}\.txt")
    shown = np.zeros((images, len(concepts)), dtype=bool, order="F")
    for column, concept in enumerate(concepts):
        if concept not in files:
            raise UserError(f"{archive}: there is no TrainTestLabels/Labels_{concept}_{part}.txt; place it in the zip")
        values = _lines(files[concept])
        if len(values) != images or not set(values) <= {"0", "1"}:
            raise UserError(
                f"{files[concept]}: needs a line 0 or 1 for each of the {images} images of {part}Imagelist.txt, "
                f"it has {len(values)} lines; fetch the archive again"
            )
        shown[:, column] = np.array(values) == "1"
    return shown
