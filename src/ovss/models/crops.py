"""Features of crops of windows by the network as trained, each made once however many rows ask for it.

Crops go through the network in batches of one fixed size, the last one filled up with blanks: a matrix product of
another shape may differ in the last bit, and who asks for which crops first depends on the rows of a pass. What rows
announce is encoded with the first crop that anyone asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.models import dense, resnet
from ovss.models.clip import Clip
from ovss.models.features import Features
from ovss.models.position import PositionRule

BATCH = 16
Cut = tuple[int, int, int, int, int]
"""window, y0, x0, y1, x1: half-open, in patches."""


def expect_crops(features: Features, cuts: Sequence[Cut], side: int, position: PositionRule) -> None:
    """Announce crops that will be asked for; arguments as for ``crop_features``."""
    _expected(features).update(dict.fromkeys(_keys(cuts, side, position)))


def crop_features(features: Features, cuts: Sequence[Cut], side: int, position: PositionRule) -> Tensor:
    """Class-token features of crops resized to squares (bilinear, corners not aligned, no antialias).

    Args:
        features: of the windows that are cut.
        cuts: K crops, none of them empty.
        side: pixels of a resized crop.
        position: interpolation of the position embeddings.

    Returns:
        (K, D) float32, unit norm; for a ResNet the mean of its unit patch features.
    """
    keys = _keys(cuts, side, position)
    announced = [key for key in _expected(features) if key[:3] == ("crop", side, position)]
    made = features.many(
        [*keys, *announced], lambda missing: _encode(features, [key[-1] for key in missing], side, position)
    )
    return torch.stack(made[: len(keys)])


def _keys(cuts: Sequence[Cut], side: int, position: PositionRule) -> list[tuple[object, ...]]:
    return [("crop", side, position, cut) for cut in cuts]


def _expected(features: Features) -> dict[tuple[object, ...], None]:
    expected: dict[tuple[object, ...], None] = features.once(("expected crops",), dict)
    return expected


def _encode(features: Features, cuts: Sequence[Cut], side: int, position: PositionRule) -> Iterator[Tensor]:
    patch, windows = features.clip.patch_size, features.windows
    for start in range(0, len(cuts), BATCH):
        part = cuts[start : start + BATCH]
        batch = windows.new_zeros(BATCH, windows.shape[1], side, side)
        for place, (window, y0, x0, y1, x1) in enumerate(part):
            crop = windows[window : window + 1, :, y0 * patch : y1 * patch, x0 * patch : x1 * patch]
            batch[place] = F.interpolate(crop, size=(side, side), mode="bilinear", align_corners=False)[0]
        yield from encode_images(features.clip, batch, position)[: len(part)]


def encode_images(clip: Clip, images: Tensor, position: PositionRule) -> Tensor:
    """Features of whole images, (K, 3, H, W) float32 -> (K, D)."""
    if clip.is_transformer:
        return dense.encode_images(clip.visual, images, position)
    return resnet.resnet_image_features(resnet.resnet_features(clip.visual, images))
