"""``ovss segment``: pictures of one's own with their segments drawn on them and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss.segment.pictures import (
    Picture,
    check_picture,
    class_names,
    find_pictures,
    prepare_folder,
    read_picture,
    write_result,
)
from ovss.segment.recipe import CAPTIONS, MODEL, SEGMENTER, SENTENCES, Recipe, read_recipe


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    images: Sequence[Path]
    method: str
    scale: str
    captions: str
    out: Path
    clusters: int | None = None
    classes: str | None = None


def main(request: Request, root: Path) -> int:
    """The command: a drawing and a record of each picture, a line about it on standard output.

    Raises:
        UserError: a picture, an option or an output of the plan is not usable; the message says what to do.
    """
    classes = class_names(request.classes)
    pictures = find_pictures(request.images, request.out)
    for picture in pictures:
        check_picture(picture.path)
    recipe = read_recipe(root, request.method, request.scale, request.captions)
    needed = (MODEL, SEGMENTER, CAPTIONS, *((SENTENCES,) if classes else ()))
    at = recipe.directories(root, needed)
    prepare_folder(request.out)
    segment_pictures(recipe, at, pictures, classes, request.clusters)
    return 0


def segment_pictures(
    recipe: Recipe, at: Mapping[str, Path], pictures: Sequence[Picture], classes: Sequence[str], clusters: int | None
) -> None:
    """Segment pictures with the outputs in some directories and write the results.

    Args:
        recipe: of the method.
        at: output directories by the recipe's names.
        pictures: which ones, and where to.
        classes: names that the words are assigned to, or none.
        clusters: instead of the recipe's number.

    Raises:
        UserError: a picture cannot be read or segmented, or a result cannot be written.
    """
    from ovss.runner import machine
    from ovss.segment.tag import Tag

    tag = Tag.load(recipe, at, clusters, machine().device)
    with TemporaryDirectory(prefix="ovss-") as scratch:
        for picture, clusters_map, segments in tag.segment(pictures, classes, Path(scratch)):
            facts = {"method": recipe.method, "scale": recipe.scale, **tag.facts, "segments": segments}
            _finish(picture, clusters_map, facts)


def _finish(picture: Picture, clusters: npt.NDArray[np.uint8], facts: dict[str, Any]) -> None:
    """Draw one picture, write both files and say so."""
    from ovss.report.wordmap import draw

    image, segments = read_picture(picture.path), facts["segments"]
    size = {"width": image.shape[1], "height": image.shape[0]}
    drawing = draw(image, clusters, {segment["cluster"]: segment["word"] for segment in segments})
    write_result(picture, drawing, {"image": str(picture.path), "size": size, **facts})
    found = ", ".join(dict.fromkeys(segment["word"] for segment in segments))
    print(f"{picture.path} -> {picture.drawing}: {len(segments)} segments: {found}", flush=True)
