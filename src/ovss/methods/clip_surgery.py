"""CLIP Surgery's scores of classes over an image (Li et al. 2023; TTD, Table 10, reproduced by TTD's authors).

Architecture surgery: a second path collects, beside the network as trained, what the attention of values to values
gives in the last blocks, without their feed-forward. Feature surgery: what an image has in common with every class is
taken off; without a list of classes that is its similarity to an empty sentence (TTD, footnote 5). The class token
comes from the path as trained, the patches from the new one, as in the released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.errors import UserError
from ovss.models.clip import Clip
from ovss.models.dense import attend, joint_features, merge_heads, patch_grid, split_heads, standard_block
from ovss.models.maskclip_map import MaskClipModel
from ovss.models.templates import templates
from ovss.models.text import fill, mean_feature

Correction = Literal["empty_sentence", "class_list", "none"]
Score = Literal["class_token", "best_patch"]
Position = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Settings:
    """Every constant of the method.

    correction: what is taken off, the similarity to an empty sentence (TTD), the weighted mean over the classes (CLIP
    Surgery, equation 8, as its code has it), or nothing. empty_templates: what the empty sentence is put into.
    temperature: of the classes' weights. score: that of the class token, as CLIP Surgery's authors describe their own
    evaluation (xmed-lab/CLIP_Surgery#16), or that of the best patch, which alone sees the new path. blocks: how many
    of the last blocks have it (all of a network with fewer). position: how position embeddings come to another grid.

    Raises:
        UserError: a name that is not known, or a number out of range.
    """

    correction: Correction = "empty_sentence"
    empty_templates: str = "openai80"
    temperature: float = 2.0
    score: Score = "class_token"
    blocks: int = 6
    position: Position = "bilinear"

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        for name, names in (("correction", Correction), ("score", Score), ("position", Position)):
            if getattr(self, name) not in get_args(names):
                raise UserError(f"settings.{name}: '{getattr(self, name)}' is not one of {', '.join(get_args(names))}")
        if self.blocks < 1:
            raise UserError(f"settings.blocks: {self.blocks} is out of range; give 1 or more")
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"settings.temperature: {self.temperature} is out of range; give a positive number")


def class_scores(model: Clip | MaskClipModel, image: Tensor, text: Tensor, settings: Settings) -> Tensor:
    """How much an image shows each class; comparable between images, so a class's images can be ranked.

    Args:
        model: CLIP with its text tower.
        image: (3, H, W) float32, normalised RGB, on the model's device.
        text: (N, D) float32, class embeddings of any length.
        settings: see ``Settings``.

    Returns:
        (N,) float32.

    Raises:
        UserError: the model's vision tower is a ResNet.
    """
    clip = model if isinstance(model, Clip) else model.clip
    if not clip.is_transformer:
        raise UserError("method clip_surgery: this model has a ResNet tower; use a CLIP with a transformer")
    classes = F.normalize(text, dim=-1)
    features = surgery_features(clip.visual, image[None], settings)[0]
    features = features[:1] if settings.score == "class_token" else features[1:]
    if settings.correction == "class_list":
        similarity = corrected_by_classes(features @ classes.T, settings.temperature)
    elif settings.correction == "empty_sentence":
        similarity = features @ (classes - empty_sentence(clip, settings.empty_templates)).T
    else:
        similarity = features @ classes.T
    return similarity.amax(dim=0)


@lru_cache(maxsize=1)
def empty_sentence(clip: Clip, name: str) -> Tensor:
    """The unit feature of no words in templates of that name, (D,); made once for a model."""
    return mean_feature(clip, fill("", templates(name)))


def corrected_by_classes(similarity: Tensor, temperature: float) -> Tensor:
    """Feature surgery by the list of classes: cosines (n, N) of tokens -> (n, N).

    A class's weight is its share of the softmax over the classes times their number; the released code weighs both
    the cosines and the mean that is taken off them.
    """
    shares = (temperature * similarity).softmax(dim=-1)
    weighted = similarity * shares / shares.mean(dim=-1, keepdim=True)
    return weighted - weighted.mean(dim=-1, keepdim=True)


def surgery_features(visual: Any, images: Tensor, settings: Settings) -> Tensor:
    """Unit features of the class token (path as trained) and of the patches (new path), (B, 3, H, W) -> (B, 1+n, D)."""
    tokens = _embed(visual, images, settings.position)
    blocks = visual.transformer.resblocks
    start = max(0, len(blocks) - settings.blocks)
    path = tokens
    for number, block in enumerate(blocks):
        heads = split_heads(block, tokens)
        if number == start:
            path = tokens
        if number >= start:
            path = path + block.ls_1(merge_heads(block, attend(heads.value, heads.value, heads.value)))
        tokens = standard_block(block, tokens, heads)
    return joint_features(visual, torch.cat([tokens[:, :1], path[:, 1:]], dim=1))


def _embed(visual: Any, images: Tensor, position: Position) -> Tensor:
    patches = visual.conv1(images).flatten(2).transpose(1, 2)
    grid, native, table = patch_grid(visual, images), tuple(visual.grid_size), visual.positional_embedding
    if grid != native:
        places = table[1:].float().T.reshape(1, -1, *native)
        resized = F.interpolate(places, grid, mode=position, align_corners=False)
        table = torch.cat([table[:1], resized[0].flatten(1).T.to(table.dtype)])
    first = visual.class_embedding.expand(len(images), 1, -1)
    return visual.ln_pre(torch.cat([first, patches], dim=1) + table)
