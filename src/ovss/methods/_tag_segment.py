"""TAG, second step: embeddings of the clusters of an image (Kawano and Aoki 2024, section 3.2).

The mean of CLIP's dense features over the pixels of a cluster is its embedding. Features of pixels (448x448x768) are
never made: upsampling is linear, so the masks of clusters go back to CLIP's patches instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.evaluation.batch import View
from ovss.methods._tag_cluster import Clustering, Scene, find_clusters
from ovss.models.dino import Dino
from ovss.models.features import Features
from ovss.models.kmeans import Upsampling

SEGMENTER = "segmenter"


@dataclass(frozen=True)
class Embedding:
    """Settings of this step, by default those of the released code.

    dense, dense_family: which dense CLIP segments average, GEM (released) or, ours, the unit patch features of a
    variant of the last block (``ovss.methods._bases``). gem_depth, gem_depth_limit, gem_iterations, gem_stream: see
    ``ovss.models.gem``.
    """

    dense: Literal["GEM", "MaskCLIP", "SCLIP", "ClearCLIP"] = "GEM"
    dense_family: Literal["freecp_block", "attention_only", "full_block"] = "attention_only"
    gem_depth: int = 7
    gem_depth_limit: Literal["layers", "none"] = "layers"
    gem_iterations: int = 1
    gem_stream: Literal["accumulate", "last_block"] = "accumulate"


@dataclass(frozen=True)
class Segmenting(Clustering, Embedding):
    """Both steps that make segments of an image."""


@dataclass(frozen=True)
class Proposal:
    """Segments of one image. map: (H, W) uint8, cluster of every pixel of the network input.

    embeddings: (K, D) float32 on the CPU, mean pixel feature of every cluster, not normalised, NaN where it has no
    pixel. pixels: (K,) int64, their number.
    """

    map: npt.NDArray[np.uint8]
    embeddings: Tensor
    pixels: Tensor


def propose(view: View, features: Features, settings: Segmenting) -> Proposal:
    """Segments of one image, both steps; what several settings have in common is made once.

    Args:
        view: the image, uncut.
        features: of its one window, with a DINO called ``segmenter`` among the companions.
        settings: see ``Segmenting``.

    Raises:
        UserError: the image is cut into windows, the companion is no DINO, or there are fewer patches than clusters.
    """
    scene = features.once(("tag scene",), lambda: scene_of(view, features))
    return embed(view, features, find_clusters(scene, settings), settings, settings.n_clusters)


def scene_of(view: View, features: Features) -> Scene:
    """The image for DINO; under the protocol's normalisation ``unit`` both networks get colours of 0..1 as they are.

    Raises:
        UserError: the companion is no DINO.
    """
    model = features.companion(SEGMENTER)
    if not isinstance(model, Dino):
        raise UserError(f"companions.{SEGMENTER}: TAG clusters patch features of a DINO, not of {type(model).__name__}")
    return Scene(view.id, view.pixels, view.normalisation != "unit", model)


def embed(view: View, features: Features, labels: Tensor, settings: Embedding, clusters: int | None = None) -> Proposal:
    """Embeddings of the clusters of one image.

    Args:
        view: the image, uncut.
        features: of its one window.
        labels: (H, W) int64, cluster of every pixel of the network input.
        settings: see ``Embedding``.
        clusters: K; None: as many as the largest label says.

    Raises:
        UserError: the image is cut into windows.
    """
    if view.grid.count != 1:
        raise UserError("protocol.crop: TAG segments a whole image; leave crop and stride at null")
    size = view.input_size
    make = lambda: Upsampling.between(features.patch_grid(), size, features.clip.device)  # noqa: E731
    upsampling = features.once(("tag upsampling",), make)
    count = int(labels.max()) + 1 if clusters is None else clusters
    embeddings, pixels = segment_embeddings(labels, count, patch_features(features, settings), upsampling)
    return Proposal(labels.to(torch.uint8).cpu().numpy(), embeddings.cpu(), pixels.cpu())


def patch_features(features: Features, settings: Embedding) -> Tensor:
    """CLIP's features of every patch that segments average, (h*w, D): GEM's as released, or another dense CLIP's."""
    if settings.dense != "GEM":
        return features.get("dense", variant=settings.dense, family=settings.dense_family)[0]
    return features.get("gem_projected", depth=settings.gem_depth, iterations=settings.gem_iterations,
                        limit=settings.gem_depth_limit, stream=settings.gem_stream)[0, 1:]  # fmt: skip


def segment_embeddings(labels: Tensor, clusters: int, dense: Tensor, upsampling: Upsampling) -> tuple[Tensor, Tensor]:
    """Mean pixel feature of every cluster (equation 3).

    Args:
        labels: (H, W) int64, cluster of every pixel.
        clusters: K.
        dense: (h*w, D) float32, patch features; a pixel's feature is their bilinear interpolation.
        upsampling: from patches to pixels.

    Returns:
        (K, D) float32, NaN for a cluster without a pixel, and (K,) int64, pixels of each.
    """
    masks = (labels == torch.arange(clusters, device=labels.device)[:, None, None]).float()
    pixels = torch.bincount(labels.flatten(), minlength=clusters)
    return upsampling.back(masks) / pixels[:, None] @ dense, pixels
