"""Class maps of windows and their refinement by affinity (FreeCP, section 3.2, equations 1 to 3, and its release).

Shapes: W windows, n = h*w patches in raster order, Q queries, F classes without the background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ovss.methods._freecp_boxes import Border, box_mask

Activation = Literal["softmax", "cosine"]
AffinityForm = Literal["code", "average"]


@dataclass(frozen=True)
class ClassMaps:
    """prob, scaled, refined: (W, F, n) float32: maps before refinement, the same rescaled to 0..1, and refined."""

    prob: Tensor
    scaled: Tensor
    refined: Tensor


def query_maps(
    patches: Tensor, text: Tensor, scale: float, activation: Activation, allowed: Tensor | None = None
) -> Tensor:
    """Maps of all queries, the background's too: softmax over queries (release) or plain cosines (paper).

    Args:
        patches: (W, n, D) unit patch features.
        text: (Q, D) unit text features.
        scale: factor on cosines before the softmax.
        activation: which of the two.
        allowed: (W, Q) bool, queries that a window's vocabulary has; None: all of them.

    Returns:
        (W, Q, n); a query that is not allowed is -inf among cosines, 0 among probabilities.
    """
    cosines = text @ patches.transpose(1, 2)
    if allowed is not None:
        cosines = cosines.masked_fill(~allowed[:, :, None], -torch.inf)
    if activation == "cosine":
        return cosines
    return torch.softmax(scale * cosines, dim=1).nan_to_num(nan=0.0)


def min_max(maps: Tensor, allowed: Tensor | None = None) -> Tensor:
    """One minimum and one maximum over all queries and patches of a window, (W, Q, n) -> (W, Q, n) in 0..1.

    Without epsilon, as released. A window whose maps are constant keeps them clamped to 0..1 (the release divides by
    zero there; it takes a vocabulary of a single query). Queries that are not allowed are 0.
    """
    inside = torch.ones_like(maps[:, :, :1], dtype=torch.bool) if allowed is None else allowed[:, :, None]
    low = maps.masked_fill(~inside, torch.inf).amin(dim=(1, 2), keepdim=True)
    high = maps.masked_fill(~inside, -torch.inf).amax(dim=(1, 2), keepdim=True)
    spread = high - low
    scaled = torch.where(spread > 0, (maps - low) / spread, maps.clamp(0, 1))
    return scaled.masked_fill(~inside, 0.0)


def class_maps(maps: Tensor, query_class: Tensor, num_background: int) -> Tensor:
    """Maps of the classes without the background: the largest over a class's queries, (W, Q, n) -> (W, F, n)."""
    classes = query_class[num_background:] - (1 if num_background else 0)
    front = maps[:, num_background:]
    count = int(classes[-1]) + 1
    if count == len(classes):
        return front
    index = classes[None, :, None].expand_as(front)
    return front.new_full((len(front), count, front.shape[2]), -torch.inf).scatter_reduce(1, index, front, "amax")


def balanced(affinity: Tensor, rounds: int, epsilon: float) -> Tensor:
    """Columns then rows divided by their sums, ``rounds`` times, then made symmetric: (W, n, n) -> (W, n, n) float64.

    Sums below ``epsilon`` count as epsilon; an attention matrix has none, masks of other models may. In double
    precision, because what is near even leaves small differences to the rescaling that follows.
    """
    flow = affinity.double()
    for _ in range(rounds):
        flow = flow / flow.sum(dim=1, keepdim=True).clamp_min(epsilon)
        flow = flow / flow.sum(dim=2, keepdim=True).clamp_min(epsilon)
    return (flow + flow.transpose(1, 2)) / 2


def transition(affinity: Tensor, rounds: int, epsilon: float) -> Tensor:
    """The release's transition matrix: balanced, then squared, (W, n, n) -> (W, n, n) float64."""
    once = balanced(affinity, rounds, epsilon)
    return once @ once


def spread(maps: Tensor, flow: Tensor, steps: int, epsilon: float) -> Tensor:
    """Maps carried along ``flow`` (rows = targets) ``steps`` times, then each rescaled to 0..1.

    Applying the balanced matrix twice is the squared one applied once, and cheaper for fewer classes than patches.

    Args:
        maps: (W, F, n), masked.
        flow: (W, n, n).
        steps: number of applications.
        epsilon: keeps the maps of a class without any box at 0.

    Returns:
        (W, F, n) float32; the products are in double precision.
    """
    flow, carried = flow.double().transpose(1, 2), maps.double()
    for _ in range(steps):
        carried = carried @ flow
    low, high = carried.amin(dim=2, keepdim=True), carried.amax(dim=2, keepdim=True)
    return ((carried - low) / (high - low + epsilon)).float()


def masked(maps: Tensor, grid: tuple[int, int], threshold: float, border: Border) -> Tensor:
    """(W, F, n) maps, zero outside the boxes of each."""
    return maps * box_mask(maps.unflatten(2, grid), threshold, border).flatten(2)
