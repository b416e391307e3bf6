"""Stage ``clusters``: cluster maps of all rows of one image source and one DINO in one pass; no CLIP takes part.

Every image is opened once, and what rows share of it (DINO's features, clusters of one count, the CRF's lattices) is
computed once. One image is the unit of computation, so neither batch size nor number of workers nor the other rows can
change a result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovss import methods
from ovss.data.images import Images, Sample
from ovss.errors import UserError
from ovss.evaluation.evaluate import count_images, shard_range
from ovss.evaluation.maps_file import MapsFile, MapsWriter
from ovss.evaluation.preprocess import resize, resized_size
from ovss.evaluation.progress import Progress
from ovss.evaluation.protocol import Geometry, Protocol
from ovss.jobs import Item, JobContext
from ovss.methods._tag_cluster import Clustering, Scene, find_clusters
from ovss.models import timm_models
from ovss.models.dino import Dino, make_dino

CLUSTERS_FILE = "clusters.json"
_METHOD = "tag"


@dataclass
class Row:
    """One row of the pass. empty: clusters without a pixel so far."""

    name: str
    settings: Clustering
    geometry: Geometry
    writer: MapsWriter
    empty: int = 0

    def keep(self, scene: Scene) -> None:
        """Cluster one image and write its map."""
        labels = find_clusters(scene, self.settings).to(torch.uint8).cpu().numpy()
        self.empty += self.settings.n_clusters - len(np.unique(labels))
        self.writer.add(scene.name, labels)


@dataclass(frozen=True)
class ClusterMaps:
    """What the stage wrote: maps, and the number of clusters that each was to have."""

    maps: MapsFile
    clusters: int

    @classmethod
    def open(cls, directory: Path) -> ClusterMaps:
        """Open a clusters directory.

        Raises:
            UserError: a file is missing or damaged.
        """
        path = directory / CLUSTERS_FILE
        try:
            count = int(json.loads(path.read_text(encoding="utf-8"))["clusters"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); make it again") from error
        return cls(MapsFile.open(directory), count)


def run(ctx: JobContext) -> None:
    """Cluster the images of a source for every item of a pass; see the module.

    Item parameters: ``method`` (tag), ``settings`` (of ``Clustering``), ``protocol``, ``shard`` [index, count]. Item
    inputs: ``source`` and ``segmenter``, a DINO (the same for all items). Output of an item: see
    ``ovss.evaluation.maps_file``, and clusters.json.

    Raises:
        UserError: a row or an image is not usable; the message names it.
    """
    (source,) = {item.inputs["source"] for item in ctx.items.values()}
    (segmenter,) = {item.inputs["segmenter"] for item in ctx.items.values()}
    (shard,) = {tuple(item.params["shard"]) for item in ctx.items.values()}
    dino = load_segmenter(segmenter, ctx.machine.device)
    rows = [read_row(name, item) for name, item in sorted(ctx.items.items())]
    start, stop = shard_range(count_images(source), shard)
    progress = Progress(f"clusters {source.name}, {len(rows)} rows", stop - start)
    try:
        with torch.inference_mode():
            for done, sample in enumerate(Images(source, {}, start, stop, ctx.machine.workers)):
                cluster_image(sample, rows, dino)
                progress(done + 1)
        for row in rows:
            row.writer.close()
            record = json.dumps({"clusters": row.settings.n_clusters}) + "\n"
            (row.writer.directory / CLUSTERS_FILE).write_text(record, encoding="utf-8")
            ctx.finish(row.name, {"images": len(row.writer.images), "empty": row.empty})
    finally:
        for row in rows:
            row.writer.release()


def cluster_image(sample: Sample, rows: Sequence[Row], dino: Dino) -> None:
    """Cluster one image for all rows; those of one geometry share what they have in common."""
    scenes: dict[Geometry, Scene] = {}
    for row in rows:
        if row.geometry not in scenes:
            scenes[row.geometry] = make_scene(sample, row.geometry, dino)
        row.keep(scenes[row.geometry])


def make_scene(sample: Sample, geometry: Geometry, dino: Dino) -> Scene:
    """One image at a geometry's size, on the device of the model."""
    pixels = torch.from_numpy(sample.image).to(dino.model.pos_embed.device)
    size = resized_size((sample.image.shape[0], sample.image.shape[1]), geometry)
    return Scene(sample.id, resize(pixels, size, geometry), geometry.normalisation != "unit", dino)


def read_row(name: str, item: Item) -> Row:
    """A row from its parameters.

    Raises:
        UserError: an unknown method, setting or protocol value, or a step that TAG does not have.
    """
    if item.params["method"] != _METHOD:
        raise UserError(f"method: stage clusters knows {_METHOD}, not '{item.params['method']}'; mend the row")
    settings = methods.read_settings(Clustering, item.params["settings"], _METHOD, name)
    return Row(name, settings, read_geometry(item.params["protocol"]), MapsWriter(item.out))


def read_geometry(values: Mapping[str, Any]) -> Geometry:
    """Geometry of a row whose protocol has nothing that TAG does not act on.

    Raises:
        UserError: it has.
    """
    protocol = Protocol.read({"logit_scale": 1.0, **values})
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
