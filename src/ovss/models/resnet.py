"""Patch features of a CLIP ResNet, MaskCLIP's way (Zhou et al. 2022, section 3.2; FreeCP's unused ResNet tower)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

STRIDE = 32


def resnet_features(visual: Any, windows: Tensor) -> Tensor:
    """Unit-norm features: the attention pool's value and output projections as 1x1 convolutions, no position table.

    Args:
        visual: open_clip ModifiedResNet.
        windows: (W, 3, Hc, Wc) float32, normalised RGB.

    Returns:
        (W, h*w, D) float32, h = Hc // 32, w = Wc // 32; pixels that fill no position are dropped, as in a transformer.
    """
    height, width = (side // STRIDE * STRIDE for side in windows.shape[-2:])
    maps = visual.stem(windows[:, :, :height, :width])
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        maps = stage(maps)
    pool = visual.attnpool
    return F.normalize(pool.c_proj(pool.v_proj(maps.flatten(2).transpose(1, 2))), dim=-1)


def resnet_image_features(patches: Tensor) -> Tensor:
    """Features of whole windows: the mean of their unit patch features, (W, n, D) -> (W, D), not normalised again."""
    return patches.mean(dim=1)
