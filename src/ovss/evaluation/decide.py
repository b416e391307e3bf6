"""From patch scores of windows to a class per pixel: the two public baseline protocols, one function.

SCLIP's and ClearCLIP's post-processing: scores at the wanted size times the logit scale, softmax over all queries, per
class the largest of its queries, arg max; pixels whose winner is below a probability become class 0; SCLIP also drops
classes that cover too little of the foreground. The arg max needs no softmax, and the winner's probability is
exp(max - logsumexp) of the scaled scores; so nothing but the scores of a band of rows is ever held.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovss.evaluation.protocol import Protocol
from ovss.models.text import Vocabulary
from ovss.models.windows import Grid, stitch_columns, stitch_rows

# Score values held at once (rows of a band x queries x columns).
BAND_VALUES = 1 << 20


def decide(
    scores: Tensor, grid: Grid, size: tuple[int, int], vocabulary: Vocabulary, protocol: Protocol
) -> npt.NDArray[np.integer]:
    """Class per pixel from cosine scores of the patches of all windows of an image.

    Args:
        scores: (windows, h*w, Q) float32 cosines.
        grid: where the windows lie.
        size: (H, W) at which to decide.
        vocabulary: queries and their classes.
        protocol: logit scale and thresholds.

    Returns:
        (H, W) uint8, or int16 for more than 256 classes.
    """
    columns = stitch_columns(scores * protocol.logit_scale, grid, size[1])
    winners, certainty = _winners(columns, grid, size, protocol)
    labels = vocabulary.query_class[winners]
    if protocol.area_threshold > 0:
        kept = _large_enough(labels, vocabulary.num_classes, protocol.area_threshold)
        if not bool(kept.all()):
            winners, certainty = _winners(columns, grid, size, protocol, ~kept[vocabulary.query_class])
            labels = vocabulary.query_class[winners]
    if certainty is not None:
        labels = torch.where(certainty < protocol.prob_threshold, 0, labels)
    kind = torch.uint8 if vocabulary.num_classes <= 256 else torch.int16
    return labels.to(kind).cpu().numpy()


def _winners(
    columns: Tensor, grid: Grid, size: tuple[int, int], protocol: Protocol, suppressed: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Best query of each pixel and its probability, (H, W) each; no probability where no threshold asks for one.

    Queries are in class order, so the first best query belongs to the first best class: ties go to the lower class.
    Suppressed queries cannot win and still take part in the softmax.
    """
    best, certainty = [], []
    rows = max(1, BAND_VALUES // (columns.shape[1] * columns.shape[2]))
    for start in range(0, size[0], rows):
        band = stitch_rows(columns, grid, size[0], start, start + rows)
        total = torch.logsumexp(band, dim=1) if protocol.prob_threshold > 0 else None
        if suppressed is not None:
            band[:, suppressed] = -torch.inf
        top, index = band.max(dim=1)
        best.append(index)
        if total is not None:
            certainty.append(torch.exp(top - total))
    return torch.cat(best), torch.cat(certainty) if certainty else None


def _large_enough(labels: Tensor, num_classes: int, threshold: float) -> Tensor:
    """(C,) bool: class 0, and classes that cover more than ``threshold`` of the pixels not of class 0."""
    area = torch.bincount(labels.flatten(), minlength=num_classes)
    area[0] = 0
    kept = area > threshold * area.sum()
    kept[0] = True
    return kept
