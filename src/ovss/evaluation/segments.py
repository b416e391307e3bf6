"""Stage ``segments``: cluster maps and segment embeddings of all rows of one image source and one model in one pass.

Every image is opened once. Rows are grouped by geometry and DINO; what the rows of a group have in common (both
networks, the CRF's lattices, clusters of one count) is computed once. One image is the unit of computation, so neither
batch size nor number of workers nor the other rows can change a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ovss import methods
from ovss.data.images import Images, Sample
from ovss.errors import UserError
from ovss.evaluation.batch import make_view
from ovss.evaluation.evaluate import count_images, shard_range
from ovss.evaluation.progress import Progress
from ovss.evaluation.protocol import Geometry, Protocol
from ovss.evaluation.segments_file import SegmentsWriter
from ovss.jobs import Item, JobContext
from ovss.methods._tag_segment import SEGMENTER, Proposal, Segmenting, propose
from ovss.models import timm_models
from ovss.models.clip import Clip, load_clip, without_text
from ovss.models.dino import Dino, make_dino
from ovss.models.features import Features

_METHOD = "tag"


@dataclass
class Row:
    """One row of the pass. empty, not_finite: segments left out so far, for lack of pixels or of a finite embedding."""

    name: str
    settings: Segmenting
    geometry: Geometry
    segmenter: Dino
    writer: SegmentsWriter
    empty: int = 0
    not_finite: int = 0

    def keep(self, image_id: str, proposal: Proposal) -> None:
        """Write one image's map and the segments that can be looked up."""
        filled = proposal.pixels > 0
        finite = torch.isfinite(proposal.embeddings).all(dim=1)
        self.empty += int((~filled).sum())
        self.not_finite += int((filled & ~finite).sum())
        kept = (filled & finite).nonzero()[:, 0]
        self.writer.add(
            image_id, proposal.map, proposal.embeddings[kept], kept.tolist(), proposal.pixels[kept].tolist()
        )

    def facts(self) -> dict[str, int]:
        """What the row has written, and what it left out."""
        return {
            "images": len(self.writer.images),
            "segments": self.writer.segments,
            "empty": self.empty,
            "not_finite": self.not_finite,
        }


@dataclass
class Group:
    """Rows that share the networks and what they are given."""

    geometry: Geometry
    segmenter: Dino
    rows: list[Row] = field(default_factory=list)


def run(ctx: JobContext) -> None:
    """Segment the images of a source for every item of a pass; see the module.

    Item parameters: ``method`` (tag), ``settings`` (of ``Segmenting``), ``protocol``, ``shard`` [index, count]. Item
    inputs: ``model`` and ``source`` (the same for all items) and ``companion_segmenter``. Output of an item: see
    ``ovss.evaluation.segments_file``.

    Raises:
        UserError: a row or an image is not usable; the message names it.
    """
    (model,) = {item.inputs["model"] for item in ctx.items.values()}
    (source,) = {item.inputs["source"] for item in ctx.items.values()}
    (shard,) = {tuple(item.params["shard"]) for item in ctx.items.values()}
    clip = without_text(load_clip(model, ctx.machine.device))
    load = cache(lambda directory: load_segmenter(directory, ctx.machine.device))
    rows = [read_row(name, item, clip, load) for name, item in sorted(ctx.items.items())]
    start, stop = shard_range(count_images(source), shard)
    try:
        segment_images(Images(source, {}, start, stop, ctx.machine.workers), rows, clip, source.name)
        for row in rows:
            row.writer.close()
            ctx.finish(row.name, row.facts())
    finally:
        for row in rows:
            row.writer.release()


def segment_images(images: Images, rows: Sequence[Row], clip: Clip, name: str) -> None:
    """Segment images for all rows of a pass; ``name``: of the source, for the progress line."""
    groups = group_rows(rows)
    progress = Progress(f"segments {name}, {len(rows)} rows", len(images))
    with torch.inference_mode():
        for done, sample in enumerate(images):
            for group in groups:
                segment_image(sample, group, clip)
            progress(done + 1)


def segment_image(sample: Sample, group: Group, clip: Clip) -> None:
    """Segment one image for every row of a group."""
    view = make_view(sample.id, sample.image, group.geometry, clip)
    features = Features(clip, view.windows(), view.colours, {SEGMENTER: group.segmenter})
    for row in group.rows:
        row.keep(sample.id, propose(view, features, row.settings))


def group_rows(rows: Sequence[Row]) -> list[Group]:
    """Rows in groups of one geometry and one DINO; how they fall changes cost and no result."""
    groups: list[Group] = []
    for row in rows:
        same = (each for each in groups if each.geometry == row.geometry and each.segmenter is row.segmenter)
        group = next(same, None)
        if group is None:
            group = Group(row.geometry, row.segmenter)
            groups.append(group)
        group.rows.append(row)
    return groups


def read_row(name: str, item: Item, clip: Clip, load: Callable[[Path], Dino]) -> Row:
    """A row from its parameters and inputs.

    Raises:
        UserError: an unknown setting or protocol value, or a step that TAG does not have.
    """
    params = item.params
    if params["method"] != _METHOD:
        raise UserError(f"method: stage segments knows {_METHOD}, not '{params['method']}'; mend the row")
    settings = methods.read_settings(Segmenting, params["settings"], _METHOD)
    geometry = read_geometry(params["protocol"], clip)
    return Row(name, settings, geometry, load(item.inputs[f"companion_{SEGMENTER}"]), SegmentsWriter(item.out))


def read_geometry(values: Mapping[str, Any], clip: Clip) -> Geometry:
    """Geometry of a row whose protocol has nothing that TAG does not act on.

    Raises:
        UserError: it has.
    """
    own = {"logit_scale": clip.logit_scale} if values.get("logit_scale") is None else {}
    protocol = Protocol.read({**values, **own})
    protocol.refuse(_METHOD, "scales", "flip", "pamr", "crf", "window_padding", "prompt_denoising")
    return protocol.geometry


def load_segmenter(directory: Path, device: str) -> Dino:
    """The DINO of a model directory.

    Raises:
        UserError: there is another model in it, or none that can be read.
    """
    model, norm = timm_models.load_timm(directory, device)
    if type(model).__name__ != "VisionTransformer":
        raise UserError(f"{directory}: TAG clusters the patch features of a DINO; this is a {type(model).__name__}")
    return make_dino(model, norm, directory)
