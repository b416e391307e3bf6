"""The towers of a base model in training: pixel embeddings with gradient, texts cut to their length.

Nothing is computed that the losses do not read: the last attention is MaskCLIP's value path, TCL's copy of the last
CLIP block stands idle, texts end at the last end-of-text of their group, a word that several captions share is encoded
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ovss.models.clip import Clip
from ovss.models.clip_pixels import image_tokens, maskclip_embeddings
from ovss.models.dense import patch_grid
from ovss.models.tcl import TclModel
from ovss.models.text import encode_tokens
from ovss.training.ttd.grounder import pixel_embeddings
from ovss.training.ttd.loss import CLIP_SIGMOID


class Tower(Protocol):
    """What the training step needs of a base model.

    model: adapters are attached here. clip: encodes the texts. sigmoid: slope and offset from cosine to mask. unread:
    layers of ``model`` whose output no loss reads.
    """

    @property
    def model(self) -> nn.Module: ...  # noqa: D102
    @property
    def clip(self) -> Clip: ...  # noqa: D102
    @property
    def sigmoid(self) -> tuple[float, float]: ...  # noqa: D102
    @property
    def unread(self) -> tuple[str, ...]: ...  # noqa: D102

    def pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised RGB -> (B, h, w, D) pixel embeddings of any norm."""


@dataclass(frozen=True)
class MaskClipTower:
    """MaskCLIP as base: CLIP with the value path in its last image block (Zhou et al. 2022, section 3.2)."""

    clip: Clip
    sigmoid: tuple[float, float] = CLIP_SIGMOID

    @property
    def model(self) -> nn.Module:
        """The CLIP model."""
        model: nn.Module = self.clip.model
        return model

    @property
    def unread(self) -> tuple[str, ...]:
        """Query and key of the last image block."""
        last = f"visual.transformer.resblocks.{len(self.clip.visual.transformer.resblocks) - 1}.attn"
        return f"{last}.q_proj", f"{last}.k_proj"

    def pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, h, w, D), one per patch."""
        visual = self.clip.visual
        tokens = image_tokens(visual, images)
        return maskclip_embeddings(visual, tokens, patch_grid(visual, images)).movedim(1, -1)


@dataclass(frozen=True)
class TclTower:
    """TCL as base. ``coarse``: see ``ovss.training.ttd.grounder``."""

    model: TclModel
    coarse: bool = False

    @property
    def clip(self) -> Clip:
        """The CLIP inside."""
        return self.model.clip

    @property
    def sigmoid(self) -> tuple[float, float]:
        """Learned slope and offset of its masks."""
        return float(self.model.grounder.sim2mask.w), float(self.model.grounder.sim2mask.b)

    @property
    def unread(self) -> tuple[str, ...]:
        """CLIP's last image block, whose place the grounder's takes, and query and key of that one."""
        last = f"tower.visual.transformer.resblocks.{len(self.clip.visual.transformer.resblocks) - 1}"
        return last, "grounder.block.attn.q_proj", "grounder.block.attn.k_proj"

    def pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 4h, 4w, D)."""
        tokens, grid = image_tokens(self.clip.visual, images), patch_grid(self.clip.visual, images)
        return pixel_embeddings(self.model.grounder, tokens, grid, self.coarse).movedim(1, -1)


def texts(clip: Clip, lines: Sequence[str]) -> Tensor:
    """(n, D) text embeddings of any norm, with gradient, on the model's device.

    Texts are cut behind the last end-of-text (the largest number of a row) of the group: exact for a causal tower.
    """
    tokens = clip.tokenizer(list(lines))
    return encode_tokens(clip, tokens[:, : int(tokens.argmax(dim=-1).max()) + 1].to(clip.device))


def distinct(words: Sequence[Sequence[str]]) -> tuple[list[str], Tensor, Tensor]:
    """The different words of some captions.

    Returns:
        Words in order of first appearance; their number for every place (B, n) int64, 0 where a shorter caption is
        padded; which places are words (B, n) bool.
    """
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(word, len(numbers)) for word in row] for row in words]
    longest = max(map(len, rows))
    index = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    present = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    return list(numbers), index, present
