"""Fully connected CRF with Gaussian edges (Krähenbühl and Koltun 2011): mean field, Potts model, filters on a lattice.

Numbers are those of pydensecrf, the implementation that published code uses: symmetric normalisation of the filters, no
lattice point outside the image's own, colours in the order blue, green, red, 32-bit arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.models.lattice import Bags, make_lattice

# Labels are padded to a multiple of this: softmax over 15 is 8 times slower than over 16 on a CPU.
_LABELS = 16


@dataclass(frozen=True)
class Edges:
    """One family of edges between all pixels: a normalised Gaussian kernel, as sums of rows one after the other.

    corners: of the lattice that they were made with.
    """

    steps: tuple[Bags, ...]
    corners: int

    def message(self, values: Tensor) -> Tensor:
        """Sum over all pixels weighted by the kernel, (N, K) float32 -> (N, K)."""
        for step in self.steps:
            values = step(values)
        return values


def make_edges(points: Tensor) -> Edges:
    """Edges between points (N, d) float32, coordinates over their deviations.

    Normalised symmetrically: the kernel's entry (i, j) is divided by the root of both row sums.

    Raises:
        UserError: see ``make_lattice``.
    """
    lattice = make_lattice(points)
    ones = torch.ones(len(points), 1, device=points.device)
    scale = (lattice.filter(ones) + 1e-20).rsqrt()[:, 0]
    first, *between, last = lattice.steps
    steps = (first.weighted(inside=scale), *between, last.weighted(outside=scale))
    if 2 * lattice.corners > len(last.rows):  # most corners have one point, so the kernel has few entries
        steps = (reduce(Bags.then, steps),)
    return Edges(steps, lattice.corners)


@lru_cache(maxsize=4)
def position_edges(size: tuple[int, int], sxy: float, device: torch.device) -> Edges:
    """Edges that depend on positions alone (see ``positions``), the same for all images of a size."""
    return make_edges(positions(size, sxy, device))


def positions(size: tuple[int, int], sxy: float, device: torch.device | str = "cpu") -> Tensor:
    """Pixel coordinates (x, y) over a deviation in pixels, (H*W, 2) float32, row after row."""
    rows, columns = (torch.arange(side, dtype=torch.float32, device=device) / sxy for side in size)
    return torch.stack([columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))], dim=-1).flatten(0, 1)


def positions_and_colours(colours: Tensor, sxy: float, srgb: float) -> Tensor:
    """Points of the bilateral kernel, (H*W, 5) float32.

    Args:
        colours: (H, W, 3) uint8, red, green, blue.
        sxy: deviation of positions in pixels.
        srgb: deviation of colours of 0..255.
    """
    size = (colours.shape[0], colours.shape[1])
    backwards = colours.flatten(0, 1).flip(1).float() / srgb
    return torch.cat([positions(size, sxy, colours.device), backwards], dim=1)


def unary_energy(probabilities: Tensor, clip: float = 1e-5) -> Tensor:
    """-log of probabilities, none below ``clip``: (K, H, W) float32 -> (H*W, K)."""
    return -probabilities.clamp(clip, 1.0).log().flatten(1).T.contiguous()


def mean_field(unary: Tensor, edges: Sequence[tuple[Edges, float]], steps: int) -> Tensor:
    """Marginals after some mean-field steps of the Potts model.

    Args:
        unary: (N, K) float32, energy of every label at every pixel.
        edges: kernels with the weight of a disagreement.
        steps: how often messages are sent.

    Returns:
        (N, K) float32, rows add to 1.
    """
    labels = unary.shape[1]
    start = F.pad(-unary, (0, -labels % _LABELS), value=-torch.inf)
    marginals = torch.softmax(start, dim=1)
    for _ in range(steps):
        energy = start.clone()
        for kernel, weight in edges:
            energy.add_(kernel.message(marginals), alpha=weight)
        marginals = torch.softmax(energy, dim=1)
    return marginals[:, :labels]
