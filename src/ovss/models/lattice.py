"""Gaussian filtering of values at many points on a permutohedral lattice (Adams, Baek and Davis 2010, section 3).

A point lies in a simplex of the lattice. Its value is spread over the corners of that simplex (splat), the lattice is
blurred along its directions, and points read the corners again (slice). Corners are numbered in the order of their
coordinates and every sum has a fixed order, so a result depends on the points and values alone. All three steps are
sums of few weighted rows, which ``embedding_bag`` does without making the weighted rows, on any device (a product with
a sparse matrix does the same no faster on a CPU, and not always in the same order on a GPU).
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
class Bags:
    """Sums of few weighted rows: sum i has the rows ``rows[starts[i]:starts[i + 1]]``, the last one all that are left.

    rows: (E,) int32. weights: (E,) float32. starts: (R,) int32.
    """

    rows: Tensor
    weights: Tensor
    starts: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """(N, K) float32 -> (R, K)."""
        return F.embedding_bag(self.rows, values, self.starts, mode="sum", per_sample_weights=self.weights)

    def weighted(self, inside: Tensor | None = None, outside: Tensor | None = None) -> Bags:
        """The same sums of rows times ``inside`` (N,), and each sum times ``outside`` (R,)."""
        weights = self.weights
        if inside is not None:
            weights = weights * inside[self.rows.long()]
        if outside is not None:
            weights = weights * outside.repeat_interleave(self.sizes)
        return Bags(self.rows, weights, self.starts)

    @property
    def sizes(self) -> Tensor:
        """How many rows each sum has, (R,) int64."""
        return torch.diff(self.starts, append=self.starts.new_tensor([len(self.rows)])).long()

    def then(self, later: Bags) -> Bags:
        """These sums and then ``later`` ones of them, as one; added up on the CPU, in a fixed order."""
        rows, starts, sizes = later.rows.cpu().long(), self.starts.cpu().long(), self.sizes.cpu()
        entries = torch.arange(len(rows)).repeat_interleave(sizes[rows])
        ends = sizes[rows].cumsum(0)
        inside = torch.arange(len(entries)) - (ends - sizes[rows]).repeat_interleave(sizes[rows])
        own = starts[rows[entries]] + inside
        lines = torch.arange(len(later.starts)).repeat_interleave(later.sizes.cpu())[entries]
        columns = int(self.rows.max()) + 1
        found, places = torch.unique(lines * columns + self.rows.cpu()[own], return_inverse=True)
        weights = later.weights.cpu()[entries] * self.weights.cpu()[own]
        total = torch.zeros(len(found)).index_add_(0, places, weights)
        many = torch.bincount(found // columns, minlength=len(later.starts))
        device = self.rows.device
        parts = (found % columns).int(), total, (many.cumsum(0) - many).int()
        return Bags(*(part.to(device) for part in parts))


@dataclass(frozen=True)
class Lattice:
    """Lattice of N points of d dimensions with M corners in use.

    splat: two sums, of points by corner in chunks and of chunks, (N, K) -> (M, K). blur: one per direction, (M, K) ->
    (M, K). slice: corners of each point's simplex by its barycentric coordinates, (M, K) -> (N, K).
    """

    splat: tuple[Bags, Bags]
    blur: tuple[Bags, ...]
    slice: Bags

    @property
    def corners(self) -> int:
        """M."""
        return len(self.splat[1].starts)

    @property
    def steps(self) -> tuple[Bags, ...]:
        """All sums of the filter, one after the other."""
        return (*self.splat, *self.blur, self.slice)

    def filter(self, values: Tensor) -> Tensor:
        """Splat, blur and slice: (N, K) float32 -> (N, K), not normalised."""
        for step in self.steps:
            values = step(values)
        return values


def make_lattice(points: Tensor) -> Lattice:
    """Lattice of points for a Gaussian of deviation 1.

    Args:
        points: (N, d) float32, coordinates divided by the wanted deviations.

    Raises:
        UserError: the points spread so far that corners cannot be numbered.
    """
    base, rank, weights = _simplices(points)
    codes, steps = _codes(base, rank)
    ordered, entries = torch.sort(codes.flatten(), stable=True)
    found, numbers, sizes = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    corners = torch.empty_like(entries).scatter_(0, entries, numbers)
    count, sides = weights.shape
    members = torch.div(entries, sides, rounding_mode="floor").int()
    every = torch.arange(count, device=points.device, dtype=torch.int32) * sides
    return Lattice(
        _splat(members, weights.flatten()[entries], sizes),
        tuple(_blur(found, step) for step in steps),
        Bags(corners.int(), weights.flatten() / (1 + 2.0 ** -(sides - 1)), every),
    )


def _splat(members: Tensor, shares: Tensor, sizes: Tensor) -> tuple[Bags, Bags]:
    """Sums of the points of each corner, in chunks; members and shares (E,) by corner, sizes (M,), points of each."""
    inside = torch.arange(len(members), device=sizes.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    chunks = (inside % _CHUNK == 0).nonzero()[:, 0].int()
    each = torch.div(sizes + _CHUNK - 1, _CHUNK, rounding_mode="floor")
    every = torch.arange(len(chunks), device=sizes.device, dtype=torch.int32)
    ones = torch.ones(len(chunks), device=sizes.device)
    return Bags(members, shares, chunks), Bags(every, ones, (each.cumsum(0) - each).int())


def _simplices(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex of every point.

    Returns:
        (N, d+1) int64, lattice coordinates of its first corner; (N, d+1) int64, places of the coordinates in the order
        in which they drop by d+1 from corner to corner, last first; (N, d+1) float32, barycentric coordinates.
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
    return base.long(), rank, weights[:, :-1].contiguous()


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
    places = torch.arange(offsets.shape[1], device=offsets.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _codes(base: Tensor, rank: Tensor) -> tuple[Tensor, list[int]]:
    """One number per corner that sorts as its coordinates do, (N, d+1), and the step of each direction.

    Coordinates of corner r are those of the first plus r, less d+1 where the rank is d+1-r or more; the last of them
    follows from the others and has no part in the number.
    """
    sides = base.shape[1]
    low, high = base[:, :-1].aminmax(dim=0)
    margin = 2 * sides + 1  # corners of one simplex, and the neighbours of these
    ranges = (high - low + 2 * margin + 1).tolist()
    if math.prod(ranges) > _LARGEST_CODE:
        raise UserError("crf: positions and colours over their deviations spread too far; raise crf_bilateral_srgb")
    strides = [math.prod(ranges[axis + 1 :]) for axis in range(sides - 1)]
    table = torch.tensor([*strides, 0], device=base.device)
    first = ((base[:, :-1] - low + margin) * table[:-1]).sum(dim=1, keepdim=True)
    drops = torch.empty_like(base).scatter_(1, (sides - rank) % sides, table.expand_as(base))
    drops[:, 0] = 0
    along = torch.arange(sides, device=base.device) * sum(strides)
    return first + along - sides * drops.cumsum(dim=1), [sides * stride - sum(strides) for stride in (*strides, 0)]


def _blur(found: Tensor, step: int) -> Bags:
    """Each corner and half of its neighbours one step before and behind, as far as there are any."""
    count = len(found)
    here = torch.arange(count, device=found.device)
    wanted = found + step
    at = torch.searchsorted(found, wanted).clamp(max=count - 1)
    there = found[at] == wanted
    ahead, behind = torch.full((2, count), count, device=found.device)
    ahead[there], behind[at[there]] = at[there], here[there]
    line = torch.stack([here, ahead, behind], dim=1)
    kept = line < count
    sizes = kept.sum(dim=1)
    halves = torch.tensor([1.0, 0.5, 0.5], device=found.device).expand_as(kept)
    return Bags(line[kept].int(), halves[kept], (sizes.cumsum(0) - sizes).int())
