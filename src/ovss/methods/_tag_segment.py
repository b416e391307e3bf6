"""TAG, first half: segments of one image and their embeddings (Kawano and Aoki 2024, sections 3.1 and 3.2).

DINOv2's patch features are clustered by k-means, the clusters are carried to pixels, and the mean of CLIP's dense
features over the pixels of a cluster is its embedding. Neither the pixels' features (448x448x768) nor their sums are
ever made: upsampling is linear, so maps of clusters go up to the pixels, and masks of clusters go back to the patches.
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
from ovss.models import crf
from ovss.models.dino import Dino
from ovss.models.features import Features
from ovss.models.kmeans import Clusters, Patches, Pixels, Points, Upsampling, draw_starts, half_distances, kmeans

SEGMENTER = "segmenter"
# Side in pixels of the network input for which the paper's code states distances in pixels.
_SIDE = 448
# Mean and deviation of ImageNet's colours, with which the released code takes a normalisation back.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MOST_CLUSTERS = 255


@dataclass(frozen=True)
class Segmenting:
    """Settings of TAG's first half, by default those of the released code.

    n_clusters: k. crf: whether a dense CRF follows (not in the paper). assign: a pixel goes to the centre with the
    largest ``inner_product`` (released) or to the nearest (``euclidean``). kmeans_on: ``tokens`` (released) or
    ``pixels`` (paper). kmeans_seed, kmeans_restarts, kmeans_steps, kmeans_shift: draws of the starts, their number,
    most steps of one, and the movement of all centres below which it stops. dino_position: see ``Dino.tokens``.
    dense, dense_family: which dense CLIP segments average, GEM (released) or, ours, the unit patch features of a
    variant of the last block (``ovss.methods._bases``). gem_depth, gem_depth_limit, gem_iterations, gem_stream: see
    ``ovss.models.gem``. crf_steps: mean-field steps.
    crf_clip: least probability. crf_gaussian_sxy, crf_bilateral_sxy: deviations in pixels of an input of 448;
    crf_bilateral_srgb: of colours of 0..255; crf_gaussian_compat, crf_bilateral_compat: weights. crf_colours: what the
    CRF sees, the ``image``, or what the ``released`` code makes of the network's input: times ImageNet's deviation plus
    its mean. Where the input was never normalised, a fifth of the contrast is left.
    """

    n_clusters: int = 15
    crf: bool = True
    assign: Literal["inner_product", "euclidean"] = "inner_product"
    kmeans_on: Literal["tokens", "pixels"] = "tokens"
    kmeans_seed: int = 123
    kmeans_restarts: int = 8
    kmeans_steps: int = 100
    kmeans_shift: float = 1e-4
    dino_position: Literal["hub", "timm"] = "hub"
    dense: Literal["GEM", "MaskCLIP", "SCLIP", "ClearCLIP"] = "GEM"
    dense_family: Literal["freecp_block", "attention_only", "full_block"] = "attention_only"
    gem_depth: int = 7
    gem_depth_limit: Literal["layers", "none"] = "layers"
    gem_iterations: int = 1
    gem_stream: Literal["accumulate", "last_block"] = "accumulate"
    crf_steps: int = 10
    crf_clip: float = 1e-5
    crf_gaussian_sxy: float = 1.0
    crf_gaussian_compat: float = 3.0
    crf_bilateral_sxy: float = 67.0
    crf_bilateral_srgb: float = 3.0
    crf_bilateral_compat: float = 4.0
    crf_colours: Literal["released", "image"] = "released"


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
    """Segments of one image; what several cluster counts have in common is made once.

    Args:
        view: the image, uncut.
        features: of its one window, with a DINO called ``segmenter`` among the companions.
        settings: see ``Segmenting``.

    Raises:
        UserError: the image is cut into windows, the companion is no DINO, or there are fewer patches than clusters.
    """
    check(view, features, settings)
    upsampling = Upsampling.between(features.patch_grid(), view.input_size, features.clip.device)
    clusters = cluster(view, features, settings, upsampling)
    maps = cluster_maps(segmenter_tokens(view, features, settings), clusters.centres, settings, upsampling)
    if settings.crf:
        maps = refine(maps, edges(view, features, settings), settings)
    labels = maps.argmax(dim=0)
    dense = patch_features(features, settings)
    embeddings, pixels = segment_embeddings(labels, settings.n_clusters, dense, upsampling)
    return Proposal(labels.to(torch.uint8).cpu().numpy(), embeddings.cpu(), pixels.cpu())


def check(view: View, features: Features, settings: Segmenting) -> None:
    """Refuse what TAG cannot work on; see ``propose``."""
    rows, columns = features.patch_grid()
    most = min(rows * columns, _MOST_CLUSTERS)
    if not 1 <= settings.n_clusters <= most:
        raise UserError(
            f"settings.n_clusters: {settings.n_clusters} clusters of the {rows}x{columns} patches of image {view.id}; "
            f"give 1 to {most}, or raise protocol.short_side"
        )
    if settings.kmeans_restarts < 1 or settings.kmeans_steps < 1:
        raise UserError("settings.kmeans_restarts and kmeans_steps: at least 1 of each is needed")
    if view.grid.count != 1:
        raise UserError("protocol.crop: TAG clusters a whole image; leave crop and stride at null")


def patch_features(features: Features, settings: Segmenting) -> Tensor:
    """CLIP's features of every patch that segments average, (h*w, D): GEM's as released, or another dense CLIP's."""
    if settings.dense != "GEM":
        return features.get("dense", variant=settings.dense, family=settings.dense_family)[0]
    return features.get("gem_projected", depth=settings.gem_depth, iterations=settings.gem_iterations,
                        limit=settings.gem_depth_limit, stream=settings.gem_stream)[0, 1:]  # fmt: skip


def segmenter_tokens(view: View, features: Features, settings: Segmenting) -> Tensor:
    """DINO's patch features on CLIP's patch grid, (h*w, d).

    Under the protocol's normalisation ``unit`` the same colours of 0..1 go to both networks, as in the released code;
    under any other each gets its own normalisation.

    Raises:
        UserError: the companion is no DINO.
    """
    model = features.companion(SEGMENTER)
    if not isinstance(model, Dino):
        raise UserError(f"companions.{SEGMENTER}: TAG clusters patch features of a DINO, not of {type(model).__name__}")
    own = view.normalisation != "unit"
    return features.once(
        ("tag tokens", settings.dino_position, own),
        lambda: model.tokens(features.colours(), features.patch_grid(), settings.dino_position, own)[0],
    )


def cluster(view: View, features: Features, settings: Segmenting, upsampling: Upsampling) -> Clusters:
    """k-means of one image's patches or pixels (section 3.1)."""
    tokens = segmenter_tokens(view, features, settings)
    points: Points = Patches(tokens) if settings.kmeans_on == "tokens" else Pixels(tokens, upsampling)
    key = ("tag clusters", settings.dino_position, settings.kmeans_on, settings.n_clusters, settings.kmeans_seed,
           settings.kmeans_restarts, settings.kmeans_steps, settings.kmeans_shift)  # fmt: skip

    def make() -> Clusters:
        drawn = draw_starts(points.count, settings.n_clusters, settings.kmeans_restarts, settings.kmeans_seed)
        return kmeans(points, points.at(drawn.to(tokens.device)), settings.kmeans_steps, settings.kmeans_shift)

    return features.once(key, make)


def cluster_maps(tokens: Tensor, centres: Tensor, settings: Segmenting, upsampling: Upsampling) -> Tensor:
    """How well every pixel fits every centre, (K, H, W): inner product, or minus half the squared distance.

    The distance is up to a constant of each pixel, which changes neither argmax nor softmax over clusters.
    """
    inner = centres @ tokens.T
    return upsampling.up(inner if settings.assign == "inner_product" else half_distances(inner, centres))


def edges(view: View, features: Features, settings: Segmenting) -> list[tuple[crf.Edges, float]]:
    """The CRF's kernels with their weights; distances are scaled to the size of the input."""
    scale, size = min(view.input_size) / _SIDE, view.input_size
    near, far, srgb = settings.crf_gaussian_sxy, settings.crf_bilateral_sxy, settings.crf_bilateral_srgb
    gaussian = features.once(
        ("tag gaussian", near),
        lambda: crf.make_edges(crf.positions(size, near * scale, view.input.device)),
    )
    bilateral = features.once(
        ("tag bilateral", far, srgb, settings.crf_colours),
        lambda: crf.make_edges(crf.positions_and_colours(crf_colours(view, settings), far * scale, srgb)),
    )
    return [(gaussian, settings.crf_gaussian_compat), (bilateral, settings.crf_bilateral_compat)]


def crf_colours(view: View, settings: Segmenting) -> Tensor:
    """What the CRF takes for the image, (H, W, 3) uint8; see ``Segmenting``."""
    return view.pixels if settings.crf_colours == "image" else released_colours(view.input)


def released_colours(network_input: Tensor) -> Tensor:
    """Network input (3, H, W) times ImageNet's deviation plus its mean, as colours (H, W, 3) uint8."""
    mean, std = (torch.tensor(values, device=network_input.device)[:, None, None] for values in (_MEAN, _STD))
    return (network_input * std + mean).mul(255).clamp(0, 255).byte().permute(1, 2, 0)


def refine(maps: Tensor, kernels: list[tuple[crf.Edges, float]], settings: Segmenting) -> Tensor:
    """Marginals of the dense CRF, (K, H, W) -> (K, H, W)."""
    unary = crf.unary_energy(maps.softmax(dim=0), settings.crf_clip)
    return crf.mean_field(unary, kernels, settings.crf_steps).T.unflatten(1, maps.shape[1:])


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
