"""Captions with the words and the masks that rows found for them, beside the true ones (TTD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovss.data.images import read_image
from ovss.data.labels import read_label
from ovss.data.text_images import Text, read_texts
from ovss.errors import UserError
from ovss.evaluation.items import ItemCounts
from ovss.report.gallery import Picture, input_of, jpeg_uri
from ovss.report.inputs import Inputs

SIDE = 176
"""Longest side of a picture in the page, in pixels."""
_TINT = np.array([230.0, 60.0, 40.0])
_DIM = 0.35


@dataclass(frozen=True)
class Chosen:
    """One row's choice: words in the caption's order with whether they were chosen, and right of how many."""

    title: str
    words: list[tuple[str, bool]]
    verdict: str


@dataclass(frozen=True)
class Captioned:
    """A caption: the photo and its masks, its words with whether they are true, and every row's choice."""

    id: str
    words: list[tuple[str, bool]]
    pictures: list[Picture]
    chosen: list[Chosen]

    @property
    def size(self) -> int:
        """Bytes that it takes in the page, roughly."""
        return sum(len(picture.uri) for picture in self.pictures) + 300 * len(self.chosen)


def build(entries: Sequence[Mapping[str, Any]], inputs: Inputs, texts: int, budget: int) -> list[Captioned]:
    """The first captions whose masks rows kept.

    Args:
        entries: ``{"input": "captioned/3", "row": "TCL", "task": "captions" or "tags", "source": "sources/..."}``, an
            output of the stage ``evaluate_texts`` each, in the order to show.
        inputs: the job's inputs.
        texts: most captions.
        budget: bytes that all may take in the page.

    Raises:
        UserError: an input that an entry names is missing or damaged.
    """
    masked = _rows(entries, "captions", inputs)
    worded = [(title, _choices(row)) for title, row in _rows(entries, "tags", inputs)]
    source = next((entry["source"] for entry in entries if entry["task"] == "captions"), None)
    if not masked or source is None:
        return []
    directory = inputs.sources.get(str(source).removeprefix("sources/"))
    if directory is None:
        raise UserError(f"params: no input '{source}' was given to the report; plan the report again")
    kept = [{path.stem for path in (row / "examples").glob("*.png")} for _, row in masked]
    found: list[Captioned] = []
    for text in read_texts(directory):
        if len(found) == texts:
            break
        if any(text.id in have for have in kept):
            one = _captioned(text, directory, masked, worded)
            budget -= one.size
            if budget < 0:
                break
            found.append(one)
    return found


def _rows(entries: Sequence[Mapping[str, Any]], task: str, inputs: Inputs) -> list[tuple[str, Path]]:
    """Titles and directories of a task's rows, each directory once; rows of two tables may have one title."""
    found: dict[Path, str] = {}
    for entry in entries:
        if entry["task"] == task:
            found.setdefault(input_of(entry["input"], inputs), str(entry["row"]))
    return [(title, row) for row, title in found.items()]


def _choices(row: Path) -> dict[str, npt.NDArray[np.bool_]]:
    """Chosen words of every caption of a row, by id."""
    items = ItemCounts.load(row)
    return dict(zip(items.ids, items.per_item("chosen"), strict=True))


def _captioned(
    text: Text,
    directory: Path,
    masked: Sequence[tuple[str, Path]],
    worded: Sequence[tuple[str, Mapping[str, npt.NDArray[np.bool_]]]],
) -> Captioned:
    photo = _small(Image.fromarray(read_image(directory / text.image)))
    pictures = [Picture("image", jpeg_uri(photo), ""), _overlay("true mask", photo, directory / str(text.mask))]
    pictures += [_overlay(title, photo, row / "examples" / f"{text.id}.png") for title, row in masked]
    words = list(zip(text.words, text.relevant or [False] * len(text.words), strict=True))
    chosen = [_choice(title, text, known[text.id]) for title, known in worded if text.id in known]
    return Captioned(text.id, words, pictures, chosen)


def _choice(title: str, text: Text, chosen: npt.NDArray[np.bool_]) -> Chosen:
    words = list(zip(text.words, map(bool, chosen), strict=True))
    if text.relevant is None:
        return Chosen(title, words, "true words not known")
    true = np.array(text.relevant, dtype=bool)
    right = int((true & chosen).sum())
    return Chosen(title, words, f"{right} of {int(true.sum())} true words, {int((chosen & ~true).sum())} others")


def _small(image: Image.Image) -> Image.Image:
    scale = min(1.0, SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _overlay(title: str, photo: Image.Image, path: Path) -> Picture:
    """The photo with everything outside of a mask darkened and the mask tinted."""
    if not path.is_file():
        return Picture(title, "", "", "this row kept no mask of this caption")
    mask = Image.fromarray(read_label(path)).resize(photo.size, Image.Resampling.NEAREST)
    inside = (np.asarray(mask) > 0)[..., None]
    pixels = np.asarray(photo, dtype=np.float64)
    shown = np.where(inside, 0.7 * pixels + 0.3 * _TINT, _DIM * pixels)
    return Picture(title, jpeg_uri(Image.fromarray(shown.astype(np.uint8))), f"{100 * inside.mean():.0f} % of pixels")
