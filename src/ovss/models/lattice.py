"""Gaussian filtering of values at many points on a permutohedral lattice (Adams, Baek and Davis 2010, section 3).

A point lies in a simplex of the lattice. Its value is spread over the corners of that simplex (splat), the lattice is
blurred along its directions, and points read the corners again (slice). Corners are numbered in the order of their
coordinates and every sum has a fixed order, so a result depends on the points and values alone. All three steps are
sums of few weighted rows, which ``embedding_bag`` does without making the weighted rows, on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.errors import UserError

# Points whose values are added up at once into one corner: bounds how long one thread of a GPU works alone.
_CHUNK = 64
_LARGEST_CODE = 2**62


@dataclass(frozen=True)
class Lattice:
    """Lattice of N points of d dimensions with M corners in use; corner M is an empty one that never holds a value.

    corners: (N, d+1) int64, corners of each point's simplex. weights: (N, d+1) float32, its barycentric coordinates.
    members: (E,) int64 and shares: (E,) float32, points by corner and their weights there, E = N (d+1), cut into
    chunks that start at ``chunks``; the chunks of corner m start at ``firsts[m]``. neighbours: (d+1, M+1, 3) int64, a
    corner and its two neighbours along each direction.
    """

    corners: Tensor
    weights: Tensor
    members: Tensor
    shares: Tensor
    chunks: Tensor
    firsts: Tensor
    neighbours: Tensor

    def filter(self, values: Tensor) -> Tensor:
        """Splat, blur and slice: (N, K) float32 -> (N, K), not normalised."""
        chunks = F.embedding_bag(self.members, values, self.chunks, mode="sum", per_sample_weights=self.shares)
        order = torch.arange(len(self.chunks), device=values.device)
        table = F.embedding_bag(order, chunks, self.firsts, mode="sum")
        blur = torch.tensor([1.0, 0.5, 0.5], device=values.device).expand(self.neighbours.shape[1:]).contiguous()
        for direction in self.neighbours:
            table = F.embedding_bag(direction, table, mode="sum", per_sample_weights=blur)
        dimensions = self.corners.shape[1] - 1
        return F.embedding_bag(
            self.corners, table, mode="sum", per_sample_weights=self.weights / (1 + 2.0**-dimensions)
        )


def make_lattice(points: Tensor) -> Lattice:
    """Lattice of points for a Gaussian of deviation 1.

    Args:
        points: (N, d) float32, coordinates divided by the wanted deviations.

    Raises:
        UserError: the points spread so far that corners cannot be numbered.
    """
    keys, weights = corner_keys(points)
    count, dimensions = points.shape
    codes, steps = _codes(keys)
    found, corners = torch.unique(codes.flatten(), return_inverse=True)
    members = torch.argsort(corners, stable=True)
    sizes = torch.bincount(corners, minlength=len(found))
    starts = sizes.cumsum(0) - sizes
    inside = torch.arange(len(members), device=points.device) - starts.repeat_interleave(sizes)
    chunks = (inside % _CHUNK == 0).nonzero()[:, 0]
    per_corner = (sizes + _CHUNK - 1) // _CHUNK
    ends = per_corner.cumsum(0)
    return Lattice(
        corners.reshape(count, dimensions + 1),
        weights,
        torch.div(members, dimensions + 1, rounding_mode="floor"),
        weights.flatten()[members],
        chunks,
        torch.cat([ends - per_corner, ends[-1:]]),
        torch.stack([_line(found, step) for step in steps]),
    )


def corner_keys(points: Tensor) -> tuple[Tensor, Tensor]:
    """The simplex of every point.

    Returns:
        (N, d+1, d) int64, lattice coordinates of its corners (the last coordinate follows from the others), and
        (N, d+1) float32, barycentric coordinates.
    """
    elevated = _elevate(points)
    count, sides = elevated.shape
    nearest = (elevated * (1 / sides)).round()
    surplus = nearest.sum(dim=1, keepdim=True)
    base = nearest * sides
    rank = _ranks(elevated - base) + surplus.long()
    shift = (rank < 0).long() * sides - (rank >= sides).long() * sides
    rank, base = rank + shift, base + shift
    share = (elevated - base) * (1 / sides)
    weights = torch.zeros(count, sides + 1, dtype=points.dtype, device=points.device)
    weights.scatter_(1, sides - 1 - rank, share)
    weights.scatter_add_(1, sides - rank, -share)
    weights[:, 0] += 1 + weights[:, -1]
    remainder = torch.arange(sides, device=points.device)
    offset = remainder[:, None] - sides * (rank[:, None, :] >= sides - remainder[:, None]).long()
    return (base.long()[:, None] + offset)[..., :-1], weights[:, :-1].contiguous()


def _elevate(points: Tensor) -> Tensor:
    """Points on the plane through 0 on which the lattice lies, (N, d) -> (N, d+1), scaled for deviation 1."""
    dimensions = points.shape[1]
    spread = math.sqrt(2 / 3) * (dimensions + 1)
    total = torch.zeros_like(points[:, 0])
    columns = []
    for axis in range(dimensions, 0, -1):
        part = points[:, axis - 1] * (spread / math.sqrt((axis + 1) * axis))
        columns.append(total - axis * part)
        total = total + part
    return torch.stack([total, *reversed(columns)], dim=1)


def _ranks(offsets: Tensor) -> Tensor:
    """Place of every coordinate in descending order, of equal ones the first comes first; (N, d+1) int64."""
    order = torch.argsort(offsets, dim=1, descending=True, stable=True)
    return torch.argsort(order, dim=1)


def _codes(keys: Tensor) -> tuple[Tensor, Tensor]:
    """One number per corner that sorts as its coordinates do, (N, d+1), and the step of each direction, (d+1,)."""
    dimensions = keys.shape[-1]
    margin = dimensions + 2
    low, high = (bound - sign * margin for bound, sign in zip(keys.flatten(0, 1).aminmax(dim=0), (1, -1), strict=True))
    ranges = (high - low + 1).tolist()
    if math.prod(ranges) > _LARGEST_CODE:
        raise UserError("crf: positions and colours over their deviations spread too far; raise crf_bilateral_srgb")
    strides = torch.tensor([math.prod(ranges[axis + 1 :]) for axis in range(dimensions)], device=keys.device)
    along = torch.cat([strides * (dimensions + 1), strides.new_zeros(1)]) - strides.sum()
    return ((keys - low) * strides).sum(dim=-1), along


def _line(found: Tensor, step: Tensor) -> Tensor:
    """Each corner and its neighbours one step before and behind, (M+1, 3); where there is none, the empty corner."""
    empty = len(found)
    sides = []
    for wanted in (found + step, found - step):
        at = torch.searchsorted(found, wanted)
        there = found[at.clamp(max=empty - 1)] == wanted
        sides.append(torch.where(there, at, empty))
    line = torch.stack([torch.arange(empty, device=found.device), *sides], dim=1)
    return torch.cat([line, torch.full_like(line[:1], empty)])
