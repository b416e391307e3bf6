"""What the stage ``label`` keeps beside the counts: every segment as a line, and pictures of the first images."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ovss.data.label_maps import IGNORED, ignored_index
from ovss.evaluation.named_segments import Named
from ovss.evaluation.preprocess import resize_nearest

EXAMPLES, WORDS, LINES_FILE = "examples", "words", "segments.jsonl.gz"


def write_lines(named: Named, class_names: Mapping[int, str], out: Path) -> None:
    """Write segments.jsonl.gz: every segment, image by image; equal segments give equal bytes (no time, no name)."""
    with (out / LINES_FILE).open("wb") as stream:
        packed = gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0)
        with packed, io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text:
            for segments in named.found.of_image:
                for segment in segments:
                    text.write(_json(named.record(segment, class_names)) + "\n")


def save_words(image: str, clusters: npt.NDArray[np.uint8], records: Sequence[Mapping[str, object]], out: Path) -> None:
    """Write words/<id>.png (cluster of every pixel, mode L) and words/<id>.json (its segments)."""
    path = out / WORDS / f"{image}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(clusters).save(path)
    text = _json({"image": image, "segments": list(records)})
    (out / WORDS / f"{image}.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def save_class_map(
    image: str,
    clusters: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.int64],
    num_classes: int,
    size: tuple[int, ...],
    out: Path,
) -> None:
    """Write examples/<id>.png: class of every pixel at the image's size.

    Mode L with 255 = none; with more than 255 classes mode I;16 with 65535 = none.

    Args:
        image: its id.
        clusters: (h, w).
        classes: what each cluster is (see ``ovss.evaluation.clusters.cluster_classes``).
        num_classes: C.
        size: (H, W) of the image.
        out: folder of the row.
    """
    known = (classes >= 0) & (classes < num_classes)
    none = ignored_index(num_classes)
    values = np.where(known, classes, none).astype(np.uint8 if none == IGNORED else np.uint16)[clusters]
    labels = resize_nearest(torch.from_numpy(values), (size[0], size[1])).numpy()
    path = out / EXAMPLES / f"{image}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
