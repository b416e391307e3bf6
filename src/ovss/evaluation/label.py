"""Stage ``label``: segments get words, words get classes, pixels are counted (TAG); all rows of one model together.

Sources come one after the other; they share the encoders and the vectors of texts. Within a source, words are read once
for every distinct way to read captions and label maps are read once. Pixels are counted once per (cluster, class in the
label); a row only says what a cluster is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss.data.images import read_index
from ovss.data.labels import lookup_table, read_label
from ovss.errors import UserError
from ovss.evaluation.clusters import Ints, cluster_classes, count_cells, count_clusters
from ovss.evaluation.confusion import ConfusionCounts
from ovss.evaluation.label_files import save_class_map, save_words, write_lines
from ovss.evaluation.label_row import Row, read_row
from ovss.evaluation.named_segments import Found, Named
from ovss.evaluation.progress import Progress
from ovss.evaluation.segments_file import SegmentsFile
from ovss.evaluation.word_classes import Encoders, name_segments
from ovss.jobs import JobContext


def run(ctx: JobContext) -> None:
    """Label every item of a pass; see the module. A source's rows are finished before the next source is opened.

    Item parameters: ``method``, ``settings`` (of ``Naming``), ``dataset``, ``classes`` (names of each class; the first
    one counts), ``protocol``, ``shard`` [index, count], ``examples``. Item inputs: ``model`` (CLIP, the same for all
    items), ``source`` (label maps), ``segments``, ``neighbours``, ``sentences``. Output of an item: counts.npz,
    images.txt and segments.jsonl.gz (a segment a line), and of the source's first images examples/<id>.png (class
    indices at the image's size, 255 = none), words/<id>.png (clusters) and words/<id>.json (their segments).

    Raises:
        UserError: a row is not usable, or its inputs do not belong together; the message names what.
    """
    (model,) = {item.inputs["model"] for item in ctx.items.values()}
    (shard,) = {tuple(item.params["shard"]) for item in ctx.items.values()}
    sources: dict[Path, list[Row]] = defaultdict(list)
    for name, item in sorted(ctx.items.items()):
        row = read_row(name, item)
        sources[row.source].append(row)
    encoders = Encoders(model, ctx.machine.device)
    for source in sorted(sources):
        label_source(ctx, source, sources.pop(source), shard, encoders)


def label_source(ctx: JobContext, source: Path, rows: Sequence[Row], shard: Sequence[int], encoders: Encoders) -> None:
    """Label a shard of one source for its rows, and finish them.

    Raises:
        UserError: an input is damaged or does not belong to the others.
    """
    index = read_index(source)
    start, stop = (len(index) * part // shard[1] for part in (shard[0], shard[0] + 1))
    read = cache(SegmentsFile.open)
    found = {at: Found.open(*at, read) for at in sorted({row.at for row in rows})}
    for each in found.values():
        _check_images(each, source, [line["id"] for line in index[start:stop]])
    named = name_segments(rows, found, encoders)
    datasets = [ctx.items[row.name].params["dataset"] for row in rows]
    tables = {dataset["name"]: lookup_table(dataset["labels"]) for dataset in datasets}
    progress = Progress(f"label {source.name}, {len(rows)} rows", stop - start)
    for number, line in enumerate(index[start:stop]):
        raw = read_label(source / line["label"])
        label_image(number, line["id"], {view: table[raw] for view, table in tables.items()}, rows, named,
                    first=start)  # fmt: skip
        progress(number + 1)
    for row in rows:
        ConfusionCounts.collect(row.counts, row.num_classes).save(row.out)
        write_lines(named[row.name], row.class_names, row.out)
        ctx.finish(row.name, _facts(row, named[row.name]))


def _check_images(found: Found, source: Path, ids: Sequence[str]) -> None:
    if found.segments.images != tuple(ids):
        raise UserError(
            f"{found.directory}: its {len(found.segments.images)} images are not the {len(ids)} of {source}; "
            "make the segments of these images again"
        )


def label_image(
    number: int,
    image: str,
    labels: Mapping[str, npt.NDArray[Any]],
    rows: Sequence[Row],
    named: Mapping[str, Named],
    first: int,
) -> None:
    """Count one image for every row, and keep pictures of it if it is among the first of the source.

    Args:
        number: of the image within the shard.
        image: its id.
        labels: class indices (H, W) by view.
        rows: of the source.
        named: what each says of the segments.
        first: number of the shard's first image within the source.
    """
    maps: dict[Path, npt.NDArray[np.uint8]] = {}
    cells: dict[tuple[Path, str], tuple[Ints, Ints, Ints]] = {}
    for row in rows:
        at = row.at[0]
        if at not in maps:
            maps[at] = named[row.name].found.segments.map(image)
        if (at, row.view) not in cells:
            cells[at, row.view] = count_cells(maps[at], labels[row.view])
        segments = named[row.name].found.of_image[number]
        classes = cluster_classes(
            named[row.name].found.segments.cluster.numpy()[segments], named[row.name].class_index[segments],
            row.num_classes, row.naming.below_threshold,
        )  # fmt: skip
        row.counts.append((image, count_clusters(cells[at, row.view], classes, row.num_classes)))
        if first + number < row.examples:
            records = [named[row.name].record(segment, row.class_names) for segment in segments]
            save_words(image, maps[at], records, row.out)
            save_class_map(image, maps[at], classes, row.num_classes, labels[row.view].shape, row.out)


def _facts(row: Row, named: Named) -> dict[str, int]:
    return {
        "images": len(row.counts),
        "segments": len(named.found),
        "words": len(np.unique(named.chosen.word)),
        "below_threshold": int((named.class_index < 0).sum()),
    }
