"""TAG, first step: clusters of an image's pixels (Kawano and Aoki 2024, section 3.1).

DINOv2's patch features are clustered by k-means, the clusters are carried to pixels, and a dense CRF (in the released
code alone) draws them to the image's edges. Features of pixels (448x448x768) are never made: upsampling is linear, so
the maps of clusters go up to the pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.models import crf
from ovss.models.dino import Dino
from ovss.models.kmeans import Clusters, Patches, Pixels, Points, Upsampling, draw_starts, half_distances, kmeans

# Side in pixels of the network input for which the paper's code states distances in pixels.
_SIDE = 448
# Mean and deviation of ImageNet's colours, with which the released code takes a normalisation back.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MOST_CLUSTERS = 255


@dataclass(frozen=True)
class Clustering:
    """Settings of this step, by default those of the released code.

    n_clusters: k. crf: whether a dense CRF follows (not in the paper). assign: a pixel goes to the centre with the
    largest ``inner_product`` (released) or to the nearest (``euclidean``). kmeans_on: ``tokens`` (released) or
    ``pixels`` (paper). kmeans_seed, kmeans_restarts, kmeans_steps, kmeans_shift: draws of the starts, their number,
    most steps of one, and the movement of all centres below which it stops. dino_position: see ``Dino.tokens``.
    crf_steps: mean-field steps. crf_clip: least probability. crf_gaussian_sxy, crf_bilateral_sxy: deviations in pixels
    of an input of 448; crf_bilateral_srgb: of colours of 0..255; crf_gaussian_compat, crf_bilateral_compat: weights.
    crf_colours: what the CRF sees, the ``image``, or what the ``released`` code makes of the network's input: times
    ImageNet's deviation plus its mean. Where the input was never normalised, a fifth of the contrast is left.
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
    crf_steps: int = 10
    crf_clip: float = 1e-5
    crf_gaussian_sxy: float = 1.0
    crf_gaussian_compat: float = 3.0
    crf_bilateral_sxy: float = 67.0
    crf_bilateral_srgb: float = 3.0
    crf_bilateral_compat: float = 4.0
    crf_colours: Literal["released", "image"] = "released"


@dataclass
class Scene:
    """One image for DINO, and what several settings share of it.

    name: for messages. pixels: (H, W, 3) uint8 on the device of the model, resized RGB. normalised: whether DINO gets
    colours less its mean over its deviation, or colours of 0..1 as they are (released). finer: (3, H, W) float32, the
    same colours in 0..1 where 8 bits are not all of them.
    """

    name: str
    pixels: Tensor
    normalised: bool
    dino: Dino
    finer: Tensor | None = None
    _made: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made at the first request under this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the network input."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(h, w) of DINO's own patches."""
        rows, columns = self.dino.model.patch_embed.patch_size
        return self.size[0] // rows, self.size[1] // columns

    def colours(self) -> Tensor:
        """(3, H, W) float32, RGB in 0..1."""
        return self.pixels.permute(2, 0, 1) / 255 if self.finer is None else self.finer

    def upsampling(self) -> Upsampling:
        """From DINO's patches to pixels."""
        make = lambda: Upsampling.between(self.patch_grid, self.size, self.pixels.device)  # noqa: E731
        return self.once(("upsampling",), make)

    def tokens(self, position: Literal["hub", "timm"]) -> Tensor:
        """DINO's patch features, (h*w, d)."""
        return self.once(
            ("tokens", position),
            lambda: self.dino.tokens(self.colours()[None], self.patch_grid, position, self.normalised)[0],
        )


def find_clusters(scene: Scene, settings: Clustering) -> Tensor:
    """Cluster of every pixel, (H, W) int64; what several cluster counts have in common is made once.

    Raises:
        UserError: there are fewer patches than clusters, or a number of steps is not usable.
    """
    check(scene, settings)
    tokens = scene.tokens(settings.dino_position)
    maps = cluster_maps(tokens, cluster(scene, settings).centres, settings, scene.upsampling())
    if settings.crf:
        maps = refine(maps, edges(scene, settings), settings)
    return maps.argmax(dim=0)


def check(scene: Scene, settings: Clustering) -> None:
    """Refuse what cannot be clustered; see ``find_clusters``."""
    rows, columns = scene.patch_grid
    most = min(rows * columns, _MOST_CLUSTERS)
    if not 1 <= settings.n_clusters <= most:
        raise UserError(
            f"settings.n_clusters: {settings.n_clusters} clusters of the {rows}x{columns} patches of image "
            f"{scene.name}; give 1 to {most}, or raise protocol.short_side"
        )
    if settings.kmeans_restarts < 1 or settings.kmeans_steps < 1:
        raise UserError("settings.kmeans_restarts and kmeans_steps: at least 1 of each is needed")


def cluster(scene: Scene, settings: Clustering) -> Clusters:
    """k-means of one image's patches or pixels (section 3.1)."""
    tokens = scene.tokens(settings.dino_position)
    points: Points = Patches(tokens) if settings.kmeans_on == "tokens" else Pixels(tokens, scene.upsampling())
    key = ("clusters", settings.dino_position, settings.kmeans_on, settings.n_clusters, settings.kmeans_seed,
           settings.kmeans_restarts, settings.kmeans_steps, settings.kmeans_shift)  # fmt: skip

    def make() -> Clusters:
        drawn = draw_starts(points.count, settings.n_clusters, settings.kmeans_restarts, settings.kmeans_seed)
        return kmeans(points, points.at(drawn.to(tokens.device)), settings.kmeans_steps, settings.kmeans_shift)

    return scene.once(key, make)


def cluster_maps(tokens: Tensor, centres: Tensor, settings: Clustering, upsampling: Upsampling) -> Tensor:
    """How well every pixel fits every centre, (K, H, W): inner product, or minus half the squared distance.

    The distance is up to a constant of each pixel, which changes neither argmax nor softmax over clusters.
    """
    inner = centres @ tokens.T
    return upsampling.up(inner if settings.assign == "inner_product" else half_distances(inner, centres))


def edges(scene: Scene, settings: Clustering) -> list[tuple[crf.Edges, float]]:
    """The CRF's kernels with their weights; distances are scaled to the size of the input."""
    scale, size = min(scene.size) / _SIDE, scene.size
    near, far, srgb = settings.crf_gaussian_sxy, settings.crf_bilateral_sxy, settings.crf_bilateral_srgb
    gaussian = crf.position_edges(size, near * scale, scene.pixels.device)
    bilateral = scene.once(
        ("bilateral", far, srgb, settings.crf_colours),
        lambda: crf.make_edges(crf.positions_and_colours(crf_colours(scene, settings), far * scale, srgb)),
    )
    return [(gaussian, settings.crf_gaussian_compat), (bilateral, settings.crf_bilateral_compat)]


def crf_colours(scene: Scene, settings: Clustering) -> Tensor:
    """What the CRF takes for the image, (H, W, 3) uint8; see ``Clustering``."""
    if settings.crf_colours == "image":
        return scene.pixels
    mean, std = (
        torch.tensor(values, device=scene.pixels.device)[:, None, None]
        for values in (scene.dino.norm.mean, scene.dino.norm.std)
    )
    return released_colours((scene.colours() - mean) / std if scene.normalised else scene.colours())


def released_colours(network_input: Tensor) -> Tensor:
    """Network input (3, H, W) times ImageNet's deviation plus its mean, as colours (H, W, 3) uint8."""
    mean, std = (torch.tensor(values, device=network_input.device)[:, None, None] for values in (_MEAN, _STD))
    return (network_input * std + mean).mul(255).clamp(0, 255).byte().permute(1, 2, 0)


def refine(maps: Tensor, kernels: list[tuple[crf.Edges, float]], settings: Clustering) -> Tensor:
    """Marginals of the dense CRF, (K, H, W) -> (K, H, W)."""
    unary = crf.unary_energy(maps.softmax(dim=0), settings.crf_clip)
    return crf.mean_field(unary, kernels, settings.crf_steps).T.unflatten(1, maps.shape[1:])
