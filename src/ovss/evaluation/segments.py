"""Stage ``segments``: embeddings of clusters for all rows of one image source and one CLIP in one pass.

Every image is opened once. Rows are grouped by geometry; CLIP's dense features are computed once a group. One image is
the unit of computation, so neither batch size nor number of workers nor the other rows can change a result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ovss import methods
from ovss.data.images import Images, Sample
from ovss.errors import UserError
from ovss.evaluation.batch import make_view
from ovss.evaluation.cluster_maps import ClusterMaps, read_geometry
from ovss.evaluation.evaluate import count_images, shard_range
from ovss.evaluation.progress import Progress
from ovss.evaluation.protocol import Geometry
from ovss.evaluation.segments_file import SegmentsWriter
from ovss.jobs import Item, JobContext
from ovss.methods._tag_segment import Embedding, Proposal, embed
from ovss.models.clip import Clip, load_clip, without_text
from ovss.models.features import Features

_METHOD = "tag"


@dataclass
class Row:
    """One row of the pass. empty, not_finite: segments left out so far, for lack of pixels or of a finite embedding."""

    name: str
    settings: Embedding
    geometry: Geometry
    clusters: ClusterMaps
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


def run(ctx: JobContext) -> None:
    """Embed the clusters of a source's images for every item of a pass; see the module.

    Item parameters: ``method`` (tag), ``settings`` (of ``Embedding``), ``protocol``, ``shard`` [index, count]. Item
    inputs: ``model`` and ``source`` (the same for all items) and ``clusters``. Output of an item: see
    ``ovss.evaluation.segments_file``.

    Raises:
        UserError: a row or an image is not usable; the message names it.
    """
    (model,) = {item.inputs["model"] for item in ctx.items.values()}
    (source,) = {item.inputs["source"] for item in ctx.items.values()}
    (shard,) = {tuple(item.params["shard"]) for item in ctx.items.values()}
    clip = without_text(load_clip(model, ctx.machine.device))
    rows = [read_row(name, item) for name, item in sorted(ctx.items.items())]
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
    """Embed the clusters of images for all rows of a pass; ``name``: of the source, for the progress line."""
    groups: dict[Geometry, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.geometry].append(row)
    progress = Progress(f"segments {name}, {len(rows)} rows", len(images))
    with torch.inference_mode():
        for done, sample in enumerate(images):
            for geometry, members in groups.items():
                segment_image(sample, geometry, members, clip)
            progress(done + 1)


def segment_image(sample: Sample, geometry: Geometry, rows: Sequence[Row], clip: Clip) -> None:
    """Embed the clusters of one image for the rows of one geometry.

    Raises:
        UserError: a cluster map is not of the size of the network input.
    """
    view = make_view(sample.id, sample.image, geometry, clip)
    features = Features(clip, view.windows(), view.colours)
    for row in rows:
        labels = torch.from_numpy(row.clusters.maps.map(sample.id)).to(clip.device).long()
        if tuple(labels.shape) != view.input_size:
            raise UserError(
                f"image {sample.id}: its cluster map has {tuple(labels.shape)} pixels, the network input "
                f"{view.input_size}; make the clusters again"
            )
        row.keep(sample.id, embed(view, features, labels, row.settings, row.clusters.clusters))


def read_row(name: str, item: Item) -> Row:
    """A row from its parameters and inputs.

    Raises:
        UserError: an unknown setting or protocol value, a step that TAG does not have, or clusters that are damaged.
    """
    params = item.params
    if params["method"] != _METHOD:
        raise UserError(f"method: stage segments knows {_METHOD}, not '{params['method']}'; mend the row")
    settings = methods.read_settings(Embedding, params["settings"], _METHOD, name)
    clusters = ClusterMaps.open(item.inputs["clusters"])
    return Row(name, settings, read_geometry(params["protocol"]), clusters, SegmentsWriter(item.out))
