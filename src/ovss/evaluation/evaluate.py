"""Stage ``evaluate``: all rows of one image source and one model in one pass over the images.

Every image is opened once. Rows are grouped by geometry; each geometry cuts the image into windows once, and what rows
of a group ask of the network is computed once. One image is the unit of computation (see ``ovss.models.features``), so
neither batch size nor number of workers can change a result.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ovss import methods
from ovss.data.images import Images, Sample, read_index
from ovss.data.labels import lookup_table
from ovss.errors import UserError
from ovss.evaluation.batch import Batch, Prediction, make_view
from ovss.evaluation.confusion import ConfusionCounts, count_pixels
from ovss.evaluation.preprocess import resize_nearest
from ovss.evaluation.progress import Progress
from ovss.evaluation.protocol import Geometry, Protocol
from ovss.jobs import Item, JobContext
from ovss.models.clip import Clip, load_clip
from ovss.models.features import Features
from ovss.models.text import Vocabulary, load_vocabulary

EXAMPLES = "examples"


@dataclass
class Row:
    """One row of the pass and what it has counted so far."""

    name: str
    out: Path
    method: ModuleType
    settings: Any
    protocol: Protocol
    vocabulary: Vocabulary
    view: str
    num_classes: int
    examples: int
    counts: list[tuple[str, npt.NDArray[np.int64]]] = field(default_factory=list)
    seconds: float = 0.0


def run(ctx: JobContext) -> None:
    """Evaluate every item of a pass; see the module.

    Item parameters: ``method``, ``settings``, ``dataset``, ``protocol``, ``shard`` [index, count], ``examples``. Item
    inputs: ``model``, ``source`` (the same for all items) and ``text``. Output of an item: counts.npz, images.txt and
    examples/<id>.png (mode L, class indices) of the source's first images.

    Raises:
        UserError: a row, its vocabulary or an image is not usable; the message names it.
    """
    (model,) = {item.inputs["model"] for item in ctx.items.values()}
    (source,) = {item.inputs["source"] for item in ctx.items.values()}
    (shard,) = {tuple(item.params["shard"]) for item in ctx.items.values()}
    clip = load_clip(model, ctx.machine.device)
    rows = [read_row(name, item, ctx.machine.device) for name, item in sorted(ctx.items.items())]
    start, stop = shard_range(count_images(source), shard)
    progress = Progress(f"evaluate {source.name}, {len(rows)} rows", stop - start)
    groups = by_geometry(rows)
    images = Images(source, label_tables(ctx.items), start, stop, ctx.machine.workers)
    with torch.inference_mode():
        for done, sample in enumerate(images):
            for geometry, group in groups.items():
                evaluate_image(sample, geometry, group, clip, keep=start + done)
            progress(done + 1)
    for row in rows:
        ConfusionCounts.collect(row.counts, row.num_classes).save(row.out)
        ctx.finish(row.name, {"images": len(row.counts), "seconds": round(row.seconds, 3)})


def read_row(name: str, item: Item, device: str) -> Row:
    """A row from its parameters and inputs.

    Raises:
        UserError: unknown method, setting or protocol value, or class names that do not fit the data set.
    """
    params, dataset = item.params, item.params["dataset"]
    method = methods.load(params["method"])
    vocabulary = load_vocabulary(item.inputs["text"], device)
    if vocabulary.num_classes != dataset["num_classes"]:
        raise UserError(
            f"data set {dataset['name']}: the class list '{params['protocol']['names']}' has {vocabulary.num_classes} "
            f"classes, the labels have {dataset['num_classes']}; give it a list with one line per class"
        )
    return Row(
        name=name,
        out=item.out,
        method=method,
        settings=methods.read_settings(method.Settings, params["settings"], params["method"]),
        protocol=Protocol.read(params["protocol"]),
        vocabulary=vocabulary,
        view=dataset["name"],
        num_classes=dataset["num_classes"],
        examples=params.get("examples", 0),
    )


def by_geometry(rows: Sequence[Row]) -> dict[Geometry, list[Row]]:
    """Rows that share windows, in the order in which geometries first occur."""
    groups: dict[Geometry, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.protocol.geometry, []).append(row)
    return groups


def label_tables(items: Mapping[str, Item]) -> dict[str, npt.NDArray[np.uint8]]:
    """Lookup table of every data set of the pass, by name."""
    specs = {item.params["dataset"]["name"]: item.params["dataset"]["labels"] for item in items.values()}
    return {name: lookup_table(spec) for name, spec in sorted(specs.items())}


def count_images(source: Path) -> int:
    """Number of images of a prepared source.

    Raises:
        UserError: it lists none.
    """
    count = len(read_index(source))
    if count < 1:
        raise UserError(f"{source / 'index.csv'}: no image is listed; prepare the source again")
    return count


def shard_range(count: int, shard: Sequence[int]) -> tuple[int, int]:
    """Half-open range of images of shard [index, shards]: consecutive, sizes differ by at most one."""
    index, shards = shard
    return count * index // shards, count * (index + 1) // shards


def evaluate_image(sample: Sample, geometry: Geometry, rows: Sequence[Row], clip: Clip, keep: int) -> None:
    """Run every row of a geometry on one image and count its pixels; ``keep``: the image's number in the source."""
    view = make_view(sample.id, sample.image, geometry, clip)
    features = Features(clip, view.windows())
    for row in rows:
        started = time.perf_counter()
        (prediction,) = row.method.segment(Batch((view,), row.protocol), row.vocabulary, [features], row.settings)
        row.seconds += time.perf_counter() - started
        row.counts.append((sample.id, count_prediction(prediction, sample.labels[row.view], row.num_classes)))
        if keep < row.examples:
            save_example(prediction, sample, row.out)


def count_prediction(prediction: Prediction, label: npt.NDArray[np.uint8], num_classes: int) -> npt.NDArray[np.int64]:
    """Confusion counts; a label of another size is brought to the prediction's (nearest neighbour)."""
    size = (prediction.labels.shape[0], prediction.labels.shape[1])
    if label.shape != size:
        label = resize_nearest(torch.from_numpy(label), size).numpy()
    return count_pixels(label, prediction.labels, num_classes)


def save_example(prediction: Prediction, sample: Sample, out: Path) -> None:
    """Write examples/<id>.png: class indices at the image's size, mode L."""
    height, width = sample.image.shape[:2]
    labels = resize_nearest(torch.from_numpy(prediction.labels.astype(np.uint8)), (height, width)).numpy()
    path = out / EXAMPLES / f"{sample.id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
