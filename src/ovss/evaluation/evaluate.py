"""Stage ``evaluate``: all rows of one image source and one model in one pass over the images.

Every image is opened once. Rows are grouped by geometry; each group cuts the image into windows once, and what its rows
ask of the network is computed once. One image is the unit of computation (see ``ovss.models.features``), so
neither batch size nor number of workers can change a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ovss.data.images import Images, Sample, read_index
from ovss.data.labels import ignored_in, lookup_table
from ovss.errors import UserError
from ovss.evaluation.batch import Batch, Prediction, make_view
from ovss.evaluation.confusion import ConfusionCounts, count_pixels
from ovss.evaluation.preprocess import resize_nearest
from ovss.evaluation.progress import Progress
from ovss.evaluation.row import Group, companion_loader, group_rows, model_opener, read_row
from ovss.evaluation.trained_on import trained_on
from ovss.jobs import Item, JobContext
from ovss.models.clip import Clip, load_clip, without_text
from ovss.models.features import Features

EXAMPLES = "examples"


def run(ctx: JobContext) -> None:
    """Evaluate every item of a pass; see the module.

    Item parameters: ``method``, ``settings``, ``dataset``, ``protocol``, ``shard`` [index, count], ``examples``. Item
    inputs: ``model`` and ``source`` (the same for all items), ``text``, optional ``descriptions`` (features of the same
    queries from sentences) and ``companion_<name>`` (directories of other models). Output of an item: counts.npz,
    images.txt and examples/<id>.png (mode L, class indices; I;16 with more than 255 classes) of the source's first
    images.

    Raises:
        UserError: a row, its vocabulary or an image is not usable; the message names it.
    """
    (model,) = {item.inputs["model"] for item in ctx.items.values()}
    (source,) = {item.inputs["source"] for item in ctx.items.values()}
    (shard,) = {tuple(item.params["shard"]) for item in ctx.items.values()}
    clip = without_text(load_clip(model, ctx.machine.device))
    load = companion_loader(ctx.machine.device)
    opener = model_opener(clip)
    rows = [read_row(name, item, clip, load, opener) for name, item in sorted(ctx.items.items())]
    start, stop = shard_range(count_images(source), shard)
    progress = Progress(f"evaluate {source.name}, {len(rows)} rows", stop - start)
    groups = group_rows(rows)
    images = Images(source, label_tables(ctx.items), start, stop, ctx.machine.workers)
    with torch.inference_mode():
        for done, sample in enumerate(images):
            for group in groups:
                evaluate_image(sample, group, clip, keep=start + done)
            progress(done + 1)
    for row in rows:
        ConfusionCounts.collect(row.counts, row.num_classes).save(row.out)
        facts = {"images": len(row.counts), "seconds": round(row.seconds, 3)}
        ctx.finish(row.name, {**facts, **trained_on(model)})


def label_tables(items: Mapping[str, Item]) -> dict[str, npt.NDArray[Any]]:
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


def evaluate_image(sample: Sample, group: Group, clip: Clip, keep: int) -> None:
    """Run every row of a group on one image and count its pixels; ``keep``: the image's number in the source."""
    view = make_view(sample.id, sample.image, group.geometry, clip)
    features = Features(clip, view.windows(), view.colours, group.companions, group.affinities())
    batches = [
        Batch((view,), row.protocol, (sample.labels[row.view],) if row.uses_labels else ()) for row in group.rows
    ]
    for row, batch in zip(group.rows, batches, strict=True):
        if hasattr(row.method, "ahead"):
            with row.clock():
                row.method.ahead(batch, row.vocabulary, [features], row.settings)
    for row, batch in zip(group.rows, batches, strict=True):
        with row.clock():
            prediction = row.predict(batch, features)
        row.counts.append((sample.id, count_prediction(prediction, sample.labels[row.view], row.num_classes)))
        if keep < row.examples:
            save_example(prediction, sample, row.out, sample.labels[row.view].dtype)


def count_prediction(prediction: Prediction, label: npt.NDArray[Any], num_classes: int) -> npt.NDArray[np.int64]:
    """Confusion counts; a label of another size is brought to the prediction's (nearest neighbour)."""
    size = (prediction.labels.shape[0], prediction.labels.shape[1])
    if label.shape != size:
        label = resize_nearest(torch.from_numpy(label), size).numpy()
    return count_pixels(label, prediction.labels, num_classes, ignored_in(label))


def save_example(prediction: Prediction, sample: Sample, out: Path, kind: npt.DTypeLike = np.uint8) -> None:
    """Write examples/<id>.png: class indices at the image's size, mode L, or I;16 where ``kind`` is uint16."""
    height, width = sample.image.shape[:2]
    labels = resize_nearest(torch.from_numpy(prediction.labels.astype(kind)), (height, width)).numpy()
    path = out / EXAMPLES / f"{sample.id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
