"""Pictures of segments with the words found for them, beside the classes and captions behind each word (TAG)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovss.data.images import read_image
from ovss.data.labels import read_label
from ovss.errors import UserError
from ovss.report.gallery import dataset_view, input_of, jpeg_uri
from ovss.report.inputs import Inputs, read_json
from ovss.report.palette import View
from ovss.report.wordmap import RGB, css, draw, word_colours

FOLDER = "words"
SIDE = 320
"""Longest side of a picture, in pixels: letters have to be readable."""
_CAPTIONS, _CANDIDATES = 3, 16
_FIELDS = {"cluster", "pixels", "word", "score", "class", "similarity", "candidates", "captions"}
_SEGMENT_BYTES = 300
"""What a line of the table takes in the page beside its texts, roughly."""


@dataclass(frozen=True)
class Segment:
    """A line of the table: texts as shown, and the colour of the word."""

    colour: str
    word: str
    class_name: str
    similarity: str
    score: str
    share: str
    candidates: list[str]
    captions: list[str]
    left_out: int

    @property
    def size(self) -> int:
        """Bytes that it takes in the page, roughly."""
        return _SEGMENT_BYTES + sum(len(text.encode()) for text in (*self.candidates, *self.captions))


@dataclass(frozen=True)
class Named:
    """What one row found in an image, or why there is nothing."""

    title: str
    uri: str = ""
    segments: tuple[Segment, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Example:
    """One image: the photo, its ground truth with the class names written on it, and every row's segments."""

    image: str
    photo: str
    truth: str
    classes: str
    named: list[Named]

    @property
    def size(self) -> int:
        """Bytes that it takes in the page, roughly."""
        tables = sum(segment.size for row in self.named for segment in row.segments)
        return len(self.photo) + len(self.truth) + sum(len(row.uri) for row in self.named) + tables


@dataclass(frozen=True)
class WordGallery:
    """The examples of one data set."""

    dataset: str
    title: str
    examples: list[Example]
    note: str


@dataclass(frozen=True)
class _Found:
    """A row's cluster map of an image and its segments as words/<id>.json has them, largest first."""

    clusters: npt.NDArray[np.uint8]
    segments: list[dict[str, Any]]

    @property
    def words(self) -> dict[int, str]:
        return {int(segment["cluster"]): str(segment["word"]) for segment in self.segments}


def build(entries: Sequence[Mapping[str, str]], datasets: Mapping[str, Mapping[str, Any]], inputs: Inputs,
          images: int, budget: int) -> list[WordGallery]:  # fmt: skip
    """Galleries by data set; a row that two tables show is shown once.

    Args:
        entries: ``{"input": "words/3", "row": "TAG", "dataset": "tiny_voc20", "source": "sources/tiny_voc"}`` in the
            order to show; the input is an output of stage ``label``, ``row`` is what to call it.
        datasets: by name: title, labels (label map), class_names, background.
        inputs: the job's inputs.
        images: most images per data set.
        budget: bytes that all this may take in the page; every data set gets an equal share of what is left.

    Raises:
        UserError: a data set or an input that an entry names is missing or damaged.
    """
    names = list(dict.fromkeys(entry["dataset"] for entry in entries))
    galleries, left = [], budget
    for number, name in enumerate(names):
        own = [entry for entry in entries if entry["dataset"] == name]
        rows = {input_of(entry["input"], inputs): entry["row"] for entry in reversed(own)}
        rows = dict(reversed(rows.items()))
        gallery = _gallery(dataset_view(name, own[0]["source"], datasets, inputs), rows, images,
                           left // (len(names) - number))  # fmt: skip
        left -= sum(example.size for example in gallery.examples)
        galleries.append(gallery)
    return galleries


def _gallery(view: View, rows: Mapping[Path, str], images: int, budget: int) -> WordGallery:
    kept = {row: {path.stem for path in (row / FOLDER).glob("*.json")} for row in rows}
    found = {name for names in kept.values() for name in names if name in view.index}
    names = sorted(found, key=lambda name: (-sum(name in have for have in kept.values()), name))[:images]
    examples: list[Example] = []
    for name in names:
        example = _example(view, name, rows)
        budget -= example.size
        if budget < 0:
            break
        examples.append(example)
    note = "" if found else "no row kept the words of an image of this data set"
    if len(examples) < len(names):
        note = f"{len(names) - len(examples)} more images left out to keep the page small"
    return WordGallery(view.name, view.title, examples, note)


def _example(view: View, name: str, rows: Mapping[Path, str]) -> Example:
    entry = view.index[name]
    truth = view.table[read_label(view.source / entry["label"])]
    named = {row: read_found(row, name) for row in rows if (row / FOLDER / f"{name}.json").is_file()}
    classes = {i: label.split(",")[0] for i, label in enumerate(view.classes) if i or not view.background}
    shown = [classes[i] for i in np.unique(truth).tolist() if i in classes]
    words = [segment["word"] for found in named.values() for segment in found.segments]
    colours = word_colours([*shown, *words, *classes.values()])
    photo = _photo(view.source / entry["image"])
    return Example(
        image=name,
        photo=jpeg_uri(Image.fromarray(photo)),
        truth=jpeg_uri(Image.fromarray(draw(photo, truth, classes, colours))),
        classes=", ".join(dict.fromkeys(shown)) or "no class",
        named=[_named(title, named.get(row), photo, colours) for row, title in rows.items()],
    )


def _named(title: str, found: _Found | None, photo: npt.NDArray[np.uint8], colours: Mapping[str, RGB]) -> Named:
    if found is None:
        return Named(title, missing="this row kept no words of this image")
    picture = jpeg_uri(Image.fromarray(draw(photo, found.clusters, found.words, colours)))
    pixels = found.clusters.size
    return Named(title, picture, tuple(_segment(one, pixels, colours) for one in found.segments))


def _segment(found: Mapping[str, Any], pixels: int, colours: Mapping[str, RGB]) -> Segment:
    captions = [str(text) for text in found["captions"]]
    return Segment(
        colour=css(colours[found["word"]]),
        word=str(found["word"]),
        class_name=str(found["class"] or "none"),
        similarity=_number(found["similarity"]),
        score=_number(found["score"]),
        share=f"{100 * found['pixels'] / pixels:.1f} %",
        candidates=_first(map(str, found["candidates"]), _CANDIDATES),
        captions=captions[:_CAPTIONS],
        left_out=max(0, len(captions) - _CAPTIONS),
    )


def _first(texts: Iterable[str], most: int) -> list[str]:
    every = list(texts)
    return every if len(every) <= most else [*every[:most], f"and {len(every) - most} more"]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def read_found(row: Path, name: str) -> _Found:
    """The words of one image: words/<id>.json and words/<id>.png of an output of stage ``label``.

    Raises:
        UserError: a file is damaged, or a field is missing.
    """
    path = row / FOLDER / f"{name}.json"
    record = read_json(path)
    segments = record.get("segments") if isinstance(record, dict) else None
    whole = isinstance(segments, list) and all(isinstance(one, dict) and not _FIELDS - one.keys() for one in segments)
    if not isinstance(segments, list) or not whole:
        raise UserError(
            f"{path}: its segments lack one of {', '.join(sorted(_FIELDS))}; delete the folder and rerun its job"
        )
    segments = sorted(segments, key=lambda one: (-one["pixels"], one["cluster"]))
    return _Found(read_label(path.with_suffix(".png")), segments)


def _photo(path: Path) -> npt.NDArray[np.uint8]:
    """The image with its longest side at SIDE: smaller ones are enlarged, so that words fit on them."""
    image = Image.fromarray(read_image(path))
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
