"""k-means with several starts of one image's features, on its patches or on its pixels.

The behaviour is that of torch_kmeans: Lloyd's steps with squared Euclidean distances, the centre of an empty cluster
becomes 0, a start stops moving when every centre moved by less than ``shift``, the start with the least sum of squared
distances wins. Its random draws depend on the batch and the device; here each image has its own generator.

Pixels are patches upsampled by a linear map U, so their features are never made (448x448x768 values): the inner product
of a centre with them is U applied to the products with patches, and the sum of a cluster's pixels is the adjoint of U
applied to the cluster's mask, times the patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ovss.models.windows import linear_resize


class Points(Protocol):
    """What k-means needs of P points of D dimensions; ``together`` bounds memory."""

    @property
    def count(self) -> int:
        """P."""
        ...

    @property
    def together(self) -> int:
        """Starts at a time."""
        ...

    def at(self, index: Tensor) -> Tensor:
        """Points by number, any shape of int64 -> the same with D behind."""

    def inner(self, centres: Tensor) -> Tensor:
        """Inner products with all points, (K, D) -> (K, P)."""

    def sums(self, masks: Tensor) -> Tensor:
        """Sum of the points of each mask, (K, P) float32 -> (K, D)."""

    def square(self) -> float:
        """Sum of the squared norms of all points."""


@dataclass(frozen=True)
class Patches:
    """Points are the patches themselves, tokens (n, D) float32."""

    tokens: Tensor

    @property
    def count(self) -> int:
        """Number of points."""
        return len(self.tokens)

    @property
    def together(self) -> int:
        """See ``Points``."""
        return 64

    def at(self, index: Tensor) -> Tensor:
        """See ``Points``."""
        return self.tokens[index]

    def inner(self, centres: Tensor) -> Tensor:
        """See ``Points``."""
        return centres @ self.tokens.T

    def sums(self, masks: Tensor) -> Tensor:
        """See ``Points``."""
        return masks @ self.tokens

    def square(self) -> float:
        """See ``Points``."""
        return float(self.tokens.double().square().sum())


@dataclass(frozen=True)
class Upsampling:
    """Bilinear upsampling, corners not aligned, of maps on a patch grid: rows (H, h) and columns (W, w) float32."""

    rows: Tensor
    columns: Tensor

    @classmethod
    def between(cls, grid: tuple[int, int], size: tuple[int, int], device: torch.device | str = "cpu") -> Upsampling:
        """From a patch grid (h, w) to pixels (H, W)."""
        rows, columns = (linear_resize(patches, side).to(device) for patches, side in zip(grid, size, strict=True))
        return cls(rows, columns)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self.rows), len(self.columns)

    def up(self, maps: Tensor) -> Tensor:
        """(K, h*w) -> (K, H, W)."""
        grid = maps.reshape(-1, self.rows.shape[1], self.columns.shape[1])
        return self.rows @ (grid @ self.columns.T)

    def back(self, maps: Tensor) -> Tensor:
        """The adjoint of ``up``: (K, H, W) -> (K, h*w)."""
        return (self.rows.T @ (maps @ self.columns)).flatten(1)


@dataclass(frozen=True)
class Pixels:
    """Points are the pixels of upsampled patches, tokens (h*w, D) float32, row after row."""

    tokens: Tensor
    upsampling: Upsampling

    @property
    def count(self) -> int:
        """Number of points."""
        height, width = self.upsampling.size
        return height * width

    @property
    def together(self) -> int:
        """See ``Points``."""
        return 1

    def at(self, index: Tensor) -> Tensor:
        """See ``Points``."""
        width = self.upsampling.size[1]
        rows = self.upsampling.rows[torch.div(index, width, rounding_mode="floor")]
        columns = self.upsampling.columns[index % width]
        return (rows[..., :, None] * columns[..., None, :]).flatten(-2) @ self.tokens

    def inner(self, centres: Tensor) -> Tensor:
        """See ``Points``."""
        return self.upsampling.up(centres @ self.tokens.T).flatten(1)

    def sums(self, masks: Tensor) -> Tensor:
        """See ``Points``."""
        return self.upsampling.back(masks.unflatten(1, self.upsampling.size)) @ self.tokens

    def square(self) -> float:
        """See ``Points``; the sum over pixels is a quadratic form of the patches."""
        rows, columns = (side.double().T @ side.double() for side in (self.upsampling.rows, self.upsampling.columns))
        tokens = self.tokens.double()
        grid = tokens.unflatten(0, (len(rows), len(columns)))
        return float((torch.einsum("ij,kl,jld->ikd", rows, columns, grid).flatten(0, 1) * tokens).sum())


@dataclass(frozen=True)
class Clusters:
    """Result. centres: (K, D) float32. labels: (P,) int64. inertia: sum of squared distances. start: which one won."""

    centres: Tensor
    labels: Tensor
    inertia: float
    start: int


def draw_starts(count: int, clusters: int, restarts: int, seed: int) -> Tensor:
    """Different points for every start, (restarts, clusters) int64 on the CPU, from the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(count, generator=generator)[:clusters] for _ in range(restarts)])


def kmeans(points: Points, starts: Tensor, steps: int, shift: float) -> Clusters:
    """The best of several starts.

    Of equally near centres the first wins, of equally good starts too.

    Args:
        points: what to cluster.
        starts: (R, K, D) float32, centres to begin with.
        steps: most steps of a start.
        shift: a start stops when no centre moved as far as this.
    """
    centres, labels, inertia = (
        torch.cat(parts)
        for parts in zip(*(_lloyd(points, part, steps, shift) for part in starts.split(points.together)), strict=True)
    )
    best = int(inertia.argmin())
    return Clusters(centres[best], labels[best].long(), float(inertia[best]), best)


def _lloyd(points: Points, starts: Tensor, steps: int, shift: float) -> tuple[Tensor, Tensor, Tensor]:
    """Centres (R, K, D), labels (R, P) int16 whose means they are, and inertia (R,) double of every start."""
    centres, sums = starts.clone(), torch.zeros_like(starts)
    counts = torch.zeros(starts.shape[:2], device=starts.device)
    labels = torch.zeros(len(starts), points.count, dtype=torch.int16, device=starts.device)
    moving = torch.arange(len(starts), device=starts.device)
    for _ in range(steps):
        before = centres[moving]
        labels[moving] = nearest(points.inner(before.flatten(0, 1)).unflatten(0, before.shape[:2]), before)
        sums[moving], counts[moving] = _sums(points, labels[moving], starts.shape[1])
        centres[moving] = sums[moving] / counts[moving].clamp(min=1)[..., None]
        moving = moving[(centres[moving] - before).norm(dim=-1).amax(dim=1) >= shift]
        if len(moving) == 0:
            break
    exact = centres.double()
    spread = (counts * exact.square().sum(dim=-1) - 2 * (exact * sums.double()).sum(dim=-1)).sum(dim=1)
    return centres, labels, points.square() + spread


def nearest(inner: Tensor, centres: Tensor) -> Tensor:
    """Number of the nearest centre of every point, of equally near ones the first.

    Args:
        inner: (..., K, P) float32, inner products of centres and points.
        centres: (..., K, D) float32.

    Returns:
        (..., P) int16.
    """
    fit = half_distances(inner, centres)
    # argmax over rows that lie far apart is 10 times slower on a CPU than these three operations.
    best = (fit < fit.amax(dim=-2, keepdim=True)).logical_not()
    left = torch.arange(fit.shape[-2], 0, -1, dtype=torch.int16, device=fit.device)[:, None]
    return fit.shape[-2] - (best * left).amax(dim=-2)


def half_distances(inner: Tensor, centres: Tensor) -> Tensor:
    """Minus half the squared distance of points and centres, up to a constant of each point; shapes as ``nearest``."""
    return inner - centres.square().sum(dim=-1)[..., None] / 2


def _sums(points: Points, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Sum of the points of every cluster, (R, K, D) float32, and their number, (R, K) float32; labels (R, P)."""
    masks = (labels[:, None] == torch.arange(clusters, dtype=labels.dtype, device=labels.device)[:, None]).float()
    return points.sums(masks.flatten(0, 1)).unflatten(0, masks.shape[:2]), masks.sum(dim=-1)
