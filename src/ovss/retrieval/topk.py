"""A running top-n with one answer on every device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NOTHING = -(1 << 63)
"""Key of an empty place: below that of every score."""
_ID = (1 << 32) - 1


class TopK:
    """The best ``keep`` rows of each query so far, as one sortable whole number a row.

    The upper half of a key is the score's float32 bits in an order-preserving form, the lower half counts row numbers
    downwards. So no two keys are equal, and the largest keys are the best scores with ties by ascending row number,
    whatever the order of merging and whatever a device's top-k does with ties. Rows are numbered below 2**32.
    """

    def __init__(self, queries: int, keep: int, device: str | torch.device = "cpu") -> None:
        self.keys = torch.full((queries, keep), NOTHING, dtype=torch.int64, device=device)

    def merge(self, scores: Tensor, first_id: int, first_query: int = 0) -> None:
        """Take in scores (B, R) float32 of queries ``first_query``... and rows ``first_id``...; NaN is never taken."""
        best = self.keys[first_query : first_query + len(scores)]
        worst, _ = _decode(best[:, -1:])
        row, column = torch.nonzero(scores >= worst, as_tuple=True)
        if not len(row):
            return
        count = torch.bincount(row, minlength=len(best))
        place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        new = torch.full((len(best), int(count.max())), NOTHING, dtype=torch.int64, device=row.device)
        new[row, place] = _encode(scores[row, column], column + first_id)
        best.copy_(torch.cat((best, new), dim=1).topk(best.shape[1], dim=1).values)

    def result(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """(row numbers (Q, keep) int64, scores (Q, keep) float32), best first; -1 and -inf where there are no more."""
        scores, ids = _decode(self.keys)
        return ids.cpu().numpy(), scores.cpu().numpy()


def _encode(scores: Tensor, ids: Tensor) -> Tensor:
    bits = (scores + 0.0).view(torch.int32)  # adding zero turns -0.0 into 0.0: equal scores, equal bits
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (_ID - ids)


def _decode(keys: Tensor) -> tuple[Tensor, Tensor]:
    ordered = (keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    empty = keys == NOTHING
    return scores.masked_fill(empty, -torch.inf), (_ID - (keys & _ID)).masked_fill(empty, -1)
