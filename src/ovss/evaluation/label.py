"""Stage ``label``: segments get words, words get classes, pixels are counted (TAG); all rows of one source together.

Words are read once for every distinct way to read captions, encoded once, and looked up in each class list once. Label
maps are read once. Pixels are counted once per (cluster, class in the label); a row only says what a cluster is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ovss import methods
from ovss.data.images import read_index
from ovss.data.labels import lookup_table, read_label
from ovss.errors import UserError
from ovss.evaluation.clusters import Ints, cluster_classes, count_cells, count_clusters
from ovss.evaluation.confusion import ConfusionCounts
from ovss.evaluation.label_files import save_class_map, save_words, write_lines
from ovss.evaluation.named_segments import Candidates, Chosen, Found, Named, choose_words, read_candidates
from ovss.evaluation.progress import Progress
from ovss.evaluation.protocol import Protocol
from ovss.evaluation.segments_file import SegmentsFile
from ovss.jobs import Item, JobContext
from ovss.methods._tag_name import UNUSED_STEPS, Floats, Naming, Reading, assign, prompt, similarities
from ovss.models.clip import load_clip
from ovss.models.sentences import load_sentences
from ovss.retrieval.encode import encode_unit


@dataclass
class Row:
    """One row of the pass and what it has counted so far.

    at: directories of its segments and neighbours. class_names: by class index, without a background.
    """

    name: str
    out: Path
    naming: Naming
    at: tuple[Path, Path]
    sentences: Path
    view: str
    num_classes: int
    class_names: Mapping[int, str]
    examples: int
    counts: list[tuple[str, Ints]] = field(default_factory=list)

    @property
    def reading(self) -> Reading:
        """What decides its candidate words."""
        return Reading.of(self.naming)


def run(ctx: JobContext) -> None:
    """Label every item of a pass; see the module.

    Item parameters: ``method``, ``settings`` (of ``Naming``), ``dataset``, ``classes`` (names of each class; the first
    one counts), ``protocol``, ``shard`` [index, count], ``examples``. Item inputs: ``model`` (CLIP) and ``source`` (the
    same for all items), ``segments``, ``neighbours``, ``sentences``. Output of an item: counts.npz, images.txt and
    segments.jsonl.gz (a segment a line), and of the source's first images examples/<id>.png (class indices at the
    image's size, 255 = none), words/<id>.png (clusters) and words/<id>.json (their segments).

    Raises:
        UserError: a row is not usable, or its inputs do not belong together; the message names what.
    """
    (model,) = {item.inputs["model"] for item in ctx.items.values()}
    (source,) = {item.inputs["source"] for item in ctx.items.values()}
    (shard,) = {tuple(item.params["shard"]) for item in ctx.items.values()}
    rows = [read_row(name, item) for name, item in sorted(ctx.items.items())]
    index = read_index(source)
    start, stop = (len(index) * part // shard[1] for part in (shard[0], shard[0] + 1))
    read = cache(SegmentsFile.open)
    found = {at: Found.open(*at, read) for at in sorted({row.at for row in rows})}
    for each in found.values():
        _check_images(each, source, [line["id"] for line in index[start:stop]])
    named = name_segments(rows, found, model, ctx.machine.device)
    tables = {item.params["dataset"]["name"]: lookup_table(item.params["dataset"]["labels"])
              for item in ctx.items.values()}  # fmt: skip
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


def read_row(name: str, item: Item) -> Row:
    """A row from its parameters and inputs.

    Raises:
        UserError: unknown setting or protocol value, a step that TAG does not have, or a class list that does not fit.
    """
    params, dataset = item.params, item.params["dataset"]
    protocol = Protocol.read({**params["protocol"], "logit_scale": 1.0})
    protocol.refuse(params["method"], *UNUSED_STEPS)
    if protocol.score_size != "input":
        raise UserError(f"protocol.score_size: method {params['method']} counts pixels of its segments; write 'input'")
    classes, first = params["classes"], int(dataset["background"])
    if len(classes) != dataset["num_classes"] or len(classes) <= first:
        raise UserError(
            f"data set {dataset['name']}: the class list '{params['protocol']['names']}' has {len(classes)} classes, "
            f"the labels have {dataset['num_classes']}; give it a list with one line per class"
        )
    return Row(
        name=name,
        out=item.out,
        naming=methods.read_settings(Naming, params["settings"], params["method"]),
        at=(item.inputs["segments"], item.inputs["neighbours"]),
        sentences=item.inputs["sentences"],
        view=dataset["name"],
        num_classes=len(classes),
        class_names={number: names[0] for number, names in enumerate(classes) if number >= first},
        examples=params.get("examples", 0),
    )


def _check_images(found: Found, source: Path, ids: Sequence[str]) -> None:
    if found.segments.images != tuple(ids):
        raise UserError(
            f"{found.directory}: its {len(found.segments.images)} images are not the {len(ids)} of {source}; "
            "make the segments of these images again"
        )


@torch.inference_mode()
def name_segments(
    rows: Sequence[Row], found: Mapping[tuple[Path, Path], Found], model: Path, device: str
) -> dict[str, Named]:
    """Word and class of every segment for every row, by the row's name; what rows share is made once."""
    vocabulary: dict[str, int] = {}
    candidates: dict[tuple[tuple[Path, Path], Reading], Candidates] = {}
    for at, each in found.items():
        readings = dict.fromkeys(row.reading for row in rows if row.at == at)
        made = read_candidates(each, readings, vocabulary)
        candidates |= {(at, reading): words for reading, words in made.items()}
    words = list(vocabulary)
    vectors = _vectors(model, device, words, [each for each in found.values() if len(each)])
    shared: dict[tuple[Any, ...], Chosen] = {}
    chosen: dict[str, Chosen] = {}
    for row in rows:
        own, key = candidates[row.at, row.reading], (row.at, row.reading, row.naming.foreign_words)
        if key not in shared:
            shared[key] = choose_words(found[row.at], own, vocabulary, vectors, row.naming.foreign_words)
        chosen[row.name] = shared[key]
    similar = _similar(rows, chosen, words, device)
    named = {}
    for row in rows:
        used, table = similar[row.sentences, tuple(row.class_names.values())]
        best, similarity = assign(table, row.naming.threshold)
        index = np.where(best < 0, -1, best + min(row.class_names))
        place = np.searchsorted(used, chosen[row.name].word)
        named[row.name] = Named(found[row.at], row.reading, candidates[row.at, row.reading], chosen[row.name], words,
                                index[place], similarity[place])  # fmt: skip
    return named


def _vectors(model: Path, device: str, words: Sequence[str], found: Sequence[Found]) -> Floats:
    """CLIP's vector of every word, (V, D).

    Raises:
        UserError: they are not as long as the segments' embeddings.
    """
    vectors = encode_unit(load_clip(model, device), [prompt(word) for word in words]).cpu().numpy()
    for each in found:
        length = each.segments.embeddings.shape[1]
        if length != vectors.shape[1]:
            raise UserError(
                f"{each.directory}: its embeddings have {length} values, texts of {model} have "
                f"{vectors.shape[1]}; make the segments with this model"
            )
    return vectors


def _similar(
    rows: Sequence[Row], chosen: Mapping[str, Chosen], words: Sequence[str], device: str
) -> dict[tuple[Path, tuple[str, ...]], tuple[npt.NDArray[np.int32], Floats]]:
    """By sentence encoder and class names: the words that some segment has, (V,), and their similarities, (V, C)."""
    similar = {}
    for directory in sorted({row.sentences for row in rows}):
        own = [row for row in rows if row.sentences == directory]
        used = np.unique(np.concatenate([chosen[row.name].word for row in own]))
        encoder = load_sentences(directory, device)
        vectors = encoder.encode([words[number] for number in used])
        for names in dict.fromkeys(tuple(row.class_names.values()) for row in own):
            similar[directory, names] = used, similarities(vectors, encoder.encode(names)).cpu().numpy()
    return similar


def label_image(
    number: int,
    image: str,
    labels: Mapping[str, npt.NDArray[np.uint8]],
    rows: Sequence[Row],
    named: Mapping[str, Named],
    first: int,
) -> None:
    """Count one image for every row, and keep pictures of it if it is among the first of the source.

    Args:
        number: of the image within the shard.
        image: its id.
        labels: class indices (H, W) by view.
        rows: of the pass.
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
