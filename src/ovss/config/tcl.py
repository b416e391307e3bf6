"""Parameters of a small TCL trained on the procedural world (Cha et al. 2023, "Learning to Generate Text-grounded
Mask")."""

from __future__ import annotations

from pydantic import Field

from ovss.config.base import Strict
from ovss.config.world import Schedule, ViewParams


class TclWeights(Strict):
    """Weights of the terms of TCL's loss."""

    image: float = Field(default=0.1, ge=0, description="texts against images cut out by their hard masks (InfoNCE)")
    feature: float = Field(
        default=0.1, ge=0, description="texts against pixels pooled under every image's and text's mask (InfoNCE)"
    )
    area: float = Field(default=0.4, ge=0, description="sizes of masks: of an own caption, of a foreign one")
    smooth_pixels: float = Field(default=1.0, ge=0, description="total variation of the pixel embeddings")
    smooth_masks: float = Field(default=1.0, ge=0, description="total variation of all soft masks")


class TclTrainParams(Strict):
    """A grounder trained on views of the world, on top of a small CLIP that stays as it is."""

    clip: str = Field(default="clip", description="model of this scale that it is trained on, a key of train.clip")
    views: ViewParams = Field(default=ViewParams(), description="what it sees")
    schedule: Schedule = Field(description="optimiser")
    stages: int = Field(default=1, ge=1, description="decoder stages; a mask has 2^stages pixels per patch and side")
    weights: TclWeights = Field(default=TclWeights(), description="weights of the loss")
    area: float = Field(default=0.4, ge=0, le=1, description="mean share of an image that its own caption is to cover")
    hardness: float = Field(default=1.0, gt=0, description="temperature at which hard masks are drawn (Gumbel)")
    temperature: float = Field(default=0.07, gt=0, description="first temperature of both InfoNCE losses; it is learnt")
    train_block: bool = Field(default=True, description="whether the grounder's copy of CLIP's last block learns too")
    val_views: int = Field(default=64, ge=2, description="held-out views for the curves")
