"""Which classes stay (FreeCP, section 3.3): redundancy by consistency before and after refinement, ambiguity by crops.

Shapes: W windows, F classes without the background, n = h*w patches in raster order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ovss.methods._freecp_boxes import Border, boxes, bright

Consistency = Literal["code", "iou"]


@dataclass(frozen=True)
class Region:
    """One box in which the classes of a group look alike.

    window: its number. members: classes of the group, ascending. box: (y0, x0, y1, x1) in patches, half-open.
    """

    window: int
    members: tuple[int, ...]
    box: tuple[int, int, int, int]

    @property
    def empty(self) -> bool:
        """Whether no patch is inside."""
        y0, x0, y1, x1 = self.box
        return y0 >= y1 or x0 >= x1


def consistency(before: Tensor, after: Tensor, form: Consistency, epsilon: float) -> Tensor:
    """How much a class's map stays what it was, (W, F, n) twice -> (W, F).

    code: sum(p r) / (sum p + sum r), at most 1/2. iou: sum(p r) / (sum p + sum r - sum(p r)), the paper's words.
    """
    both = (before * after).sum(dim=2)
    total = before.sum(dim=2) + after.sum(dim=2) + epsilon
    return both / (total if form == "code" else total - both)


def overlaps(maps: Tensor, form: Consistency) -> Tensor:
    """Overlap of every two of (S, n) maps, (S, S): min over max (code), or product over union (iou). Empty pairs: 0."""
    sums = maps.sum(dim=1)
    total = sums[:, None] + sums[None, :]
    if form == "code":
        # min(a, b) = (a + b - |a - b|) / 2 and max(a, b) = (a + b + |a - b|) / 2, summed over patches.
        apart = torch.cdist(maps, maps, p=1)
        shared, joint = (total - apart) / 2, (total + apart) / 2
    else:
        shared = maps @ maps.T
        joint = total - shared
    return torch.where(joint > 0, shared / joint, 0.0)


def groups(maps: Tensor, classes: Sequence[int], limit: float, form: Consistency) -> list[tuple[int, ...]]:
    """Classes of one window that look alike, as connected components of "overlap >= limit".

    Args:
        maps: (F, n) refined maps.
        classes: the classes that are left, ascending.
        limit: the paper's second threshold.
        form: which overlap.

    Returns:
        Groups of two or more classes, each ascending, in the order of their first class.
    """
    if len(classes) < 2:
        return []
    reach = (overlaps(maps[list(classes)], form) >= limit).cpu().numpy()
    np.fill_diagonal(reach, True)
    if reach.sum() == len(reach):
        return []
    # Classes reached in ever more steps, until there are no more.
    while not np.array_equal(reach, wider := reach @ reach):
        reach = wider
    members = {tuple(classes[i] for i in np.flatnonzero(row).tolist()) for row in reach}
    return sorted(group for group in members if len(group) > 1)


def regions(
    maps: Tensor, found: Sequence[tuple[int, tuple[int, ...]]], grid: tuple[int, int], threshold: float, border: Border
) -> list[Region]:
    """Boxes of the mean map of every group, one by one, holes too.

    Args:
        maps: (W, F, n) refined maps.
        found: (window, classes) of every group.
        grid: (h, w).
        threshold: box threshold.
        border: see ``boxes``.
    """
    if not found:
        return []
    means = torch.stack([maps[window, list(members)].mean(dim=0) for window, members in found]).unflatten(1, grid)
    rows = boxes(bright(means, threshold), border, holes=True).tolist()
    return [Region(found[number][0], found[number][1], (y0, x0, y1, x1)) for number, y0, x0, y1, x1 in rows]


def contested(found: Sequence[Region]) -> list[Region]:
    """Regions of the groups that have no empty one: an empty region keeps its whole group, whatever the others say."""
    settled = {(region.window, region.members) for region in found if region.empty}
    return [region for region in found if (region.window, region.members) not in settled]


def keep_groups(kept: Tensor, found: Sequence[Region], winners: Sequence[int | None]) -> Tensor:
    """Released rule: a member of a group stays where it wins a region, (W, F) bool -> (W, F) bool.

    Args:
        kept: classes that are left.
        found: regions of the groups to decide, see ``contested``.
        winners: winning class of each region.
    """
    stays = kept.clone()
    for region in found:
        stays[region.window, list(region.members)] = False
    for region, winner in zip(found, winners, strict=True):
        stays[region.window, winner] = True
    return stays


def clear_regions(
    maps: Tensor, found: Sequence[Region], winners: Sequence[int | None], grid: tuple[int, int]
) -> Tensor:
    """The paper's words: losers are set to zero inside the region alone, (W, F, n) -> (W, F, n)."""
    cleared = maps.clone().unflatten(2, grid)
    for region, winner in zip(found, winners, strict=True):
        losers = [member for member in region.members if winner is not None and member != winner]
        y0, x0, y1, x1 = region.box
        cleared[region.window, losers, y0:y1, x0:x1] = 0.0
    return cleared.flatten(2)
