"""The gallery: images, their labels and every method's prediction, small enough to live inside the page."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovss.data.labels import ignored_in, lookup_table, read_label
from ovss.errors import UserError
from ovss.report.inputs import Inputs
from ovss.report.palette import View

SIDE = 176
"""Longest side of a picture in the page, in pixels."""
_WORDS, _PALETTE = 3, 256


@dataclass(frozen=True)
class Picture:
    """One cell of the gallery: a data URI with the words for it, or the reason why there is none."""

    title: str
    uri: str
    words: str
    missing: str = ""


@dataclass(frozen=True)
class Strip:
    """One image with its label and all predictions."""

    image: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Gallery:
    """The strips of one data set and the colours of the classes seen in them."""

    dataset: str
    title: str
    strips: list[Strip]
    legend: list[tuple[str, str]]
    note: str


def build(entries: Sequence[Mapping[str, str]], datasets: Mapping[str, Mapping[str, Any]], inputs: Inputs,
          images: int, budget: int) -> list[Gallery]:  # fmt: skip
    """Galleries by data set.

    Args:
        entries: ``{"input": "gallery/3", "row": "MaskCLIP", "dataset": "tiny_voc21", "source": "sources/tiny_voc"}``,
            in the order to show; ``row`` is what to call the method.
        datasets: by name: title, labels (label map), class_names, background.
        inputs: the job's inputs.
        images: most images per data set.
        budget: bytes that all pictures together may take; later images are left out beyond it.

    Raises:
        UserError: a data set or an input that an entry names is missing.
    """
    galleries, left = [], budget
    for name in dict.fromkeys(entry["dataset"] for entry in entries):
        rows = {entry["row"]: input_of(entry["input"], inputs) for entry in entries if entry["dataset"] == name}
        source = next(entry["source"] for entry in entries if entry["dataset"] == name)
        gallery, used = _gallery(dataset_view(name, source, datasets, inputs), rows, images, left)
        left -= used
        galleries.append(gallery)
    return galleries


def input_of(name: str, inputs: Inputs) -> Path:
    """The directory of a row that the parameters name.

    Raises:
        UserError: the job has no such input.
    """
    row = inputs.rows.get(name)
    if row is None:
        raise UserError(f"params: no input '{name}' was given to the report; plan the report again")
    return row.directory


def dataset_view(name: str, source_name: str, datasets: Mapping[str, Mapping[str, Any]], inputs: Inputs) -> View:
    """A data set as its pictures need it.

    Raises:
        UserError: the job has no such source or data set.
    """
    spec = datasets.get(name)
    source = inputs.sources.get(source_name.removeprefix("sources/"))
    if spec is None or source is None:
        raise UserError(f"params: data set '{name}' has no entry in datasets or no input '{source_name}'; "
                        "plan the report again")  # fmt: skip
    with (source / "index.csv").open(encoding="utf-8", newline="") as file:
        index = {line["id"]: line for line in csv.DictReader(file)}
    return View(name, str(spec.get("title", name)), [str(label) for label in spec["class_names"]],
                bool(spec.get("background")), lookup_table(spec["labels"]), source, index)  # fmt: skip


def _gallery(view: View, rows: Mapping[str, Path], images: int, budget: int) -> tuple[Gallery, int]:
    kept = {row: {path.stem for path in (directory / "examples").glob("*.png")} for row, directory in rows.items()}
    found = {name for names in kept.values() for name in names if name in view.index}
    names = sorted(found, key=lambda name: (-sum(name in have for have in kept.values()), name))[:images]
    strips: list[Strip] = []
    seen: set[int] = set()
    used = 0
    for name in names:
        strip, classes = _strip(view, name, rows)
        size = sum(len(picture.uri) for picture in strip.pictures)
        if used + size > budget:
            break
        strips.append(strip)
        seen |= classes
        used += size
    note = "" if found else "no row kept a prediction of an image of this data set"
    if len(strips) < len(names):
        note = f"{len(names) - len(strips)} more images left out to keep the page small"
    return Gallery(view.name, view.title, strips, _legend(view, seen), note), used


def _legend(view: View, seen: set[int]) -> list[tuple[str, str]]:
    names = {**dict(enumerate(view.classes)), len(view.classes): "no class", view.ignored: "not scored"}
    shown = [i for i in sorted(seen) if i in names]
    return [(f"#{view.colours[i].tobytes().hex()}", names[i].split(",")[0] + "…" * ("," in names[i])) for i in shown]


def _strip(view: View, name: str, rows: Mapping[str, Path]) -> tuple[Strip, set[int]]:
    entry = view.index[name]
    truth = view.table[read_label(view.source / entry["label"])]
    pictures = [Picture("image", _photo(view.source / entry["image"]), f"{entry['width']} × {entry['height']} px"),
                Picture("ground truth", _map(truth, view), _words(truth, view))]  # fmt: skip
    seen = set(np.unique(truth).tolist())
    for row, directory in rows.items():
        path = directory / "examples" / f"{name}.png"
        if not path.is_file():
            pictures.append(Picture(row, "", "", "this row kept no prediction of this image"))
            continue
        prediction = read_label(path)
        seen |= set(np.unique(prediction).tolist())
        words = f"{_agreement(truth, prediction)}{_words(prediction, view)}"
        pictures.append(Picture(row, _map(prediction, view), words))
    return Strip(name, pictures), seen


def _agreement(truth: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> str:
    scored = truth != ignored_in(truth)
    if truth.shape != prediction.shape or not scored.any():
        return ""
    return f"{100 * np.mean(truth[scored] == prediction[scored]):.0f} % of pixels right; "


def _words(labels: npt.NDArray[Any], view: View) -> str:
    """The largest classes and their shares of the scored pixels."""
    values, counts = np.unique(labels[labels < len(view.classes)], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_WORDS]
    total = counts.sum()
    words = ["background" if view.background else view.classes[0], *view.classes[1:]]
    names = [words[values[i]].split(",")[0] for i in order]
    return ", ".join(f"{name} {100 * counts[i] / total:.0f} %" for name, i in zip(names, order, strict=True))


def _size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _photo(path: Path) -> str:
    try:
        with Image.open(path) as image:
            small = image.convert("RGB").resize(_size(*image.size), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: this image cannot be read ({error}); prepare the data set again") from error
    return jpeg_uri(small)


def jpeg_uri(image: Image.Image) -> str:
    """A JPEG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=78, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _map(labels: npt.NDArray[Any], view: View) -> str:
    """A label map as a PNG, with a palette of only the colours it uses where one has room for them."""
    image = Image.fromarray(labels)
    small = np.asarray(image.resize(_size(*image.size), Image.Resampling.NEAREST))
    values, ranks = np.unique(small, return_inverse=True)
    if len(values) > _PALETTE:
        picture = Image.fromarray(view.colours[small])
    else:
        picture = Image.fromarray(ranks.reshape(small.shape).astype(np.uint8))
        picture.putpalette(view.colours[values].reshape(-1).tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
