"""TCL's grounder with the first convolution of a stage on the coarse grid, an option of training.

Source: TCL (Cha et al. 2023, section 3.2). A stage doubles the resolution by repetition and adds two gated units
y + tanh(g) conv3x3(GELU(LN(y))). Normalisation and activation act on single cells, so before the first convolution they
commute with the repetition; what remains is a 3x3 convolution of repeated cells, which is four 2x2 convolutions of the
coarse grid, one for each place in a doubled cell: 4/9 of the multiplications.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovss.models.clip_pixels import value_tokens
from ovss.models.grounder import Grounder
from ovss.training.ttd.lora import ADAPTER


def phase_kernels(kernel: Tensor) -> Tensor:
    """A 3x3 kernel on repeated cells as 2x2 kernels on the cells: (O, I, 3, 3) -> (4, O, I, 2, 2), raster order.

    Of the three taps around the first of two equal cells two fall on the cell itself; around the second likewise.
    """
    first = kernel.new_tensor([[1, 0, 0], [0, 1, 1]])
    folds = torch.stack([first, first.flip(0, 1)])
    phases = torch.einsum("ayk,oikl,bxl->aboiyx", folds, kernel, folds)
    return phases.flatten(0, 1)


def conv_of_doubled(cells: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """conv3x3 of the doubled cells, padded by one zero: (B, I, h, w) -> (B, O, 2h, 2w), equal up to rounding."""
    height, width = cells.shape[-2:]
    phases = phase_kernels(kernel)
    joint = F.conv2d(F.pad(cells, (1, 1, 1, 1)), phases.flatten(0, 1), None if bias is None else bias.repeat(4))
    parts = joint.unflatten(1, (2, 2, kernel.shape[0]))
    rows = [torch.stack([parts[:, a, b, :, a : a + height, b : b + width] for b in (0, 1)], dim=-1) for a in (0, 1)]
    return torch.stack(rows, dim=-3).flatten(-2).flatten(-3, -2)


def layer_on_doubled(layer: Any, cells: Tensor) -> Tensor:
    """A 3x3 convolution layer, with or without adapters, on doubled cells.

    The adapter stays a branch of its own: folding it into the kernel would cost a gradient of the whole kernel.
    """
    if isinstance(layer, nn.Conv2d):
        return conv_of_doubled(cells, layer.weight, layer.bias)
    inner, outer = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    change: Tensor = outer(conv_of_doubled(cells, inner.weight, None)) * layer.scaling[ADAPTER]
    return conv_of_doubled(cells, layer.base_layer.weight, layer.base_layer.bias) + change


def coarse_stage(layers: Any, cells: Tensor) -> Tensor:
    """A stage with its first convolution on the coarse grid: (B, d, h, w) -> (B, d, 2h, 2w), equal up to rounding."""
    unit = layers.conv
    normed = unit.norm(cells.movedim(1, -1)).movedim(-1, 1)
    doubled = F.interpolate(cells, scale_factor=2, mode="nearest")
    grown: Tensor = layers.conv2(doubled + unit.gate(layer_on_doubled(unit.conv, F.gelu(normed))))
    return grown


def pixel_embeddings(grounder: Grounder, tokens: Tensor, grid: tuple[int, int], coarse: bool) -> Tensor:
    """The grounder on the tokens before CLIP's last block: (B, 1 + h*w, d) -> (B, D, f*h, f*w).

    ``coarse``: the first convolution of every stage on the coarse grid.
    """
    if not coarse:
        return grounder(tokens, grid)
    cells = value_tokens(grounder.block, tokens[:, 1:]).transpose(1, 2).unflatten(2, grid)
    for layers in grounder.decoder.net:
        cells = coarse_stage(layers, cells)
    return grounder.image_proj(cells)
