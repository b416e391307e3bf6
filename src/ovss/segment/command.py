"""``ovss segment``: pictures of one's own with their segments drawn on them and named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ovss.errors import UserError
from ovss.segment.classes import read_classes
from ovss.segment.outputs import Outputs
from ovss.segment.pictures import Picture, Pixels, check_picture, find_pictures, prepare_folder, read_picture
from ovss.segment.recipe import CAPTIONS, INDEX, MODEL, SEGMENTER, SENTENCES, Asked, Maps, Words
from ovss.segment.results import Results

if TYPE_CHECKING:
    from ovss.segment.maps import Labeller


@dataclass(frozen=True)
class Request:
    """What the command line asks for; None: not given."""

    images: Sequence[Path]
    method: str
    scale: str
    out: Path
    classes: str | None = None
    classes_file: Path | None = None
    dataset: str | None = None
    captions: str | None = None
    clusters: int | None = None


def main(request: Request, root: Path) -> int:
    """The command: a drawing, a label map and a record of each picture, a line about it on standard output.

    Returns:
        0, or 1 where some pictures of several could not be segmented; they are named on standard error.

    Raises:
        UserError: the only picture, an option or an output of the plan is not usable; the message says what to do.
    """
    classes, origin = read_classes(request.classes, request.classes_file)
    pictures = find_pictures(request.images, request.out)
    if len(pictures) == 1:
        check_picture(pictures[0].path)
    recipe, outputs = read_recipe(root, request, Asked(classes, request.dataset, origin))
    if isinstance(recipe, Words):
        return _segment_words(recipe, outputs, pictures, request)
    return _segment_maps(recipe, outputs, pictures, request)


def read_recipe(root: Path, request: Request, asked: Asked) -> tuple[Words | Maps, Outputs]:
    """The recipe of what is asked for, and the outputs that it takes them from.

    Raises:
        UserError: no such method, or the scale cannot run it.
    """
    from ovss.plan.project import Project
    from ovss.plan.segment import find_row, finds_words, own_class_names, own_maps, own_words

    project = Project.load(root)
    outputs = Outputs.of(project, request.scale)
    row = find_row(project, request.method)
    if finds_words(project, row):
        if asked.classes is None and asked.dataset is not None:
            names = own_class_names(project, request.scale, row, asked.dataset)
        else:
            names = [names[0] for names in asked.classes or ()]
        return own_words(project, request.scale, row, request.captions, names), outputs
    for option, value in (("--captions", request.captions), ("--clusters", request.clusters)):
        if value is not None:
            raise UserError(f"{option}: {row} takes classes, not words of captions; leave it out, or --method tag")
    return own_maps(project, request.scale, row, asked, outputs.provide), outputs


def _segment_maps(recipe: Maps, outputs: Outputs, pictures: Sequence[Picture], request: Request) -> int:
    """A row that labels pixels, picture by picture."""
    from ovss.runner import machine
    from ovss.segment.legend import entries
    from ovss.segment.maps import Labeller, refuse_ground_truth

    refuse_ground_truth(recipe)
    for note in recipe.notes:
        print(f"ovss segment: {note}", file=sys.stderr)
    at = outputs.provide(recipe.jobs)
    labeller = Labeller.load(recipe, at, machine().device)
    prepare_folder(request.out)
    facts, results = _map_facts(recipe, labeller), Results(pictures)
    for picture in results.each():
        try:
            image = read_picture(picture.path)
            view = labeller.view(str(picture.path), image)
        except UserError as error:
            results.fail(error)
            continue
        labels = labeller.labels(view)
        results.write(picture, image, labels, entries(labels, recipe.classes, recipe.background), facts)
    return results.end()


def _map_facts(recipe: Maps, labeller: Labeller) -> dict[str, Any]:
    protocol = asdict(labeller.row.protocol)
    rules = ("prob_threshold", "area_threshold", "background_threshold")
    background = {"class": 0, "words": list(recipe.classes[0]), **{name: protocol[name] for name in rules}}
    return {**_common(recipe), **recipe.facts, "settings": asdict(labeller.row.settings), "protocol": protocol,
            "background": background if recipe.background else None}  # fmt: skip


def _common(recipe: Maps | Words) -> dict[str, Any]:
    """What the record of every row says."""
    row, jobs = recipe.row, recipe.jobs
    return {
        "method": row.name or row.method,
        "row": str(row),
        "paper": row.paper_title,
        "scale": recipe.scale,
        "model": {"name": jobs[MODEL].name, "output": jobs[MODEL].directory},
        "outputs": {name: job.directory for name, job in jobs.items() if name != MODEL},
    }


def _segment_words(recipe: Words, outputs: Outputs, pictures: Sequence[Picture], request: Request) -> int:
    """A row that finds words in captions: all pictures are segmented, then all segments searched in one pass."""
    from ovss.runner import machine
    from ovss.segment.tag import Tag

    needed = (MODEL, SEGMENTER, CAPTIONS, *((SENTENCES,) if recipe.classes else ()))
    at = outputs.provide({name: recipe.jobs[name] for name in needed})
    if INDEX in recipe.jobs and outputs.there(recipe.jobs[INDEX]):
        at[INDEX] = outputs.root / recipe.jobs[INDEX].directory
    tag = Tag.load(recipe, at, request.clusters, machine().device)
    prepare_folder(request.out)
    results = Results(pictures)
    facts = {**_common(recipe), **tag.facts, "protocol": dict(recipe.protocol)}
    with TemporaryDirectory(prefix="ovss-") as scratch:
        for picture, clusters, segments in tag.segment(results, recipe.classes, Path(scratch)):
            _finish(results, picture, clusters, {**facts, "segments": segments})
    return results.end()


def _finish(results: Results, picture: Picture, clusters: Pixels, facts: dict[str, Any]) -> None:
    """Number the words of one picture, the largest first, and write its files."""
    from ovss.report.wordmap import nearest, word_map
    from ovss.segment.legend import entries

    image = read_picture(picture.path)
    names, words = word_map(clusters, {segment["cluster"]: segment["word"] for segment in facts["segments"]})
    coarse = words.astype(np.uint8)  # none (-1) becomes 255
    labels = nearest(coarse, (image.shape[0], image.shape[1]))
    found = entries(labels, [[name] for name in names], background=False)
    results.write(picture, image, labels, found, facts, drawn_labels=coarse)
