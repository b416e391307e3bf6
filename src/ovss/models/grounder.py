"""TCL's grounder: from CLIP's patch tokens to pixel embeddings (Cha et al. 2023, section 3.2, and its code).

Modules and parameters have the names of the published checkpoint. Shapes: B images, D joint dimension, d width, h and w
patches.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovss.errors import UserError
from ovss.models.clip_pixels import value_tokens

CONFIG_FILE = "tcl_config.json"
WEIGHTS_FILE = "grounder.safetensors"
STAGES = 2
# What the two learned numbers of the mask start from.
SLOPE, OFFSET = 10.0, -2.5


class Gate(nn.Module):
    """tanh(g) times the input; g starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, pixels: Tensor) -> Tensor:
        """Any shape."""
        return self.gate.tanh() * pixels


class GatedConv(nn.Module):
    """y + tanh(g) * conv3x3(GELU(LN(y))), LN over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.gate = Gate()

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, d, h, w)."""
        normed = self.norm(pixels.movedim(1, -1)).movedim(-1, 1)
        return pixels + self.gate(self.conv(F.gelu(normed)))


class Stage(nn.Module):
    """Twice the size by the nearest pixel, then two gated convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = GatedConv(width)
        self.conv2 = GatedConv(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, d, 2h, 2w)."""
        return self.conv2(self.conv(F.interpolate(pixels, scale_factor=2, mode="nearest")))


class Decoder(nn.Module):
    """Stages one after the other."""

    def __init__(self, width: int, stages: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*(Stage(width) for _ in range(stages)))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, d, f*h, f*w), f = 2^stages."""
        return self.net(pixels)


class Projection(nn.Module):
    """LN and a matrix to the joint space, per pixel; both start as CLIP's own."""

    def __init__(self, width: int, joint: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, joint))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, D, h, w)."""
        return (self.ln(pixels.movedim(1, -1)) @ self.proj).movedim(-1, 1)


class SimToMask(nn.Module):
    """sigmoid(w * cosine + b)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(SLOPE))
        self.b = nn.Parameter(torch.tensor(OFFSET))

    def forward(self, similarity: Tensor) -> Tensor:
        """Cosines of any shape -> soft masks in 0..1."""
        return torch.sigmoid(self.w * similarity + self.b)


class Grounder(nn.Module):
    """From CLIP's tokens before its last block to pixel embeddings: a block of its own, decoder, projection."""

    def __init__(self, visual: Any, stages: int = STAGES) -> None:
        super().__init__()
        width, joint = visual.proj.shape
        self.block = copy.deepcopy(visual.transformer.resblocks[-1])
        self.decoder = Decoder(width, stages)
        self.image_proj = Projection(width, joint)
        self.sim2mask = SimToMask()
        self.factor = 2**stages

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, 1 + h*w, d), class token first -> (B, D, f*h, f*w), of any length."""
        patches = value_tokens(self.block, tokens[:, 1:]).transpose(1, 2).unflatten(2, grid)
        return self.image_proj(self.decoder(patches))


def make_grounder(visual: Any, state: Mapping[str, Tensor], stages: int, name: str) -> Grounder:
    """A grounder with these weights, float32.

    Raises:
        UserError: missing, surplus or misshapen tensors.
    """
    grounder = Grounder(visual, stages)
    try:
        grounder.load_state_dict({key: value.float() for key, value in state.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: grounder and CLIP do not fit: {reason:.300}") from error
    return grounder
